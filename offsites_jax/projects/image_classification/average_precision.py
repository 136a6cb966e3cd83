"""Micro average precision over any number of images: exact while the scores fit in memory, bounded beyond."""

import numpy as np
from jaxtyping import Bool, Float, UInt32

MOST_KEPT = 1 << 27  # scores of no label's that are kept as they are: half a gigabyte
_COARSE_BITS = 24  # of the 32 that tell the others apart: sign, exponent and 15 bits of the fraction
_AT_ONCE = 1 << 24  # counting takes 8 bytes for each


class AveragePrecision:
    """All scores of all images in one ranking, and the precision wherever a label's score adds recall.

    That is scikit-learn's `average_precision_score(truth, scores, average="micro")`, ties included. Labels'
    scores are all kept, 4 bytes each. So are the others until there are `most_kept`; from then on they are
    only counted, by the leading 24 bits of their float32. The counts leave open on which side of a label's
    score a few others lie, so the figure then is the middle between the two extremes, and `error` half of
    what is between them: the true figure is never further away.

    Args:
      most_kept: other scores to keep.

    """

    def __init__(self, most_kept: int = MOST_KEPT) -> None:
        self._most_kept = most_kept
        self._right: list[np.ndarray] = []
        self._wrong: list[np.ndarray] = []
        self._kept = 0
        self._counts: np.ndarray | None = None  # of other scores, by their leading bits

    def add(
        self,
        scores: Float[np.ndarray, "images classes"],
        truth: Bool[np.ndarray, "images classes"],
    ) -> None:
        """Adds images; scores are compared as float32."""
        keys = sortable(scores)
        self._right.append(keys[truth])
        self._wrong.append(keys[~truth])
        self._kept += len(self._wrong[-1])
        if self._kept > self._most_kept:
            self._count()

    def result(self) -> tuple[float, float]:
        """(average precision, largest possible error); (0, 0) where there is no label."""
        right = np.sort(np.concatenate(self._right)) if self._right else np.zeros(0, np.uint32)
        if not len(right):
            return 0.0, 0.0
        if self._counts is None:
            wrong = np.sort(np.concatenate(self._wrong))
            return _average(right, len(wrong) - np.searchsorted(wrong, np.unique(right))), 0.0
        self._count()
        at_or_above = np.cumsum(self._counts[::-1])[::-1]
        bins = np.unique(right) >> np.uint32(32 - _COARSE_BITS)
        worst, best = (
            _average(right, at_or_above[bins]),
            _average(right, at_or_above[bins] - self._counts[bins]),
        )
        return (worst + best) / 2, (best - worst) / 2

    def _count(self) -> None:
        """Turns the other scores into counts."""
        keys = np.concatenate(self._wrong) >> np.uint32(32 - _COARSE_BITS)
        if self._counts is None:
            self._counts = np.zeros(1 << _COARSE_BITS, np.int64)
        for start in range(0, len(keys), _AT_ONCE):
            self._counts += np.bincount(keys[start : start + _AT_ONCE], minlength=1 << _COARSE_BITS)
        self._wrong, self._kept = [keys[:0]], 0


def sortable(values: Float[np.ndarray, "*shape"]) -> UInt32[np.ndarray, "*shape"]:
    """Integers in the order of float32s: the bits with their sign flipped, of negative ones all flipped."""
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0, which it equals
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _average(right: UInt32[np.ndarray, "labels"], wrong_at_or_above: np.ndarray) -> float:
    """The mean over labels of the precision at their score.

    Args:
      right: keys of labels' scores, sorted.
      wrong_at_or_above: for each distinct one, how many other scores are not below.

    """
    _, first, ties = np.unique(right, return_index=True, return_counts=True)
    right_at_or_above = len(right) - first
    precision = right_at_or_above / (right_at_or_above + wrong_at_or_above)
    return float((precision * ties).sum() / len(right))
