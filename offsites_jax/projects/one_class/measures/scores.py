"""Figures of anomaly detection: how well scores tell anomalies from normal images or pixels.

All shares are in percent. Anomalies are the positive class, larger scores are more anomalous. Where all
labels are the same a figure does not exist; it is then None and comes with a sentence that says why, and is
never 50 or NaN.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from offsites_jax.errors import UserError

RECALL = 0.95
"""Share of anomalies found at which the share of false alarms is told."""


@dataclasses.dataclass(frozen=True)
class ImageFigures:
    """Figures of one test set.

    Attributes:
      auc: area under the ROC curve, ties counted half.
      average_precision: area under the precision-recall curve, as the average precision.
      best_f1: largest F1 over all thresholds.
      false_alarms_at_95_recall: share of normal images flagged when 95 % of anomalies are.
      normal: how many normal images.
      anomalous: how many anomalies.
      undefined: why there are no figures; empty where there are.

    """

    auc: float | None
    average_precision: float | None
    best_f1: float | None
    false_alarms_at_95_recall: float | None
    normal: int
    anomalous: int
    undefined: str = ""

    def row(self) -> dict[str, Any]:
        """As a row of a table, "undefined" where a figure does not exist."""
        cells = dataclasses.asdict(self)
        reason = cells.pop("undefined")
        row = {name: "undefined" if value is None else value for name, value in cells.items()}
        return row | ({"why": reason} if reason else {})


def image_figures(
    scores: Float[np.ndarray, "count"], labels: Int[np.ndarray, "count"], source: str
) -> ImageFigures:
    """The figures of a test set.

    Args:
      scores: larger is more anomalous.
      labels: 0 normal, 1 anomaly.
      source: the file or folder the labels are from, for messages.

    Raises:
      UserError: scores and labels that do not fit, other labels, or a score that is not finite.

    """
    from sklearn import metrics

    scores, labels = _checked(scores, labels, source)
    anomalous = int(labels.sum())
    normal = len(labels) - anomalous
    if reason := undefined(normal, anomalous, source):
        return ImageFigures(None, None, None, None, normal, anomalous, reason)
    false_alarms, recall, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    precision, found, _ = metrics.precision_recall_curve(labels, scores)
    f1 = 2 * precision * found / np.maximum(precision + found, np.finfo(float).tiny)
    return ImageFigures(
        auc=100 * float(metrics.roc_auc_score(labels, scores)),
        average_precision=100 * float(metrics.average_precision_score(labels, scores)),
        best_f1=100 * float(f1.max()),
        false_alarms_at_95_recall=100 * float(false_alarms[recall >= RECALL].min()),
        normal=normal,
        anomalous=anomalous,
    )


def undefined(normal: int, anomalous: int, source: str, things: str = "images") -> str:
    """Why there is no ROC curve of so many normal and anomalous things; empty if there is one."""
    if normal and anomalous:
        return ""
    what = f"only normal {things}" if normal else f"only anomalous {things}" if anomalous else f"no {things}"
    return f"undefined: {source} holds {what}, and an AUC compares the two"


def _checked(scores: Any, labels: Any, source: str) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise UserError(
            f"{source}: {list(scores.shape)} scores for {list(labels.shape)} labels; give one label a score"
        )
    if not np.isin(labels, (0, 1)).all():
        raise UserError(f"{source}: labels other than 0 (normal) and 1 (anomaly); correct them")
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise UserError(f"{source}: the score of row {row} is not finite; check that image")
    return scores, labels.astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Above which score an image is flagged.

    Attributes:
      value: the score itself is not flagged.
      quantile: of the normal scores it is.
      samples: how many normal scores there were.

    """

    value: float
    quantile: float
    samples: int

    def flags(self, scores: Float[np.ndarray, "count"]) -> Bool[np.ndarray, "count"]:
        """Which images are anomalous."""
        return np.asarray(scores) > self.value


def threshold_of(normal_scores: Float[np.ndarray, "count"], quantile: float = 0.99) -> Threshold:
    """A threshold from scores of normal images that the scorer was *not* fitted to.

    It is one of the scores: the smallest that at least this share of them does not exceed.

    Raises:
      UserError: no scores, scores that are not finite, or a quantile outside (0, 1].

    """
    scores = np.asarray(normal_scores, np.float64)
    if not 0 < quantile <= 1:
        raise UserError(f"quantile is {quantile}; give a number above 0 and up to 1, such as 0.99")
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise UserError(
            f"a threshold needs finite scores of held-out normal images, not {list(scores.shape)} of which "
            f"{int(np.isfinite(scores).sum())} are finite; hold some normal images back"
        )
    value = np.quantile(scores, quantile, method="inverted_cdf")
    return Threshold(float(value), quantile, len(scores))


@dataclasses.dataclass(frozen=True)
class Spread:
    """A figure over several seeds.

    "Deep One-class Classification" (arXiv 2011.02578) prints the standard deviation, CutPaste (arXiv
    2104.04015) the standard error; here both have their names.

    Attributes:
      mean: over the seeds; None if a seed has no figure.
      standard_deviation: of the sample (divided by seeds - 1); None of fewer than two seeds.
      standard_error: the same over √seeds.
      seeds: how many.

    """

    mean: float | None
    standard_deviation: float | None
    standard_error: float | None
    seeds: int

    def __str__(self) -> str:
        """Such as "95.2 ± 0.6 (standard deviation), ± 0.3 (standard error), 5 seeds"."""
        if self.mean is None:
            return "undefined"
        if self.standard_deviation is None or self.standard_error is None:
            return f"{self.mean:.1f} (one seed)"
        return (
            f"{self.mean:.1f} ± {self.standard_deviation:.1f} (standard deviation), "
            f"± {self.standard_error:.1f} (standard error), {self.seeds} seeds"
        )


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and spread of one figure over seeds."""
    figures = list(values)
    known = [value for value in figures if value is not None]
    count = len(figures)
    if not known or len(known) < count:
        return Spread(None, None, None, count)
    mean = math.fsum(known) / count
    if count == 1:
        return Spread(mean, None, None, count)
    deviation = float(np.std(known, ddof=1))
    return Spread(mean, deviation, deviation / math.sqrt(count), count)
