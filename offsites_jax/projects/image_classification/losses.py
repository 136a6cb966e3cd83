"""The losses of the two papers, and the targets they compare with: softmax, multi-label softmax, sigmoid.

Labels arrive as class numbers, one per image or a list filled up with -1; targets are rows over the classes,
so that mixup and CutMix may blend them before any of the losses sees them.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

LossName = Literal["softmax", "multilabel_softmax", "sigmoid", "sigmoid_mean"]

Logits = Float[Array, "batch classes"]
Targets = Float[Array, "batch classes"]
Losses = Float[Array, "batch"]


def targets_of(labels: Int[Array, "batch *most"], num_classes: int) -> Targets:
    """One row per image: 1 at each of its classes. Labels below 0 count for nothing."""
    rows = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return rows if labels.ndim == 1 else rows.max(axis=1)


def softmax(logits: Logits, targets: Targets, smoothing: float) -> Losses:
    """Cross-entropy against (1 - smoothing) targets + smoothing / classes."""
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), optax.smooth_labels(targets, smoothing))


def multilabel_softmax(logits: Logits, targets: Targets, smoothing: float) -> Losses:
    """Softmax cross-entropy against targets that share one unit among them (arXiv 2104.00298)."""
    total = targets.sum(-1, keepdims=True)
    return softmax(logits, targets / jnp.where(total == 0, 1, total), smoothing)


def sigmoid(logits: Logits, targets: Targets, smoothing: float) -> Losses:
    """Binary cross-entropies against (1 - smoothing) targets + smoothing / 2, summed over classes."""
    smoothed = targets * (1 - smoothing) + smoothing / 2
    return optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), smoothed).sum(-1)


def sigmoid_mean(logits: Logits, targets: Targets, smoothing: float) -> Losses:
    """The same, averaged over classes."""
    return sigmoid(logits, targets, smoothing) / logits.shape[-1]


LOSSES: dict[str, Callable[[Logits, Targets, float], Losses]] = {
    "softmax": softmax,
    "multilabel_softmax": multilabel_softmax,
    "sigmoid": sigmoid,
    "sigmoid_mean": sigmoid_mean,
}
