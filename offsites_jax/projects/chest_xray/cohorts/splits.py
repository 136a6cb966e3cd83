"""Splits by patient.

A patient's split follows from a salted hash of site and number alone: it stays the same when images are
added, on every machine, in any order.
"""

import dataclasses
import functools
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.tables.case import Case

FRACTIONS: Mapping[str, float] = {"train": 0.8, "tune": 0.1, "test": 0.1}


class Share(NamedTuple):
    """A split in numbers.

    Attributes:
      split: its name.
      patients: how many.
      images: how many.
      abnormal: share of the images whose label is known; nan if none is.
      findings: share of the images with each finding, of those where it is known.

    """

    split: str
    patients: int
    images: int
    abnormal: float
    findings: Mapping[str, float]


def position(patient_id: str, site: str = "", salt: str = "") -> float:
    """Where a patient stands in [0, 1): salted SHA-256 of site and number.

    Raises:
      UserError: the number is empty.

    """
    if not patient_id.strip():
        raise UserError("patient_id: empty; splits go by patient, so every image needs one")
    parts = (part.encode() for part in (salt, site, patient_id.strip()))
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    # 53 bits: every value is an exact float below 1.
    return (int.from_bytes(hashlib.sha256(message).digest()[:8], "big") >> 11) / 2**53


def assign(cases: Iterable[Case], fractions: Mapping[str, float] = FRACTIONS, salt: str = "") -> list[Case]:
    """Cases with their patients' splits.

    Args:
      cases: with patient numbers.
      fractions: share of the patients by split, in order; they add up to 1.
      salt: another one gives another split.

    Raises:
      UserError: fractions that do not add up, or a patient without number.

    """
    if not fractions or min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-9:
        raise UserError(f"fractions: {dict(fractions)} have to be 0 or more and add up to 1")
    names, ends = list(fractions), np.cumsum(list(fractions.values()))
    ends[-1] = 1

    @functools.cache
    def split_of(site: str, patient_id: str) -> str:
        return names[int(np.searchsorted(ends, position(patient_id, site, salt), "right"))]

    return [dataclasses.replace(case, split=split_of(case.site, case.patient_id)) for case in cases]


def across(trained: Iterable[Case], tested: Iterable[Case], tune: float = 0.1, salt: str = "") -> list[Case]:
    """Cases of one hospital to train and tune on, and those of another to test on.

    Args:
      trained: of the one, each with its site.
      tested: of the other; all of them are tested on.
      tune: share of the patients of the one to choose thresholds on.
      salt: another one gives another share.

    Raises:
      UserError: a site is blank, or both have it: patients could not be told apart; as `assign`.

    """
    own = assign(trained, {"train": 1 - tune, "tune": tune}, salt)
    others = [dataclasses.replace(case, split="test") for case in tested]
    sites = {case.site for case in own}, {case.site for case in others}
    shared = sites[0] & sites[1]
    if shared or "" in sites[0] | sites[1]:
        raise UserError(
            f"site: {sorted(shared or {''})[0]!r} on both sides or blank; every manifest needs the name of "
            "its own hospital there, as numbers of patients repeat"
        )
    return own + others


def draw_patients(
    labels: Bool[np.ndarray, " images"], patients: Sequence[str], fraction: float, seed: int
) -> Int[np.ndarray, " chosen"]:
    """Images of a share of the patients, drawn from patients with and without the finding alike.

    At least two of each are drawn, as nothing can be learnt from fewer.

    Raises:
      UserError: there are not two of each.

    """
    positive = {patient for patient, label in zip(patients, labels, strict=True) if label}
    groups = sorted(positive), sorted(set(patients) - positive)
    if min(map(len, groups)) < 2:
        raise UserError("training patients: at least two with the finding and two without are needed")
    rng = np.random.default_rng(seed)
    # One order for each seed: a larger share holds the smaller one.
    orders = [rng.permutation(group) for group in groups]
    kept = {str(name) for order in orders for name in order[: max(2, round(fraction * len(order)))]}
    return np.flatnonzero([patient in kept for patient in patients])


def shares(cases: Iterable[Case]) -> list[Share]:
    """How many patients, images and findings each split has, to see that none is odd."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.split].append(case)
    return [_share(split, group) for split, group in sorted(groups.items())]


def _share(split: str, cases: Sequence[Case]) -> Share:
    known = [case.label for case in cases if case.label is not None]
    told, present = Counter[str](), Counter[str]()
    for case in cases:
        told.update(name for name, value in case.findings.items() if value is not None)
        present.update(name for name, value in case.findings.items() if value)
    patients = len({(case.site, case.patient_id) for case in cases})
    abnormal = sum(known) / len(known) if known else float("nan")
    return Share(split, patients, len(cases), abnormal, {name: present[name] / told[name] for name in told})
