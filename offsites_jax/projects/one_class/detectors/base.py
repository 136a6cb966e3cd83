"""What every scorer of the second stage is: arrays, fitted to normal features, that score others."""

import abc
import dataclasses
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.detectors.blockwise import one_device, sharded_over_queries

Features = Float[np.ndarray, "count dim"]
Scores = Float[np.ndarray, "count"]


class Scorer(struct.PyTreeNode, abc.ABC):
    """A fitted scorer. It is a tree of arrays: it goes through `jax.jit`, `jax.grad` and `jax.device_put`.

    Attributes:
      samples: how many features it was fitted to.

    """

    kind: ClassVar[str]

    samples: Int[np.ndarray, ""]

    @classmethod
    def shapes(cls) -> dict[str, str]:
        """The shape of every array in names of sizes, as jaxtyping writes it."""
        fields = dataclasses.fields(cls)
        return {f.name: cast(Any, f.type).dim_str for f in fields if f.metadata.get("pytree_node", True)}

    @property
    @abc.abstractmethod
    def dimension(self) -> int:
        """Columns of the features it takes."""

    @abc.abstractmethod
    def apply(self, features: Float[Array, "count dim"]) -> Float[Array, "count"]:
        """The scores as a pure function for `jax.jit` and `jax.grad`; larger is more anomalous."""

    def score(self, features: Features, mesh: Mesh | None = None) -> Scores:
        """Float32 scores, larger is more anomalous, chunk by chunk on a mesh (default: one device).

        Raises:
          UserError: features of another number of columns, or values that are not finite.

        """
        features = checked(features, f"the {self.kind} scorer", self.dimension)
        if not len(features):
            return np.zeros(0, np.float32)
        scores = self._score(features, mesh or one_device()).astype(np.float32)
        if not np.isfinite(scores).all():
            row = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise UserError(
                f"the {self.kind} scorer: the score of row {row} is not finite; "
                "its feature is too far from those the scorer was fitted to"
            )
        return scores

    def _score(self, features: Features, mesh: Mesh) -> Scores:
        return sharded_over_queries(_apply, self, (features,), mesh)

    @property
    def about(self) -> str:
        """One line for a report: what it is and what it was fitted to."""
        return f"{self.kind}, fitted to {int(self.samples)} features of {self.dimension} columns"


def _apply(scorer: Scorer, features: Array) -> Array:
    return scorer.apply(features)


def checked(features: Any, what: str, dimension: int | None = None) -> Features:
    """The features as float32 [count, dim].

    Args:
      features: anything like an array.
      what: who takes them, for the message.
      dimension: columns they must have.

    Raises:
      UserError: another shape, other numbers, or a value that is not finite.

    """
    features = np.asarray(features)
    if features.ndim != 2 or not (
        np.issubdtype(features.dtype, np.floating) or features.dtype == jnp.bfloat16
    ):
        raise UserError(
            f"{what}: features of {features.dtype}{list(features.shape)}; give floats [count, columns]"
        )
    if dimension is not None and features.shape[1] != dimension:
        raise UserError(
            f"{what}: features have {features.shape[1]} columns but it was fitted to {dimension}; "
            "take them from the same model and layer"
        )
    features = np.ascontiguousarray(features, np.float32)
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise UserError(
            f"{what}: {int((~finite).sum())} of {len(finite)} features hold NaN or infinity, the first "
            f"in row {int(np.flatnonzero(~finite)[0])}; check the images and the checkpoint"
        )
    return features


def training_features(
    features: Any, what: str, *, limit: int | None = None, seed: int = 0, least: int = 2
) -> Features:
    """Checked features to fit to: all of them, or of more than `limit` so many drawn at random.

    Raises:
      UserError: as `checked`, or fewer than `least` of them.

    """
    features = checked(features, what)
    if len(features) < least:
        raise UserError(
            f"{what}: {len(features)} training features, but it needs {least}; give more normal images"
        )
    if limit is not None and len(features) > limit:
        chosen = np.random.default_rng(seed).choice(len(features), limit, replace=False)
        features = features[np.sort(chosen)]
    if not np.ptp(features, axis=0).any():
        raise UserError(
            f"{what}: all {len(features)} training features are the same; the model does not tell the "
            "images apart, so train it longer or check the images"
        )
    return features


def warn_if_few(samples: int, dimension: int, what: str) -> None:
    """Logs a warning where a covariance is estimated from fewer samples than dimensions."""
    if samples <= dimension:
        logging.warning(
            "%s: %d training features of %d columns do not determine a covariance; it is regularised",
            what,
            samples,
            dimension,
        )


def unit_rows(features: Float[Array, "*count dim"]) -> Float[Array, "*count dim"]:
    """Each feature divided by its length; one of zeros stays as it is, as in scikit-learn."""
    squares = jnp.square(features).sum(-1, keepdims=True)
    return features / jnp.sqrt(jnp.where(squares == 0, 1, squares))


def host_unit_rows(features: Features) -> Features:
    """The same on the host."""
    return np.asarray(jax.device_get(unit_rows(jnp.asarray(features))))
