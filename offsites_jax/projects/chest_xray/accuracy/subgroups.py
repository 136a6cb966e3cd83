"""The same figures for parts of the cases: by sex, age, view, site or device."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from offsites_jax.projects.chest_xray.accuracy.operating import Confusion, confusion, flag
from offsites_jax.projects.chest_xray.accuracy.roc import Auc, Labels, Scores, delong

LEAST = 10  # cases of a class below which a group says nothing
AGE_EDGES = (18, 40, 65)
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Group:
    """Cases that share a value.

    Attributes:
      column: what they share.
      value: which one.
      positives: abnormal cases.
      negatives: normal cases.
      auc: area under the ROC curve; None where a class has too few.
      confusions: by name of the operating point; none where a class has too few.

    """

    column: str
    value: str
    positives: int
    negatives: int
    auc: Auc | None
    confusions: dict[str, Confusion]


def by_group(
    column: str, values: Sequence[str], labels: Labels, scores: Scores, thresholds: dict[str, float]
) -> list[Group]:
    """Figures of every value of a column, in order; none of a group with fewer than `LEAST` of a class."""
    names = np.array([value.strip() or UNKNOWN for value in values])
    return [
        _group(column, str(name), labels[names == name], scores[names == name], thresholds)
        for name in np.unique(names)
    ]


def _group(column: str, value: str, labels: Labels, scores: Scores, thresholds: dict[str, float]) -> Group:
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if min(positives, negatives) < LEAST:
        return Group(column, value, positives, negatives, None, {})
    found = {name: confusion(labels, flag(scores, level)) for name, level in thresholds.items()}
    return Group(column, value, positives, negatives, delong(labels, scores), found)


def age_bands(ages: Sequence[str], edges: Sequence[int] = AGE_EDGES) -> list[str]:
    """Band of each age in years, such as `40-64`; text that is no age, as `unknown`.

    Ages may be written as DICOM writes them: `058Y`, `011M`, `003W`, `004D`.
    """
    bounds = [0, *edges]
    last = f"{bounds[-1]}+"
    names = [f"{low}-{high - 1}" for low, high in itertools.pairwise(bounds)] + [last]
    found = [_years(age) for age in ages]
    return [
        UNKNOWN if years is None else names[int(np.searchsorted(edges, years, "right"))] for years in found
    ]


def _years(age: str) -> float | None:
    text = age.strip().upper()
    unit = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}.get(text[-1:], 0.0)
    number = text[:-1] if unit else text
    try:
        years = float(number) * (unit or 1.0)
    except ValueError:
        return None
    return years if 0 <= years < 150 else None
