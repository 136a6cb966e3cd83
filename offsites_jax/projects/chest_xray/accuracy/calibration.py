"""Whether a score of 0.8 means abnormal four times in five, and making it so on tuning data.

Guo et al., "On calibration of modern neural networks" (arXiv 1706.04599); Platt, "Probabilistic outputs for
support vector machines" (1999). Neither changes the order of the cases, nor any area under a curve.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import special

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.accuracy.intervals import Proportion
from offsites_jax.projects.chest_xray.accuracy.roc import Labels, Scores, checked

Method = Literal["platt", "temperature"]

BINS = 10

_STEPS = 100
_ENOUGH = 1e-10  # of a Newton step


@dataclasses.dataclass(frozen=True)
class Calibrator:
    """probability = sigmoid(slope * logit + intercept).

    Attributes:
      method: how it was fitted; `temperature` has no intercept.
      slope: one over the temperature.
      intercept: added to the scaled logit.

    """

    method: Method
    slope: float
    intercept: float

    @property
    def temperature(self) -> float:
        """What logits are divided by."""
        return 1 / self.slope

    def apply(self, logits: Scores) -> Scores:
        """Calibrated probabilities."""
        return special.expit(self.slope * np.asarray(logits, np.float64) + self.intercept)


@dataclasses.dataclass(frozen=True)
class Bin:
    """Cases of similar scores.

    Attributes:
      low: the bin holds scores above this (the first also this one),
      high: up to and with this.
      predicted: mean score; None of an empty bin.
      observed: abnormal among them.

    """

    low: float
    high: float
    predicted: float | None
    observed: Proportion


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Scores as probabilities, against what came true.

    Attributes:
      bins: of equal width.
      error: expected calibration error: |abnormal share - mean score| of the bins, by their cases.
      brier: mean squared error of the probabilities.

    """

    bins: tuple[Bin, ...]
    error: float
    brier: float


def reliability(labels: Labels, probabilities: Scores, bins: int = BINS) -> Reliability:
    """Reliability curve, expected calibration error and Brier score.

    Raises:
      UserError: one class only, or a score outside [0, 1].

    """
    labels, probabilities = checked(labels, probabilities)
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise UserError(
            f"scores from {probabilities.min():g} to {probabilities.max():g}; calibration takes probabilities"
        )
    index = np.clip(np.ceil(probabilities * bins).astype(int) - 1, 0, bins - 1)
    counts, abnormal = np.bincount(index, minlength=bins), np.bincount(index, labels, bins)
    sums = np.bincount(index, probabilities, bins)
    found = tuple(
        Bin(
            row / bins,
            (row + 1) / bins,
            float(sums[row] / counts[row]) if counts[row] else None,
            Proportion(int(abnormal[row]), int(counts[row])),
        )
        for row in range(bins)
    )
    error = float(np.abs(abnormal - sums).sum() / len(labels))
    return Reliability(found, error, float(np.mean((probabilities - labels) ** 2)))


def fit(labels: Labels, logits: Scores, method: Method = "platt") -> Calibrator:
    """The calibrator with the least cross-entropy on tuning cases.

    Targets are Platt's: (abnormal + 1) / (abnormal + 2) and 1 / (normal + 2) in place of 1 and 0, so that
    logits which separate the classes do not drive the slope to infinity.

    Raises:
      UserError: one class only, a logit that is not finite, or logits whose best slope is not positive.

    """
    labels, logits = checked(labels, logits)
    positives = int(labels.sum())
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))
    scale = float(np.abs(logits).max()) or 1.0  # Newton's steps are blind to it, its first step is not
    columns = [logits / scale] + ([np.ones_like(logits)] if method == "platt" else [])
    weights = _minimise(np.stack(columns, axis=1), targets)
    slope, intercept = weights[0] / scale, weights[1] if method == "platt" else 0.0
    if slope <= 0:
        raise UserError(
            f"calibration: the best slope is {slope:.3g}; on the tuning cases higher logits do not mean "
            "abnormal more often, check labels and scores"
        )
    return Calibrator(method, float(slope), float(intercept))


def _minimise(
    inputs: Float[np.ndarray, "cases weights"], targets: Float[np.ndarray, "cases"]
) -> Float[np.ndarray, "weights"]:
    """Least cross-entropy of a logistic model, by Newton's method with steps halved until they help."""
    weights = np.zeros(inputs.shape[1])
    loss = _cross_entropy(inputs @ weights, targets)
    for _ in range(_STEPS):
        chance = special.expit(inputs @ weights)
        gradient = inputs.T @ (chance - targets)
        curvature = (inputs * (chance * (1 - chance))[:, None]).T @ inputs
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        while (reached := _cross_entropy(inputs @ (weights - step), targets)) > loss and step.any():
            step = step / 2
        weights, loss = weights - step, reached
        if np.abs(step).max() <= _ENOUGH * max(1.0, np.abs(weights).max()):
            break
    return weights


def _cross_entropy(logits: Scores, targets: Scores) -> float:
    return float((np.logaddexp(0, logits) - targets * logits).sum())
