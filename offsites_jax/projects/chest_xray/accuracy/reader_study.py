"""Radiologists beside the model: their points on the ROC plane, and how much they agree."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.accuracy.operating import Confusion, confusion, sensitivity_at
from offsites_jax.projects.chest_xray.accuracy.roc import Labels, Scores
from offsites_jax.projects.chest_xray.tables.scored import Cases, Rows, columns_of, truth_of

Votes = Int[np.ndarray, "readers cases"]  # 1 abnormal, 0 normal, -1 not read


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader against the reference, and the model on the same cases.

    Attributes:
      name: of the reader.
      confusion: of the cases that the reader read.
      model_sensitivity: of the model, at the specificity of the reader; None where that cannot be said.
      kappa: Cohen's, with the reference.

    """

    name: str
    confusion: Confusion
    model_sensitivity: float | None
    kappa: float | None


def compare_readers(names: Sequence[str], votes: Votes, reference: Labels, scores: Scores) -> list[Reader]:
    """Each reader against the reference, beside the model on the cases of that reader."""
    return [
        _reader(name, own, np.asarray(reference, bool), np.asarray(scores, np.float64))
        for name, own in zip(names, np.asarray(votes), strict=True)
    ]


def _reader(name: str, votes: Int[np.ndarray, "cases"], reference: Labels, scores: Scores) -> Reader:
    read = votes >= 0
    said, truth = votes[read] == 1, reference[read]
    found = confusion(truth, said)
    specificity, both = found.specificity.value, truth.any() and not truth.all()
    model = sensitivity_at(truth, scores[read], specificity) if both and specificity is not None else None
    return Reader(name, found, model, cohen_kappa(said, truth))


def votes_of(rows: Rows, cases: Cases) -> tuple[list[str], Votes]:
    """Names of the readers, and what each said of each case; -1 where it was not read or left open.

    Args:
      rows: columns `image`, `reader_id` and `label`.
      cases: that the votes are about; those about other images are left out.

    Raises:
      UserError: a column that is missing, a word that is no label, or a case twice by one reader.

    """
    names = columns_of(rows, ("image", "reader_id", "label"), "readers")
    readers = sorted({row[names["reader_id"]].strip() for row in rows})
    place = {image: row for row, image in enumerate(cases.images)}
    number = {reader: row for row, reader in enumerate(readers)}
    votes, seen = np.full((len(readers), len(cases)), -1), set()
    for line, row in enumerate(rows, start=2):
        image, reader = row[names["image"]].strip(), row[names["reader_id"]].strip()
        said = truth_of(row[names["label"]], f"readers row {line}")
        if (image, reader) in seen:
            raise UserError(
                f"readers row {line}: reader {reader!r} reads image {image!r} twice; keep one row"
            )
        seen.add((image, reader))
        if image in place and said is not None:
            votes[number[reader], place[image]] = said
    return readers, votes


def majority(votes: Votes) -> tuple[Labels, Bool[np.ndarray, "cases"]]:
    """What most of those who read a case said, and of which cases there is such a majority.

    A case that as many call abnormal as normal, or that nobody read, has none.
    """
    votes = np.asarray(votes)
    abnormal, normal = (votes == 1).sum(axis=0), (votes == 0).sum(axis=0)
    return abnormal > normal, abnormal != normal


def cohen_kappa(first: Labels, second: Labels) -> float | None:
    """Agreement of two beyond chance (Cohen 1960): 1 is full; None where chance explains it all."""
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if not len(first):
        return None
    agreed = float((first == second).mean())
    expected = float(first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean()))
    return (agreed - expected) / (1 - expected) if expected < 1 else None


def fleiss_kappa(votes: Votes) -> float | None:
    """Agreement of several beyond chance (Fleiss 1971), over the cases that all of them read.

    None where nobody differs between cases either, or fewer than two readers share a case.
    """
    votes = np.asarray(votes)
    shared = votes[:, (votes >= 0).all(axis=0)]
    readers, cases = shared.shape
    if readers < 2 or not cases:
        return None
    counts = np.stack([(shared == vote).sum(axis=0) for vote in (0, 1)])
    agreed = float(((counts**2).sum(axis=0) - readers).mean() / (readers * (readers - 1)))
    expected = float(((counts.sum(axis=1) / (readers * cases)) ** 2).sum())
    return (agreed - expected) / (1 - expected) if expected < 1 else None
