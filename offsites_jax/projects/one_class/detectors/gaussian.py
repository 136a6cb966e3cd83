"""Scorers that keep moments of the training features: one Gaussian (GDE) and a mixture of them.

Mean and covariance are summed in float64 on the host, block by block: the small eigenvalues, on which the
score depends most, would drown in float32 rounding of the large ones. Scoring is float32 on the mesh, by
solving with the Cholesky factor.
"""

from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.detectors.base import (
    Features,
    Scorer,
    host_unit_rows,
    training_features,
    unit_rows,
    warn_if_few,
)

Covariance = Literal["ledoit_wolf", "full"]

REGULARISATION = 1e-6
"""Added to every variance of a "full" covariance (google-research/deep_representation_one_class)."""

_FLOOR = 1e-9  # of the isotropic part of a shrunk covariance, in mean squared lengths of the features
_BLOCK_ROWS = 4096

Mean = Float[np.ndarray, "dim"]
Matrix = Float[np.ndarray, "dim dim"]


class Gaussian(Scorer):
    """Gaussian density estimate: score(f) = ½ (f - μ)ᵀ Σ⁻¹ (f - μ) (CutPaste, arXiv 2104.04015, eq. 3).

    Attributes:
      mean: μ.
      cholesky: lower factor of Σ.
      shrinkage: share of Σ that is a multiple of the identity (Ledoit-Wolf); 0 for "full".
      covariance: how Σ was estimated, "ledoit_wolf" or "full".
      normalize: whether features are divided by their length first.

    """

    kind = "gde"

    mean: Float[np.ndarray, "dim"]
    cholesky: Float[np.ndarray, "dim dim"]
    shrinkage: Float[np.ndarray, ""]
    covariance: str = struct.field(pytree_node=False, default="ledoit_wolf")
    normalize: bool = struct.field(pytree_node=False, default=True)

    @classmethod
    def fit(
        cls, features: Features, *, covariance: Covariance = "ledoit_wolf", normalize: bool = True
    ) -> "Gaussian":
        """Estimates mean and covariance.

        Args:
          features: of normal images.
          covariance: "ledoit_wolf" as `sklearn.covariance.LedoitWolf`, sound with fewer features
            than columns; "full" as `sklearn.mixture.GaussianMixture(1)`, 1e-6 added to the variances.
          normalize: divide features by their length.

        Raises:
          UserError: features that are not sound, or a covariance that has no Cholesky factor.

        """
        features = training_features(features, "the gde scorer")
        warn_if_few(len(features), features.shape[1], "the gde scorer")
        mean, scatter, fourth = moments(features, normalize=normalize)
        shrinkage = 0.0
        if covariance == "full":
            matrix = scatter + REGULARISATION * np.eye(len(mean))
        else:
            shrinkage = ledoit_wolf_shrinkage(scatter, fourth, len(features))
            matrix = shrunk(scatter, shrinkage, float(np.trace(scatter) + mean @ mean))
        return cls(
            samples=np.asarray(len(features), np.int32),
            mean=mean.astype(np.float32),
            cholesky=_cholesky(matrix).astype(np.float32),
            shrinkage=np.asarray(shrinkage, np.float32),
            covariance=covariance,
            normalize=normalize,
        )

    @property
    def dimension(self) -> int:
        """Columns of the features it takes."""
        return len(self.mean)

    def apply(self, features: Float[Array, "count dim"]) -> Float[Array, "count"]:
        """The scores as a pure function."""
        features = unit_rows(features) if self.normalize else features
        return half_mahalanobis(features - self.mean, self.cholesky)

    @property
    def about(self) -> str:
        """One line for a report."""
        kinds = {
            "ledoit_wolf": f"Ledoit-Wolf covariance, shrinkage {float(self.shrinkage):.3g}",
            "full": f"full covariance + {REGULARISATION:g}",
        }
        return f"{super().about}; {kinds[self.covariance]}"


class Mixture(Scorer):
    """Minus the log density of a mixture of Gaussians with full covariances, fitted by scikit-learn.

    Attributes:
      log_weights: of the components.
      means: of the components.
      choleskys: lower factors of their covariances.

    """

    kind = "gmm"

    log_weights: Float[np.ndarray, "components"]
    means: Float[np.ndarray, "components dim"]
    choleskys: Float[np.ndarray, "components dim dim"]

    @classmethod
    def fit(cls, features: Features, *, components: int = 4, seed: int = 0) -> "Mixture":
        """Fits by scikit-learn, 1e-6 added to the variances."""
        from sklearn import mixture

        if components < 1:
            raise UserError(f"components is {components}; give 1 or more")
        what = f"the gmm scorer of {components} components"
        features = training_features(features, what, least=max(2, components))
        warn_if_few(len(features) // components, features.shape[1], what)
        fitted = mixture.GaussianMixture(
            components, covariance_type="full", reg_covar=REGULARISATION, random_state=seed
        ).fit(host_unit_rows(features).astype(np.float64))
        return cls(
            samples=np.asarray(len(features), np.int32),
            log_weights=np.log(fitted.weights_).astype(np.float32),
            means=fitted.means_.astype(np.float32),
            choleskys=np.stack([_cholesky(matrix) for matrix in fitted.covariances_]).astype(np.float32),
        )

    @property
    def dimension(self) -> int:
        """Columns of the features it takes."""
        return self.means.shape[1]

    def apply(self, features: Float[Array, "count dim"]) -> Float[Array, "count"]:
        """The scores as a pure function."""
        unit = unit_rows(features)
        parts = self.log_weights, self.means, self.choleskys
        logs = jax.lax.map(lambda part: _log_density(unit, *part), parts)
        return -jax.nn.logsumexp(logs, axis=0)

    @property
    def about(self) -> str:
        """One line for a report."""
        return f"{super().about}; {len(self.means)} Gaussians, full covariance + {REGULARISATION:g}"


def half_mahalanobis(
    offsets: Float[Array, "count dim"], cholesky: Float[Array | np.ndarray, "dim dim"]
) -> Float[Array, "count"]:
    """½ yᵀ (L Lᵀ)⁻¹ y of each row y."""
    return 0.5 * jnp.square(solve_triangular(cholesky, offsets.T, lower=True)).sum(axis=0)


def _log_density(unit: Array, log_weight: Array, mean: Array, cholesky: Array) -> Array:
    log_scale = jnp.log(jnp.diagonal(cholesky)).sum() + 0.5 * len(mean) * jnp.log(2 * jnp.pi)
    return log_weight - log_scale - half_mahalanobis(unit - mean, cholesky)


def moments(features: Features, *, normalize: bool) -> tuple[Mean, Matrix, float]:
    """Mean, covariance (divided by the count) and mean ‖x - mean‖⁴ of the features, in float64."""
    count, dim = features.shape
    mean = np.zeros(dim)
    for block in _blocks(features, normalize):
        mean += block.sum(axis=0)
    mean /= count
    scatter, fourth = np.zeros((dim, dim)), 0.0
    for block in _blocks(features, normalize):
        block -= mean
        scatter += block.T @ block
        fourth += float(np.square(np.square(block).sum(axis=1)).sum())
    return mean, scatter / count, fourth / count


def _blocks(features: Features, normalize: bool) -> Iterator[Float[np.ndarray, "rows dim"]]:
    """Pieces of the features in float64, so that there never is such a copy of them all."""
    for start in range(0, len(features), _BLOCK_ROWS):
        block = features[start : start + _BLOCK_ROWS].astype(np.float64)
        if normalize:
            lengths = np.sqrt(np.square(block).sum(axis=1, keepdims=True))
            block /= np.where(lengths == 0, 1, lengths)
        yield block


def ledoit_wolf_shrinkage(scatter: Matrix, fourth: float, count: int) -> float:
    """Share of the identity in the covariance that is closest to the true one (Ledoit and Wolf, 2004).

    Args:
      scatter: covariance of the sample, divided by its count.
      fourth: mean of ‖x - μ‖⁴.
      count: of the sample.

    """
    dim = len(scatter)
    squares = float(np.square(scatter).sum())
    distance = squares - np.trace(scatter) ** 2 / dim
    noise = (fourth - squares) / count
    return min(noise / distance, 1.0) if noise > 0 and distance > 0 else 0.0


def shrunk(scatter: Matrix, shrinkage: float, mean_square: float) -> Matrix:
    """The shrunk covariance (1 - shrinkage) S + isotropic I.

    The isotropic part is shrinkage x mean variance, and never below 1e-9 of the features' mean squared
    length: features that hardly vary keep a covariance that can be inverted.
    """
    isotropic = max(shrinkage * float(np.trace(scatter)) / len(scatter), _FLOOR * mean_square)
    return (1 - shrinkage) * scatter + isotropic * np.eye(len(scatter))


def _cholesky(matrix: Matrix) -> Matrix:
    try:
        return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        raise UserError(
            "the covariance of the training features is singular; use covariance ledoit_wolf, or normalise "
            "the features"
        ) from None
