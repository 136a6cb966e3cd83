"""Why an image has its score: gradients of a fitted scorer, through the network, to maps and to pixels."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.detectors.base import Scorer
from offsites_jax.projects.one_class.detectors.blockwise import one_device, sharded_over_queries
from offsites_jax.projects.one_class.localization.dense import (
    HeatMaps,
    Images,
    Variables,
    checked_images,
    outputs,
)
from offsites_jax.projects.one_class.model import OneClassNetwork

STEPS = 64
"""Points of the midpoint rule along the way from the baseline to the image."""

_AT_ONCE = 16  # images, or points of the way of one on each device


def grad_cam(
    network: OneClassNetwork,
    variables: Variables,
    scorer: Scorer,
    images: Images,
    mesh: Mesh | None = None,
) -> HeatMaps:
    """GradCAM of the anomaly score (Selvaraju et al. 2017, as in arXiv 2104.04015, sec. 4.2).

    The channels of the last map, weighted by the mean gradient of the score, positive part, bilinearly
    enlarged. Where the scorer divides features by their length, the gradient goes through that.

    Args:
      network: of the model; what it pools is the map.
      variables: `params` and `batch_stats`.
      scorer: of whole images, fitted to pooled features.
      images: of the size that the network was trained on.
      mesh: the images are split over it (default: one device).

    Returns:
      Float32 [images, height, width], not negative; 0 where nothing raises the score.

    Raises:
      UserError: images of another type, or a scorer of another number of columns.

    """
    images = checked_images(images)
    return sharded_over_queries(
        _cam_of(network), (variables, scorer), (images,), mesh or one_device(), chunk=_AT_ONCE
    )


@functools.cache  # the same function for the same arguments: compiled once
def _cam_of(network: OneClassNetwork) -> Callable[..., Array]:
    def cams(whole: tuple[Variables, Scorer], images: Array) -> Array:
        variables, scorer = whole
        maps = outputs(network, variables, images.astype(jnp.float32) / 255)["map"]
        cam = class_activation(maps, scorer)
        return jax.image.resize(cam, images.shape[:3], "bilinear")

    return cams


def class_activation(
    maps: Float[Array, "images rows columns features"], scorer: Scorer
) -> Float[Array, "images rows columns"]:
    """GradCAM at the resolution of the maps: ReLU(Σ_k w_k A_k), w_k the mean over places of ∂score/∂A_k."""
    maps = maps.astype(jnp.promote_types(maps.dtype, jnp.float32))

    def score(maps: Array) -> Array:
        return _scores(scorer, maps.mean((1, 2))).sum()

    weights = jax.grad(score)(maps).mean((1, 2))
    return jax.nn.relu(jnp.einsum("nhwk,nk->nhw", maps, weights, precision="highest"))


@dataclasses.dataclass(frozen=True)
class Attributions:
    """What each pixel contributes to the score.

    Attributes:
      values: by channel; their sum is about `scores` - `baseline_score`.
      scores: of the images.
      baseline_score: of the baseline.

    """

    values: Float[np.ndarray, "images height width channels"]
    scores: Float[np.ndarray, "images"]
    baseline_score: float

    @property
    def heat(self) -> HeatMaps:
        """What each pixel contributes, channels together; negative where it lowers the score."""
        return self.values.sum(-1)

    @property
    def gap(self) -> Float[np.ndarray, "images"]:
        """How far the sum is from what it should be, as a share of that; more steps make it smaller."""
        wanted = self.scores.astype(np.float64) - self.baseline_score
        found = self.values.sum((1, 2, 3), dtype=np.float64)
        return np.abs(found - wanted) / np.maximum(np.abs(wanted), np.finfo(np.float32).tiny)


def integrated_gradients(
    network: OneClassNetwork,
    variables: Variables,
    scorer: Scorer,
    images: Images,
    baseline: Float[np.ndarray, "height width channels"],
    *,
    steps: int = STEPS,
    mesh: Mesh | None = None,
) -> Attributions:
    """Integrated gradients of the score by pixels (Sundararajan et al. 2017), by the midpoint rule.

    Args:
      network: of the model.
      variables: `params` and `batch_stats`.
      scorer: of whole images: gde, kde, ocsvm ...; fitted to pooled features.
      images: of the size that the network was trained on.
      baseline: where the way starts, in [0, 1], such as the `mean_image` of the training images.
      steps: points on the way.
      mesh: the images are split over it (default: one device).

    Raises:
      UserError: images of another type or size than the baseline, or a scorer of another number of columns.

    """
    images = checked_images(images)
    baseline = np.asarray(baseline, np.float32)
    if baseline.shape != images.shape[1:]:
        raise UserError(
            f"a baseline of {list(baseline.shape)} for images of {list(images.shape[1:])}; both must have "
            "the same size"
        )
    if steps < 1:
        raise UserError(f"steps is {steps}; give 1 or more")
    mesh = mesh or one_device()
    places = (np.arange(steps, dtype=np.float32) + 0.5) / steps
    at_once = next(count for count in range(min(steps, _AT_ONCE), 0, -1) if steps % count == 0)
    values = np.zeros(images.shape, np.float64)
    for start in range(0, steps, at_once):  # here, since loops on the device slow convolutions down on CPUs
        whole = variables, scorer, baseline, places[start : start + at_once]
        values += sharded_over_queries(_attributions_of(network), whole, (images,), mesh, chunk=1)
    scores = sharded_over_queries(_scores_of(network), (variables, scorer), (images,), mesh, chunk=_AT_ONCE)
    at_baseline = jax.jit(_scores_of(network))((variables, scorer), 255 * jnp.asarray(baseline)[None])
    return Attributions((values / steps).astype(np.float32), scores, float(at_baseline[0]))


@functools.cache
def _attributions_of(network: OneClassNetwork) -> Callable[..., Array]:
    """A function that sums gradients at some places on the way from the baseline, times the way."""

    def of_images(whole: tuple[Variables, Scorer, Array, Array], images: Array) -> Array:
        variables, scorer, baseline, places = whole
        way = images.astype(jnp.float32) / 255 - baseline
        points = baseline + places[:, None, None, None, None] * way

        def score(pixels: Float[Array, "count height width channels"]) -> Float[Array, ""]:
            return _scores(scorer, outputs(network, variables, pixels)["pooled"]).sum()

        gradients = jax.grad(score)(points.reshape(-1, *way.shape[1:]))
        return gradients.reshape(points.shape).sum(0) * way

    return of_images


@functools.cache
def _scores_of(network: OneClassNetwork) -> Callable[..., Array]:
    def of_images(whole: tuple[Variables, Scorer], images: Array) -> Array:
        variables, scorer = whole
        return _scores(scorer, outputs(network, variables, images.astype(jnp.float32) / 255)["pooled"])

    return of_images


def mean_image(images: Images) -> Float[np.ndarray, "height width channels"]:
    """The mean of the images, in [0, 1]: the baseline for `integrated_gradients`."""
    return (checked_images(images).mean(0, dtype=np.float64) / 255).astype(np.float32)


def _scores(scorer: Scorer, features: Float[Array, "count features"]) -> Float[Array, "count"]:
    if features.shape[1] != scorer.dimension:
        raise UserError(
            f"the model has features of {features.shape[1]} columns but the {scorer.kind} scorer was fitted "
            f"to {scorer.dimension}; take them from the same model and layer"
        )
    return scorer.apply(features)
