"""Two models on the same cases: whether one tells abnormal from normal better than the other."""

import dataclasses

import numpy as np

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.accuracy.bootstrap import DRAWS, Bootstrap, cluster_bootstrap
from offsites_jax.projects.chest_xray.accuracy.intervals import CONFIDENCE
from offsites_jax.projects.chest_xray.accuracy.roc import Difference, delong_difference
from offsites_jax.projects.chest_xray.tables.scored import Cases


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A model and another one, over the cases that both scored.

    Attributes:
      name: of the other model.
      cases: how many both scored.
      left_out: cases that only one of them scored.
      difference: areas of the model and of the other, and their paired difference by DeLong.
      draws: areas of both over the same draws of patients.

    """

    name: str
    cases: int
    left_out: int
    difference: Difference
    draws: Bootstrap


def compare_models(
    model: Cases, other: Cases, name: str, draws: int = DRAWS, seed: int = 0, confidence: float = CONFIDENCE
) -> Comparison:
    """The paired difference of two models.

    Args:
      model: cases with the scores of the model.
      other: the same ones with those of the other.
      name: of the other.
      draws: of patients.
      seed: of the draws.
      confidence: of the intervals.

    Raises:
      UserError: no case is scored by both, one class only, or labels that differ.

    """
    rows = {image: row for row, image in enumerate(other.images)}
    shared = np.array([image in rows for image in model.images], bool)
    both = model.keep(shared)
    if not len(both):
        raise UserError(f"{name}: scores none of the cases; give the predictions for the same images")
    theirs = other.keep(np.array([rows[image] for image in both.images]))
    if (both.labels != theirs.labels).any():
        raise UserError(f"{name}: other labels for the same images; evaluate both on one table of labels")
    scores = np.stack([both.scores, theirs.scores])
    return Comparison(
        name,
        len(both),
        len(model) + len(other) - 2 * len(both),
        delong_difference(both.labels, both.scores, theirs.scores, confidence),
        cluster_bootstrap(both.labels, scores, both.patients, draws, seed, confidence=confidence),
    )
