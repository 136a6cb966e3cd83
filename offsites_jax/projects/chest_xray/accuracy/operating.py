"""Thresholds chosen on tuning data, and what they do on a test set: rates with intervals, at any prevalence.

A case is flagged when its score is at least the threshold. A threshold is never chosen on the cases it is
judged by.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
from jaxtyping import Bool

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.accuracy.intervals import CONFIDENCE, Interval, Proportion
from offsites_jax.projects.chest_xray.accuracy.roc import Labels, Scores, checked

Kind = Literal["high_sensitivity", "high_specificity"]

TARGET = 0.95


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """A threshold and how it was found.

    Attributes:
      kind: what was asked for.
      target: the least sensitivity, or specificity.
      threshold: cases that score at least this are flagged.
      sensitivity: on the tuning cases.
      specificity: on the tuning cases.

    """

    kind: Kind
    target: float
    threshold: float
    sensitivity: float
    specificity: float


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Cases by what they are and whether they were flagged, and the rates that follow."""

    tp: int
    fp: int
    tn: int
    fn: int
    confidence: float = CONFIDENCE

    @property
    def total(self) -> int:
        """All cases."""
        return self.tp + self.fp + self.tn + self.fn

    @property
    def sensitivity(self) -> Proportion:
        """Flagged among the abnormal."""
        return Proportion(self.tp, self.tp + self.fn, self.confidence)

    @property
    def specificity(self) -> Proportion:
        """Not flagged among the normal."""
        return Proportion(self.tn, self.tn + self.fp, self.confidence)

    @property
    def ppv(self) -> Proportion:
        """Abnormal among the flagged, at the prevalence of these cases."""
        return Proportion(self.tp, self.tp + self.fp, self.confidence)

    @property
    def npv(self) -> Proportion:
        """Normal among those not flagged, at the prevalence of these cases."""
        return Proportion(self.tn, self.tn + self.fn, self.confidence)

    @property
    def flagged(self) -> Proportion:
        """Flagged among all."""
        return Proportion(self.tp + self.fp, self.total, self.confidence)

    @property
    def prevalence(self) -> Proportion:
        """Abnormal among all."""
        return Proportion(self.tp + self.fn, self.total, self.confidence)


def operating_point(labels: Labels, scores: Scores, kind: Kind, target: float = TARGET) -> OperatingPoint:
    """The threshold that reaches a target on tuning cases and gives up least for it.

    Args:
      labels: of the tuning cases.
      scores: of the tuning cases.
      kind: `high_sensitivity` takes the highest threshold with at least the target sensitivity,
        `high_specificity` the lowest with at least the target specificity. Both are scores that occur; only
        where even the highest score is too low, the next larger number.
      target: above 0 and at most 1.

    Raises:
      UserError: a target out of range, one class only, or a score that is not finite.

    """
    if not 0 < target <= 1:
        raise UserError(f"target {target} of the {kind} point; give a number above 0 and at most 1")
    labels, scores = checked(labels, scores)
    threshold = (_sensitive if kind == "high_sensitivity" else _specific)(labels, scores, target)
    found = confusion(labels, flag(scores, threshold))
    return OperatingPoint(
        kind,
        target,
        threshold,
        found.tp / (found.tp + found.fn),
        found.tn / (found.tn + found.fp),
    )


def flag(scores: Scores, threshold: float) -> Bool[np.ndarray, "cases"]:
    """Which cases are flagged."""
    return np.asarray(scores) >= threshold


def confusion(
    labels: Labels, flagged: Bool[np.ndarray, "cases"], confidence: float = CONFIDENCE
) -> Confusion:
    """Counts of the four kinds of cases."""
    labels, flagged = np.asarray(labels, bool), np.asarray(flagged, bool)
    cells = (flagged & labels, flagged & ~labels, ~flagged & ~labels, ~flagged & labels)
    tp, fp, tn, fn = (int(cell.sum()) for cell in cells)
    return Confusion(tp, fp, tn, fn, confidence)


def predictive_values(
    sensitivity: float | None, specificity: float | None, prevalence: float
) -> tuple[float | None, float | None]:
    """PPV and NPV where a share `prevalence` of all cases is abnormal (Bayes' rule); None for 0 / 0."""
    if not 0 <= prevalence <= 1:
        raise UserError(f"prevalence {prevalence}; give a share from 0 to 1")
    if sensitivity is None or specificity is None:
        return None, None
    hits, alarms = prevalence * sensitivity, (1 - prevalence) * (1 - specificity)
    rests, misses = (1 - prevalence) * specificity, prevalence * (1 - sensitivity)
    return _share(hits, hits + alarms), _share(rests, rests + misses)


def predictive_intervals(found: Confusion, prevalence: float) -> tuple[Interval | None, Interval | None]:
    """Intervals of PPV and NPV at a stated prevalence that cover at least as often as they say.

    Both values grow with sensitivity and with specificity, which come from different cases: their exact
    intervals, each at the square root of the confidence, hold together as often as asked for, and the values
    at their ends enclose what they allow. Cases are taken to be independent.
    """
    each = math.sqrt(found.confidence)
    ends = [
        dataclasses.replace(share, confidence=each).exact for share in (found.sensitivity, found.specificity)
    ]
    if ends[0] is None or ends[1] is None:
        return None, None
    low, high = (predictive_values(ends[0][end], ends[1][end], prevalence) for end in (0, 1))
    return _interval(low[0], high[0]), _interval(low[1], high[1])


def sensitivity_at(labels: Labels, scores: Scores, specificity: float) -> float:
    """Highest sensitivity among the thresholds of these cases with at least that specificity.

    For setting a model beside a reader on the ROC curve; it chooses no threshold for use.
    """
    labels, scores = checked(labels, scores)
    return float((scores[labels] >= _specific(labels, scores, specificity)).mean())


def _sensitive(labels: Labels, scores: Scores, target: float) -> float:
    positives = np.sort(scores[labels])
    return float(positives[-least_count(target, len(positives))])


def _specific(labels: Labels, scores: Scores, target: float) -> float:
    """The lowest score that occurs and lies above as many normal cases as it takes."""
    negatives = np.sort(scores[~labels])
    below = least_count(target, len(negatives))
    if not below:
        return float(scores.min())
    higher = scores[scores > negatives[below - 1]]
    return float(higher.min() if len(higher) else np.nextafter(negatives[-1], np.inf))


def least_count(share: float, total: int) -> int:
    """The smallest count whose share of the total is at least this one, rounding errors aside."""
    count = math.ceil(share * total)
    return count - 1 if count and (count - 1) / total >= share else count


def _interval(low: float | None, high: float | None) -> Interval | None:
    return None if low is None or high is None else (low, high)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
