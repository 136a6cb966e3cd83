"""Figures of classification, added up row by row so that no split is too large for memory."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from offsites_jax.projects.image_classification.average_precision import AveragePrecision

Logits = Float[np.ndarray, "count classes"]
BINS = 15  # of the calibration error
NONE = -1  # what a row says whose logits are not finite


@dataclasses.dataclass(frozen=True)
class Rows:
    """What the figures need of each image that has one label.

    Attributes:
      label: its class.
      prediction: the class with the largest logit; -1 where they are not finite.
      larger: how many logits are strictly larger than its label's.
      confidence: softmax probability of the prediction.
      cross_entropy: of the softmax, in nats.
      finite: whether all logits are; the other figures of a row where they are not mean nothing.

    """

    label: Int[np.ndarray, "count"]
    prediction: Int[np.ndarray, "count"]
    larger: Int[np.ndarray, "count"]
    confidence: Float[np.ndarray, "count"]
    cross_entropy: Float[np.ndarray, "count"]
    finite: Bool[np.ndarray, "count"]

    def __len__(self) -> int:
        return len(self.label)

    def within(self, k: int) -> Bool[np.ndarray, "count"]:
        """Whether the label is among the top k: fewer than k logits are strictly larger (TF's in_top_k)."""
        return self.finite & (self.larger < k)


def rows_of(logits: Logits, labels: Int[np.ndarray, "count"]) -> Rows:
    """The rows of a batch; all labels at least 0."""
    finite = np.isfinite(logits).all(axis=-1)
    safe = np.where(finite[:, None], logits, 0.0).astype(np.float64)
    own = np.take_along_axis(safe, labels[:, None], axis=-1)
    top = safe.max(axis=-1)
    log_total = np.log(np.exp(safe - top[:, None]).sum(axis=-1)) + top
    return Rows(
        label=labels,
        prediction=np.where(finite, safe.argmax(axis=-1), NONE),
        larger=(safe > own).sum(axis=-1),
        confidence=np.exp(top - log_total),
        cross_entropy=log_total - own[:, 0],
        finite=finite,
    )


def joined(parts: Sequence[Rows]) -> Rows:
    """All rows of several batches."""
    names = [field.name for field in dataclasses.fields(Rows)]
    return Rows(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def probabilities(logits: Logits, *, sigmoid: bool) -> Logits:
    """Softmax, or the sigmoid of each logit, as networks for several labels are trained."""
    if sigmoid:
        return 0.5 + 0.5 * np.tanh(0.5 * logits)
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def scores(rows: Rows) -> dict[str, float]:
    """Accuracy, top-5 accuracy, cross-entropy and calibration error.

    A row that is not finite is wrong, and has no part in the last two, which are NaN where no row is finite.
    """
    good = rows.finite
    entropy, error = float("nan"), float("nan")
    if good.any():
        entropy = float(rows.cross_entropy[good].mean())
        error = calibration_error(rows.confidence[good], rows.within(1)[good])
    return {
        "accuracy": float(rows.within(1).mean()),
        "top5_accuracy": float(rows.within(5).mean()),
        "cross_entropy": entropy,
        "calibration_error": error,
        "images": float(len(rows)),
        "non_finite": float((~rows.finite).sum()),
    }


def calibration_error(
    confidence: Float[np.ndarray, "count"], right: Bool[np.ndarray, "count"], bins: int = BINS
) -> float:
    """Expected calibration error: |accuracy - mean confidence| in bins of confidence, by their images.

    Bins are of equal width and hold their upper edge (arXiv 1706.04599).
    """
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def accuracy_interval(rows: Rows, samples: int, seed: int = 0) -> tuple[float, float]:
    """The middle 95 % of the accuracies of images drawn anew, with replacement (bootstrap)."""
    # The number of right ones among n draws from n rows is binomial: no need to draw the rows.
    drawn = np.random.default_rng(seed).binomial(len(rows), rows.within(1).mean(), samples) / len(rows)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def per_class(rows: Rows, num_classes: int, names: Sequence[str] | None = None) -> list[dict[str, object]]:
    """One entry per class: how many images there are, how many were right, how often it was said."""
    images = np.bincount(rows.label, minlength=num_classes)
    right = np.bincount(rows.label, weights=rows.within(1), minlength=num_classes).astype(int)
    said = np.bincount(rows.prediction[rows.finite], minlength=num_classes)
    return [
        {
            "class": index,
            "name": names[index] if names else str(index),
            "images": int(images[index]),
            "right": int(right[index]),
            "accuracy": float(right[index] / images[index]) if images[index] else None,
            "predicted": int(said[index]),
        }
        for index in range(num_classes)
    ]


def confusion(rows: Rows, num_classes: int) -> Int[np.ndarray, "true predicted"]:
    """Counts by true class (row) and predicted class (column); rows that are not finite are in no column."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (rows.label[rows.finite], rows.prediction[rows.finite]), 1)
    return counts


class MultiLabelScores:
    """Precision and recall at k and micro average precision over images with several labels.

    Precision and recall are over all images together (google/automl); average precision ranks the logits.

    Args:
      average_precision: adds up the latter.

    """

    def __init__(self, average_precision: AveragePrecision | None = None) -> None:
        self.images = 0
        self.non_finite = 0
        self._labels = 0
        self._right = {1: 0, 5: 0}
        self._average_precision = average_precision or AveragePrecision()

    def add(self, logits: Logits, labels: Int[np.ndarray, "count most"]) -> None:
        """Adds the rows of a batch; labels below 0 are none, and every row has one at least."""
        finite = np.isfinite(logits).all(axis=-1)
        self.images += len(logits)
        self.non_finite += int((~finite).sum())
        truth = np.zeros(logits.shape, bool)
        row, place = np.nonzero(labels >= 0)
        truth[row, labels[row, place]] = True
        self._labels += int(truth.sum())
        logits = np.where(finite[:, None], logits, -np.inf).astype(np.float32)
        truth_if_finite = truth & finite[:, None]
        for k in self._right:
            top = np.argpartition(-logits, min(k, logits.shape[1]) - 1, axis=-1)[:, :k]
            self._right[k] += int(np.take_along_axis(truth_if_finite, top, axis=-1).sum())
        self._average_precision.add(logits, truth)

    def result(self) -> dict[str, float]:
        """The figures of all rows added; `average_precision_error` only where it is not 0."""
        average_precision, error = self._average_precision.result()
        return {
            "accuracy": self._right[1] / self.images,
            "precision_at_1": self._right[1] / self.images,
            "precision_at_5": self._right[5] / (5 * self.images),
            "recall_at_5": self._right[5] / self._labels,
            "average_precision": average_precision,
            **({"average_precision_error": error} if error else {}),
            "images": float(self.images),
            "non_finite": float(self.non_finite),
        }
