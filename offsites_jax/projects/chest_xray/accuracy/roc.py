"""The area under the ROC curve, its variance by DeLong's method, and the difference of two models.

DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
characteristic curves", Biometrics 44 (1988). What is compared there pair by pair is counted here in sorted
scores, so that a hundred thousand cases take milliseconds (the idea of Sun and Xu 2014).
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.accuracy.intervals import CONFIDENCE, Interval

Labels = Bool[np.ndarray, "cases"]
Scores = Float[np.ndarray, "cases"]


@dataclasses.dataclass(frozen=True)
class Auc:
    """An area under the ROC curve.

    Attributes:
      value: probability that an abnormal case scores higher than a normal one; a tie counts one half.
      variance: of the value, by DeLong.
      interval: normal interval, clipped to [0, 1].
      logit_interval: normal on the logit scale, which stays inside by itself and is better near 1.
      positives: abnormal cases.
      negatives: normal cases.
      degenerate: DeLong's variance says nothing (it is 0, or a class has one case); both intervals then are
        bounds that hold without it, wide ones.
      confidence: of the intervals.

    """

    value: float
    variance: float
    interval: Interval
    logit_interval: Interval
    positives: int
    negatives: int
    degenerate: bool
    confidence: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """Two models on the same cases.

    Attributes:
      first: area of the first model.
      second: area of the second.
      value: first minus second.
      variance: of the difference, covariance included.
      interval: normal interval of the difference, within [-1, 1].
      z: difference over its standard deviation; None where that is 0.
      p: two-sided; 1 where the models rank all cases alike, None where it cannot be said.

    """

    first: Auc
    second: Auc
    value: float
    variance: float
    interval: Interval
    z: float | None
    p: float | None


def delong(labels: Labels, scores: Scores, confidence: float = CONFIDENCE) -> Auc:
    """Area under the ROC curve with DeLong's variance, in O(n log n).

    Cases are taken to be independent: with several images of a patient the intervals are too narrow, see
    `bootstrap.cluster_bootstrap`.

    Raises:
      UserError: only one class, or a score that is not finite.

    """
    return _area(*placements(labels, scores), confidence)


def delong_difference(
    labels: Labels, first: Scores, second: Scores, confidence: float = CONFIDENCE
) -> Difference:
    """Whether two models that scored the same cases differ in area; errors as `delong`."""
    above, below = placements(labels, first)
    other_above, other_below = placements(labels, second)
    one, two = _area(above, below, confidence), _area(other_above, other_below, confidence)
    variance = _variance(above - other_above, below - other_below)
    value, deviation = one.value - two.value, math.sqrt(variance)
    half = _quantile(confidence) * deviation
    interval = (max(-1.0, value - half), min(1.0, value + half))
    if deviation == 0:
        return Difference(one, two, value, variance, interval, None, 1.0 if value == 0 else None)
    z = value / deviation
    return Difference(one, two, value, variance, interval, z, float(2 * stats.norm.sf(abs(z))))


def auc(labels: Labels, scores: Scores) -> float:
    """Area under the ROC curve; a tie counts one half. Errors as `delong`."""
    return float(placements(labels, scores)[0].mean())


def placements(
    labels: Labels, scores: Scores
) -> tuple[Float[np.ndarray, "positives"], Float[np.ndarray, "negatives"]]:
    """DeLong's structural components V10 and V01.

    Returns:
      For each abnormal case the share of normal cases that score lower, and for each normal case the share of
      abnormal cases that score higher; ties count one half. Both have the area as their mean.

    """
    labels, scores = checked(labels, scores)
    positives, negatives = scores[labels], scores[~labels]
    lower = _ranks(np.sort(negatives), positives) / len(negatives)
    return lower, 1 - _ranks(np.sort(positives), negatives) / len(positives)


@dataclasses.dataclass(frozen=True)
class Curve:
    """An ROC curve, from (0, 0) to (1, 1); its first threshold is infinite.

    Attributes:
      false_positive_rate: share of normal cases that score at least the threshold.
      true_positive_rate: share of abnormal cases that do.
      thresholds: each score that occurs, falling.

    """

    false_positive_rate: Float[np.ndarray, "points"]
    true_positive_rate: Float[np.ndarray, "points"]
    thresholds: Float[np.ndarray, "points"]


def roc_curve(labels: Labels, scores: Scores) -> Curve:
    """The curve with a point for every score that occurs; errors as `delong`."""
    labels, scores = checked(labels, scores)
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(labels[order])[ends]
    alarms = ends + 1 - hits
    return Curve(
        np.append(0.0, alarms / alarms[-1]),
        np.append(0.0, hits / hits[-1]),
        np.append(np.inf, scores[order][ends]),
    )


def checked(labels: Labels, scores: Scores) -> tuple[Labels, Scores]:
    """Labels as bool and scores as float64, of equal length, both classes there and all scores finite."""
    labels, scores = np.asarray(labels, bool), np.asarray(scores, np.float64)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape}; give one of each for a case")
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise UserError(f"the score of case {row} is {scores[row]}; leave out images that were not scored")
    if labels.all() or not labels.any():
        only = "abnormal" if labels.any() else "normal" if len(labels) else "no"
        raise UserError(f"{len(labels)} cases, {only} ones only; an area under the ROC curve needs both")
    return labels, scores


def _ranks(
    sorted_others: Float[np.ndarray, "others"], values: Float[np.ndarray, "cases"]
) -> Float[np.ndarray, "cases"]:
    """How many of the others are lower than each value, ties counting one half."""
    left = np.searchsorted(sorted_others, values, "left")
    return (left + np.searchsorted(sorted_others, values, "right")) / 2


def _area(above: np.ndarray, below: np.ndarray, confidence: float) -> Auc:
    value, variance = float(above.mean()), _variance(above, below)
    degenerate = variance == 0 or min(len(above), len(below)) < 2
    if degenerate:
        interval = logit = _bound(value, min(len(above), len(below)), confidence)
    else:
        interval, logit = _normal(value, variance, confidence), _logit(value, variance, confidence)
    return Auc(value, variance, interval, logit, len(above), len(below), degenerate, confidence)


def _variance(above: np.ndarray, below: np.ndarray) -> float:
    """S10 / m + S01 / n, exactly 0 where it is; a class with one case has none and is left out."""
    return float(sum(part.var(ddof=1) / len(part) for part in (above, below) if np.ptp(part) > 0))


def _normal(value: float, variance: float, confidence: float) -> Interval:
    half = _quantile(confidence) * math.sqrt(variance)
    return max(0.0, value - half), min(1.0, value + half)


def _logit(value: float, variance: float, confidence: float) -> Interval:
    """Normal interval of log(a / (1 - a)), taken back (delta method)."""
    middle = math.log(value / (1 - value))
    half = _quantile(confidence) * math.sqrt(variance) / (value * (1 - value))
    return _sigmoid(middle - half), _sigmoid(middle + half)


def _bound(value: float, pairs: int, confidence: float) -> Interval:
    """An interval that holds without a variance.

    Cases pair up into `pairs` independent pairs. Where all pairs are in order, an area a would have given
    that with probability a^pairs at most. Otherwise Hoeffding's inequality for two-sample U statistics
    (Journal of the American Statistical Association 58, 1963).
    """
    tail = (1 - confidence) / 2
    if value in (0.0, 1.0):
        end = tail ** (1 / pairs)
        return (end, 1.0) if value else (0.0, 1 - end)
    half = math.sqrt(-math.log(tail) / (2 * pairs))
    return max(0.0, value - half), min(1.0, value + half)


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else 1 - 1 / (1 + math.exp(logit))


def _quantile(confidence: float) -> float:
    return float(stats.norm.ppf((1 + confidence) / 2))
