"""Scorers that remember training features: kernel density, one-class SVM, nearest neighbours.

All but the linear SVM see features divided by their length. Formulas and the rule for gamma follow "Learning
and Evaluating Representations for Deep One-class Classification" (arXiv 2011.02578) and
google-research/deep_representation_one_class.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.detectors.base import (
    Features,
    Scorer,
    Scores,
    host_unit_rows,
    training_features,
    unit_rows,
)
from offsites_jax.projects.one_class.detectors.blockwise import (
    SplitRows,
    log_sums,
    nearest,
    sharded_over_rows,
    split_rows,
    whole_rows,
)


def gamma_of(unit_features: Features) -> float:
    """Ten times scikit-learn's "scale": 10 / (columns x variance of all entries together).

    Raises:
      UserError: all entries are equal.

    """
    variance = float(np.var(unit_features, dtype=np.float64))
    if variance == 0:
        raise UserError("gamma: all entries of all training features are equal; give gamma a value")
    return 10.0 / (unit_features.shape[1] * variance)


def _gamma(gamma: float | None, unit_features: Features) -> np.ndarray:
    if gamma is not None and not (np.isfinite(gamma) and gamma > 0):
        raise UserError(f"gamma is {gamma}; give a number above 0, or none for the rule")
    return np.asarray(gamma_of(unit_features) if gamma is None else gamma, np.float32)


class KernelDensity(Scorer):
    """Minus the log density of a Gaussian kernel estimate, up to a positive affine map.

    score(x) = -(1/gamma) log Σ_i exp(2 gamma <x, x_i>), x and x_i of length 1. The log density of
    scikit-learn's `KernelDensity(bandwidth=1/√(2 gamma))` is -gamma score plus a constant.

    Attributes:
      train: the features, of length 1.
      gamma: of the kernel exp(-gamma ‖x - y‖²).

    """

    kind = "kde"

    train: Float[np.ndarray, "samples dim"]
    gamma: Float[np.ndarray, ""]

    @classmethod
    def fit(cls, features: Features, *, gamma: float | None = None) -> "KernelDensity":
        """Remembers the features; gamma is by the rule unless given."""
        train = host_unit_rows(training_features(features, "the kde scorer"))
        return cls(np.asarray(len(train), np.int32), train, _gamma(gamma, train))

    @property
    def dimension(self) -> int:
        """Columns of the features it takes."""
        return self.train.shape[1]

    def apply(self, features: Float[Array, "count dim"]) -> Float[Array, "count"]:
        """The scores as a pure function."""
        return _density(whole_rows(self.train), self.gamma, (features,))

    def _score(self, features: Features, mesh: Mesh) -> Scores:
        split = split_rows(self.train, None, mesh)
        return sharded_over_rows(_density, split, self.gamma, (features,), mesh)

    @property
    def about(self) -> str:
        """One line for a report."""
        return f"{super().about}; gamma {float(self.gamma):.4g}"


def _density(rows: SplitRows, gamma: Any, queries: Any, axes: tuple[str, ...] = ()) -> Array:
    # of length 1, ‖x - y‖² is 2 - 2 <x, y>
    return -log_sums(unit_rows(queries[0]), rows, gamma, axes=axes) / gamma - 2


class OneClassSVM(Scorer):
    """One-class support vector machine with a Gaussian kernel, fitted by scikit-learn.

    score(x) = -Σ_i alpha_i exp(-gamma ‖x - x_i‖²) over the support vectors: minus `score_samples`.

    Attributes:
      train: support vectors, of length 1.
      log_weights: log alpha_i.
      gamma: of the kernel.
      nu: upper bound of the share of training features outside.

    """

    kind = "ocsvm"

    train: Float[np.ndarray, "vectors dim"]
    log_weights: Float[np.ndarray, "vectors"]
    gamma: Float[np.ndarray, ""]
    nu: float = struct.field(pytree_node=False, default=0.5)

    @classmethod
    def fit(cls, features: Features, *, gamma: float | None = None, nu: float = 0.5) -> "OneClassSVM":
        """Fits by scikit-learn and keeps the support vectors; gamma is by the rule unless given."""
        from sklearn import svm

        train = host_unit_rows(training_features(features, "the ocsvm scorer"))
        width = _gamma(gamma, train)
        fitted = svm.OneClassSVM(kernel="rbf", gamma=float(width), nu=_checked_nu(nu)).fit(train)
        return cls(
            samples=np.asarray(len(train), np.int32),
            train=fitted.support_vectors_.astype(np.float32),
            log_weights=np.log(fitted.dual_coef_[0]).astype(np.float32),
            gamma=width,
            nu=nu,
        )

    @property
    def dimension(self) -> int:
        """Columns of the features it takes."""
        return self.train.shape[1]

    def apply(self, features: Float[Array, "count dim"]) -> Float[Array, "count"]:
        """The scores as a pure function."""
        return _support(whole_rows(self.train, self.log_weights), self.gamma, (features,))

    def _score(self, features: Features, mesh: Mesh) -> Scores:
        split = split_rows(self.train, self.log_weights, mesh)
        return sharded_over_rows(_support, split, self.gamma, (features,), mesh)

    @property
    def about(self) -> str:
        """One line for a report."""
        vectors = f"{len(self.train)} support vectors"
        return f"{super().about}; {vectors}, nu {self.nu:g}, gamma {float(self.gamma):.4g}"


def _support(rows: SplitRows, gamma: Any, queries: Any, axes: tuple[str, ...] = ()) -> Array:
    return -jnp.exp(log_sums(unit_rows(queries[0]), rows, gamma, axes=axes))


def _checked_nu(nu: float) -> float:
    if not 0 < nu <= 1:
        raise UserError(f"nu is {nu}; give a number above 0 and up to 1")
    return nu


class LinearOneClassSVM(Scorer):
    """One-class support vector machine with a linear kernel on features as they are, fitted by scikit-learn.

    Attributes:
      weights: score(x) = -<weights, x>: minus `score_samples`.
      nu: upper bound of the share of training features outside.

    """

    kind = "ocsvm_linear"

    weights: Float[np.ndarray, "dim"]
    nu: float = struct.field(pytree_node=False, default=0.5)

    @classmethod
    def fit(cls, features: Features, *, nu: float = 0.5) -> "LinearOneClassSVM":
        """Fits by scikit-learn and keeps the weights."""
        from sklearn import svm

        train = training_features(features, "the ocsvm_linear scorer")
        fitted = svm.OneClassSVM(kernel="linear", nu=_checked_nu(nu)).fit(train)
        return cls(np.asarray(len(train), np.int32), fitted.coef_[0].astype(np.float32), nu)

    @property
    def dimension(self) -> int:
        """Columns of the features it takes."""
        return len(self.weights)

    def apply(self, features: Float[Array, "count dim"]) -> Float[Array, "count"]:
        """The scores as a pure function."""
        return -(features * self.weights).sum(-1)

    @property
    def about(self) -> str:
        """One line for a report."""
        return f"{super().about}; nu {self.nu:g}"


class NearestNeighbours(Scorer):
    """Mean cosine distance to the nearest training features; of one neighbour, 1 - the largest cosine.

    Attributes:
      train: the features, of length 1.
      neighbours: over how many the mean is.

    """

    kind = "knn"

    train: Float[np.ndarray, "samples dim"]
    neighbours: int = struct.field(pytree_node=False, default=1)

    @classmethod
    def fit(cls, features: Features, *, neighbours: int = 1) -> "NearestNeighbours":
        """Remembers the features.

        Raises:
          UserError: fewer features than neighbours.

        """
        if neighbours < 1:
            raise UserError(f"neighbours is {neighbours}; give 1 or more")
        what = f"the knn scorer of {neighbours} neighbours"
        train = training_features(features, what, least=max(2, neighbours))
        return cls(np.asarray(len(train), np.int32), host_unit_rows(train), neighbours)

    @property
    def dimension(self) -> int:
        """Columns of the features it takes."""
        return self.train.shape[1]

    def apply(self, features: Float[Array, "count dim"]) -> Float[Array, "count"]:
        """The scores as a pure function."""
        return _mean_distance(self.neighbours)(whole_rows(self.train), (), (features,))

    def _score(self, features: Features, mesh: Mesh) -> Scores:
        split = split_rows(self.train, None, mesh)
        return sharded_over_rows(_mean_distance(self.neighbours), split, (), (features,), mesh)

    @property
    def about(self) -> str:
        """One line for a report."""
        return f"{super().about}; {self.neighbours} neighbours, cosine"


@functools.cache  # the same function for the same number: compiled once
def _mean_distance(neighbours: int) -> Callable[..., Array]:
    def mean_distance(rows: SplitRows, _: Any, queries: Any, axes: tuple[str, ...] = ()) -> Array:
        return nearest(unit_rows(queries[0]), rows, neighbours, axes=axes).mean(-1)

    return mean_distance
