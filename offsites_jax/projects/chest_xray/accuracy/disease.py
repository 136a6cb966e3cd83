"""Two truths for the same scores: abnormal or not, and one disease or not.

A detector of abnormality meets a disease it never saw. Where many who do not have the disease have something
else, flagging them is right for abnormality and a false alarm for the disease; so both are reported.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.accuracy.bootstrap import DRAWS, Bootstrap, cluster_bootstrap
from offsites_jax.projects.chest_xray.accuracy.intervals import CONFIDENCE, Proportion
from offsites_jax.projects.chest_xray.accuracy.operating import Confusion, OperatingPoint, confusion, flag
from offsites_jax.projects.chest_xray.accuracy.roc import Auc, delong
from offsites_jax.projects.chest_xray.tables.scored import Cases, truth_of


@dataclasses.dataclass(frozen=True)
class Disease:
    """The same scores against two truths: abnormal, and having one disease.

    Attributes:
      column: of the labels that says who has the disease.
      subset: the set of cases it is evaluated on; blank for all of them.
      cases: how many have both labels.
      abnormality: area for abnormal against normal.
      disease: area for disease against no disease.
      abnormality_draws: the former over draws of patients.
      disease_draws: the latter.
      confusions: counts for the disease, by operating point.
      abnormality_confusions: counts for abnormality, by operating point.
      abnormal_alarms: by operating point, those of the false alarms for the disease that are abnormal:
        a detector of abnormality is right to flag them.

    """

    column: str
    subset: str
    cases: int
    abnormality: Auc
    disease: Auc
    abnormality_draws: Bootstrap
    disease_draws: Bootstrap
    confusions: dict[str, Confusion]
    abnormality_confusions: dict[str, Confusion]
    abnormal_alarms: dict[str, Proportion]


def disease_figures(
    cases: Cases,
    points: Mapping[str, OperatingPoint],
    column: str,
    confidence: float = CONFIDENCE,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    subset: str = "",
) -> Disease:
    """Abnormality and disease side by side, over the cases that have both labels.

    Args:
      cases: with a column that says who has the disease.
      points: thresholds by name.
      column: of the labels.
      confidence: of the intervals.
      draws: of patients.
      seed: of the draws.
      subset: what the set of cases is called.

    Raises:
      UserError: no such column, a word that is no label, or one class only.

    """
    truths = disease_labels(cases, column)
    both = cases.keep(np.array([truth is not None for truth in truths], bool))
    ill = np.array([truth for truth in truths if truth is not None], bool)
    flags = {name: flag(both.scores, point.threshold) for name, point in points.items()}
    alarms = {name: flagged & ~ill for name, flagged in flags.items()}
    areas = [delong(truth, both.scores, confidence) for truth in (both.labels, ill)]
    drawn = [
        cluster_bootstrap(truth, both.scores, both.patients, draws, seed, confidence=confidence)
        for truth in (both.labels, ill)
    ]
    return Disease(
        column,
        subset,
        len(both),
        areas[0],
        areas[1],
        drawn[0],
        drawn[1],
        {name: confusion(ill, flagged, confidence) for name, flagged in flags.items()},
        {name: confusion(both.labels, flagged, confidence) for name, flagged in flags.items()},
        {
            name: Proportion(int((found & both.labels).sum()), int(found.sum()), confidence)
            for name, found in alarms.items()
        },
    )


def disease_sets(
    cases: Cases,
    points: Mapping[str, OperatingPoint],
    columns: Sequence[str],
    by: str = "",
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[list[Disease], list[str]]:
    """Every disease on every set of cases that it is labelled in.

    Args:
      cases: with a column for each disease.
      points: thresholds by name.
      columns: of the diseases.
      by: column that says which set a case belongs to, such as its site; all are one set without.
      confidence: of the intervals.
      draws: of patients.
      seed: of the draws.

    Returns:
      The figures, and why sets were left out that hold one class only.

    Raises:
      UserError: no such column, or a word that is no label.

    """
    sets = cases.column(by) if by else ("",) * len(cases)
    if sets is None:
        raise UserError(f"labels: no column {by!r} for the sets; has {', '.join(cases.columns)}")
    found, said = [], []
    for column in columns:
        truths = disease_labels(cases, column)
        for name in sorted(set(sets)):
            rows = np.array([own == name for own in sets]) & np.array([truth is not None for truth in truths])
            classes = {truths[row] for row in np.flatnonzero(rows)}, set(cases.labels[rows].tolist())
            if min(map(len, classes)) < 2:
                if rows.any():
                    said.append(f"{column} in {name or 'the test cases'}: one class only, not evaluated.")
                continue
            found.append(
                disease_figures(
                    cases.keep(rows), points, column, confidence, draws=draws, seed=seed, subset=name
                )
            )
    return found, said


def disease_labels(cases: Cases, column: str) -> list[bool | None]:
    """Who has a disease; None where nothing is said. Errors as `disease_figures`."""
    cells = cases.column(column)
    if cells is None:
        raise UserError(f"labels: no column {column!r} for the disease; has {', '.join(cases.columns)}")
    pairs = zip(cells, cases.images, strict=True)
    return [truth_of(cell, f"labels, image {image!r}, {column}") for cell, image in pairs]
