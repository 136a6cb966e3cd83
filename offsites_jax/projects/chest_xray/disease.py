"""Two truths for the same scores: abnormal or not, and one disease or not.

A detector of abnormality meets a disease it never saw. Where many who do not have the disease have something
else, flagging them is right for abnormality and a false alarm for the disease; so both are reported.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.intervals import CONFIDENCE, Proportion
from offsites_jax.projects.chest_xray.operating import Confusion, OperatingPoint, confusion, flag
from offsites_jax.projects.chest_xray.roc import Auc, delong
from offsites_jax.projects.chest_xray.scored import Cases, truth_of


@dataclasses.dataclass(frozen=True)
class Disease:
    """The same scores against two truths: abnormal, and having one disease.

    Attributes:
      column: of the labels that says who has the disease.
      cases: how many have both labels.
      abnormality: area for abnormal against normal.
      disease: area for disease against no disease.
      confusions: counts for the disease, by operating point.
      abnormality_confusions: counts for abnormality, by operating point.
      abnormal_alarms: by operating point, those of the false alarms for the disease that are abnormal:
        a detector of abnormality is right to flag them.

    """

    column: str
    cases: int
    abnormality: Auc
    disease: Auc
    confusions: dict[str, Confusion]
    abnormality_confusions: dict[str, Confusion]
    abnormal_alarms: dict[str, Proportion]


def disease_figures(
    cases: Cases, points: Mapping[str, OperatingPoint], column: str, confidence: float = CONFIDENCE
) -> Disease:
    """Abnormality and disease side by side, over the cases that have both labels.

    Raises:
      UserError: no such column, a word that is no label, or one class only.

    """
    cells = cases.column(column)
    if cells is None:
        raise UserError(f"labels: no column {column!r} for the disease; has {', '.join(cases.columns)}")
    pairs = zip(cells, cases.images, strict=True)
    truths = [truth_of(cell, f"labels, image {image!r}, {column}") for cell, image in pairs]
    both = cases.keep(np.array([truth is not None for truth in truths], bool))
    ill = np.array([truth for truth in truths if truth is not None], bool)
    flags = {name: flag(both.scores, point.threshold) for name, point in points.items()}
    alarms = {name: flagged & ~ill for name, flagged in flags.items()}
    return Disease(
        column,
        len(both),
        delong(both.labels, both.scores, confidence),
        delong(ill, both.scores, confidence),
        {name: confusion(ill, flagged, confidence) for name, flagged in flags.items()},
        {name: confusion(both.labels, flagged, confidence) for name, flagged in flags.items()},
        {
            name: Proportion(int((found & both.labels).sum()), int(found.sum()), confidence)
            for name, found in alarms.items()
        },
    )
