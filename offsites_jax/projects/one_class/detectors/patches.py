"""Gaussians of patch features: one for every place of a map, or one for all places (arXiv 2104.04015).

Maps come as [locations, images, columns]. Objects that always lie the same way have a Gaussian for each
location, estimated in float32 on the mesh, the locations split over it; other objects and textures share one,
which is the image-level Gaussian of all patches together.

A covariance Σ = BᵀB + a I of few images (B has a row for each) is kept by its rows. Its score is a minimum,

    ½ yᵀ Σ⁻¹ y = ½ min_w (‖y - Bᵀw‖² + a ‖w‖²) / a,    w = (B Bᵀ + a I)⁻¹ B y,

a sum of squares in which the rounding errors of w count only by their square.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.scipy.linalg import cho_solve
from jax.sharding import Mesh
from jaxtyping import Array, Float

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.detectors.base import Scorer, checked, unit_rows, warn_if_few
from offsites_jax.projects.one_class.detectors.blockwise import one_device, sharded_over_queries
from offsites_jax.projects.one_class.detectors.gaussian import (
    REGULARISATION,
    Covariance,
    Gaussian,
    half_mahalanobis,
)

ALIGNED = ("bottle", "cable", "capsule", "metal_nut", "pill", "toothbrush", "transistor", "zipper")
"""Categories of MVTec AD whose objects always lie the same way: one Gaussian for each location."""

_GROUP_FLOATS = 2**24  # of features and matrices that a group of locations may take at once
_MAP_BATCH = 16  # locations at once inside a pure function
_HIGHEST = jax.lax.Precision.HIGHEST

PatchFeatures = Float[np.ndarray, "locations count dim"]
PatchScores = Float[np.ndarray, "locations count"]


class _OfLocations(Scorer):
    """What both forms share: scores of [locations, count, columns], a location against its own Gaussian.

    Attributes:
      mean: of every location.
      normalize: whether features are divided by their length first.

    """

    mean: Float[np.ndarray, "locations dim"]
    normalize: bool = struct.field(pytree_node=False, default=True, kw_only=True)
    covariance: str = struct.field(pytree_node=False, default="ledoit_wolf", kw_only=True)

    @property
    def dimension(self) -> int:
        """Columns of the features it takes."""
        return self.mean.shape[1]

    def parts(self) -> tuple[Array, ...]:
        """The arrays with an entry for every location."""
        return tuple(getattr(self, name) for name in self.shapes() if name != "samples")

    def apply(self, features: Float[Array, "locations count dim"]) -> Float[Array, "locations count"]:
        """The scores as a pure function."""
        of_one = functools.partial(_score_at, type(self), self.normalize)
        return jax.lax.map(
            lambda part: of_one(*part), (features, *map(jnp.asarray, self.parts())), batch_size=_MAP_BATCH
        )

    def score(self, features: PatchFeatures, mesh: Mesh | None = None) -> PatchScores:
        """Float32 scores, groups of locations at a time and split over the mesh (default: one device).

        Raises:
          UserError: features of another shape, or values that are not finite.

        """
        features = _checked_patches(features, f"the {self.kind} scorer", self.mean.shape)
        room = features[0].size + sum(part[0].size for part in self.parts())
        return sharded_over_queries(
            _group_function(type(self), self.normalize),
            (),
            (features, *map(np.asarray, self.parts())),
            mesh or one_device(),
            chunk=max(1, _GROUP_FLOATS // max(room, 1)),
        )

    @property
    def about(self) -> str:
        """One line for a report."""
        return f"{super().about} at each of {len(self.mean)} locations; {self.covariance} covariance"


class LocationGaussians(_OfLocations):
    """A Gaussian for every location, kept by the Cholesky factor of its covariance.

    Attributes:
      cholesky: lower factors.

    """

    kind = "gde_locations"

    cholesky: Float[np.ndarray, "locations dim dim"]

    @staticmethod
    def distance(offsets: Array, cholesky: Array) -> Array:
        """Scores of offsets [count, dim] from the mean of one location."""
        return half_mahalanobis(offsets, cholesky)


class LowRankLocationGaussians(_OfLocations):
    """A Gaussian for every location, kept by the rows B of its covariance BᵀB + a I: for few images.

    Attributes:
      rows: B.
      cholesky: lower factors of B Bᵀ + a I.
      isotropic: a.

    """

    kind = "gde_locations_low_rank"

    rows: Float[np.ndarray, "locations samples dim"]
    cholesky: Float[np.ndarray, "locations samples samples"]
    isotropic: Float[np.ndarray, "locations"]

    @staticmethod
    def distance(offsets: Array, rows: Array, cholesky: Array, isotropic: Array) -> Array:
        """Scores of offsets [count, dim] from the mean of one location."""
        products = jnp.matmul(rows, offsets.T, precision=_HIGHEST)
        weights = cho_solve((cholesky, True), products).T
        rest = offsets - jnp.matmul(weights, rows, precision=_HIGHEST)
        return 0.5 * (jnp.square(rest).sum(-1) / isotropic + jnp.square(weights).sum(-1))


def _score_at(
    scorer: Any, normalize: bool, features: Float[Array, "count dim"], mean: Array, *parts: Array
) -> Float[Array, "count"]:
    return scorer.distance((unit_rows(features) if normalize else features) - mean, *parts)


@functools.cache  # the same function for the same arguments: compiled once
def _group_function(scorer: type[_OfLocations], normalize: bool) -> Callable[..., Array]:
    def scores(_: Any, *group: Array) -> Array:
        return jax.vmap(functools.partial(_score_at, scorer, normalize))(*group)

    return scores


def fit_patches(
    features: PatchFeatures,
    *,
    shared: bool,
    covariance: Covariance = "ledoit_wolf",
    normalize: bool = True,
    mesh: Mesh | None = None,
) -> Scorer:
    """Gaussians of the patches of normal images.

    Args:
      features: [locations, images, columns].
      shared: one Gaussian for all locations, rather than one for each.
      covariance: as for `Gaussian.fit`. The isotropic part of a location's covariance is never below 1e-6 of
        the features' mean squared length, so that a place that never varies (a saturated background) does not
        outweigh all others.
      normalize: divide features by their length.
      mesh: the locations are split over it (default: one device).

    Returns:
      A `Gaussian` if shared; else `LowRankLocationGaussians` where that is the smaller form, or
      `LocationGaussians`. `score_patches` takes any of them.

    Raises:
      UserError: features of another shape, values that are not finite, or fewer than two images.

    """
    features = _checked_patches(features, "patch Gaussians")
    locations, count, dim = features.shape
    if shared:
        rows = features.reshape(locations * count, dim)
        return Gaussian.fit(rows, covariance=covariance, normalize=normalize)
    if count < 2:
        raise UserError("patch Gaussians: a covariance at each location needs two normal images at least")
    warn_if_few(count, dim, "patch Gaussians at each location")
    low_rank = count * (count + dim) < dim * dim
    chunk = max(1, _GROUP_FLOATS // (count * dim + dim * dim))
    fitted = sharded_over_queries(
        _fit_function(low_rank, covariance, normalize), (), (features,), mesh or one_device(), chunk=chunk
    )
    if not all(np.isfinite(part).all() for part in fitted):
        raise UserError("patch Gaussians: a covariance is singular; use covariance ledoit_wolf")
    form = LowRankLocationGaussians if low_rank else LocationGaussians
    return form(np.asarray(count, np.int32), *fitted, normalize=normalize, covariance=covariance)


def score_patches(scorer: Scorer, features: PatchFeatures, mesh: Mesh | None = None) -> PatchScores:
    """Scores of patches; the score of an image is the largest over its locations.

    Args:
      scorer: of `fit_patches`.
      features: [locations, images, columns].
      mesh: to run on (default: one device).

    Raises:
      UserError: features of another shape, or values that are not finite.

    """
    if isinstance(scorer, _OfLocations):
        return scorer.score(features, mesh)
    features = _checked_patches(features, f"the {scorer.kind} scorer")
    return scorer.score(features.reshape(-1, features.shape[2]), mesh).reshape(features.shape[:2])


def apply_patches(
    scorer: Scorer, features: Float[Array, "locations count dim"]
) -> Float[Array, "locations count"]:
    """The same as a pure function, for use inside `jax.jit`."""
    if isinstance(scorer, _OfLocations):
        return scorer.apply(features)
    return jax.lax.map(scorer.apply, features)


@functools.cache
def _fit_function(low_rank: bool, covariance: str, normalize: bool) -> Callable[..., tuple[Array, ...]]:
    def at_location(features: Float[Array, "count dim"]) -> tuple[Array, ...]:
        features = unit_rows(features) if normalize else features
        count, dim = features.shape
        mean = features.mean(axis=0)
        offsets = features - mean
        left = offsets if low_rank else offsets.T
        matrix = jnp.matmul(left, left.T, precision=_HIGHEST) / count
        if covariance == "full":
            keep, isotropic = jnp.ones(()), jnp.asarray(REGULARISATION)
        else:
            shrinkage = _shrinkage(matrix, offsets)
            least = REGULARISATION * jnp.square(features).sum(axis=1).mean()
            keep, isotropic = 1 - shrinkage, jnp.maximum(shrinkage * jnp.trace(matrix) / dim, least)
        cholesky = jnp.linalg.cholesky(keep * matrix + isotropic * jnp.eye(len(matrix)))
        if low_rank:
            return mean, offsets * jnp.sqrt(keep / count), cholesky, isotropic
        return mean, cholesky

    return lambda _, group: jax.vmap(at_location)(group)


def _shrinkage(matrix: Array, offsets: Float[Array, "count dim"]) -> Array:
    """Share of the identity by Ledoit and Wolf; Gram matrix and covariance have the same trace and norm."""
    count, dim = offsets.shape
    squares = jnp.square(matrix).sum()
    distance = squares - jnp.trace(matrix) ** 2 / dim
    noise = (jnp.square(jnp.square(offsets).sum(axis=1)).mean() - squares) / count
    sound = (noise > 0) & (distance > 0)
    return jnp.where(sound, jnp.minimum(noise / jnp.where(sound, distance, 1), 1), 0)


def _checked_patches(features: Any, what: str, expected: tuple[int, ...] = ()) -> PatchFeatures:
    """The features as float32 [locations, count, dim]; `expected` is (locations, dim).

    Raises:
      UserError: another shape, or a value that is not finite.

    """
    features = np.asarray(features)
    if features.ndim != 3 or 0 in features.shape:
        raise UserError(
            f"{what}: patch features of shape {list(features.shape)}; give [locations, images, columns]"
        )
    if expected and (len(features), features.shape[2]) != expected:
        raise UserError(
            f"{what}: patch features of {len(features)} locations and {features.shape[2]} columns, but it "
            f"was fitted to {expected[0]} and {expected[1]}; use images of the same size and the same model"
        )
    return checked(features.reshape(-1, features.shape[2]), what).reshape(features.shape)
