"""Scores that a rotation classifier gives by itself, from its logits and without a second stage.

Logits are those of four classes, in the order 0°, 90°, 180°, 270°. Both scores are computed from the
probabilities of the *wrong* classes, so that they keep their precision where the classifier is sure.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.detectors.base import Features, Scorer, Scores, checked
from offsites_jax.projects.one_class.detectors.blockwise import one_device

ROTATIONS = 4


class RotationLogit(Scorer):
    """1 - p(0° | x), from the logits [count, 4] of upright images."""

    kind = "logit"

    @classmethod
    def fit(cls, features: Features) -> "RotationLogit":
        """Nothing to fit; the logits of normal images are only counted."""
        return cls(np.asarray(len(checked(features, "the logit scorer", ROTATIONS)), np.int32))

    @property
    def dimension(self) -> int:
        """Columns of the logits."""
        return ROTATIONS

    def apply(self, features: Float[Array, "count 4"]) -> Float[Array, "count"]:
        """The scores as a pure function of logits."""
        return jax.nn.softmax(features)[:, 1:].sum(-1)


class RotationProduct(Scorer):
    """1 - Π_k p(k | x rotated by k), from the logits [count, 4 rotations, 4 classes]."""

    kind = "dscore"

    @classmethod
    def fit(cls, features: Float[np.ndarray, "count 4 4"]) -> "RotationProduct":
        """Nothing to fit; the logits of normal images are only counted."""
        return cls(np.asarray(len(_flat(features)), np.int32))

    @property
    def dimension(self) -> int:
        """Classes times rotations."""
        return ROTATIONS**2

    def apply(self, features: Float[Array, "count 4 4"]) -> Float[Array, "count"]:
        """The scores as a pure function of logits; rotations and classes may be in one axis."""
        logits = features.reshape(-1, ROTATIONS, ROTATIONS)
        others = jax.nn.softmax(logits) * (1 - jnp.eye(ROTATIONS))
        # of a hopeless image the wrong classes have it all: keep the logarithm finite
        wrong = jnp.minimum(others.sum(-1), 1 - jnp.finfo(jnp.float32).epsneg)
        return -jnp.expm1(jnp.log1p(-wrong).sum(-1))

    def score(self, features: Float[np.ndarray, "count 4 4"], mesh: Mesh | None = None) -> Scores:
        """The scores, larger is more anomalous.

        Raises:
          UserError: logits of another shape, or values that are not finite.

        """
        return super().score(_flat(features), mesh or one_device())


def _flat(logits: Any) -> Features:
    logits = np.asarray(logits)
    if logits.shape[1:] != (ROTATIONS, ROTATIONS):
        raise UserError(
            f"the dscore scorer: logits of shape {list(logits.shape)}; give [count, 4 rotations, 4 classes]"
        )
    return checked(logits.reshape(len(logits), -1), "the dscore scorer")
