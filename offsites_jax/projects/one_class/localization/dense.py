"""Where an image is anomalous: scores of all its windows, spread over their pixels (arXiv 2104.04015).

    patches = patch_features(network, variables, normal_images, windows)
    scorer = fit_patches(patches, shared=False)
    maps = dense_map(network, variables, scorer, images, windows)       # [images, 57, 57]
    scores, heat = image_scores(maps), upsample(maps, windows)          # [images], [images, 256, 256]

Windows are cut out of the uint8 image a chunk at a time, on the device; at no time do all of them exist.

Convolutions are not shared between overlapping windows. Each pads its own window with zeros, whose influence
moves inwards by a pixel per 3x3 convolution: of a ResNet-18 on 32 pixels it has reached all of the map by the
end of the third stage. Places that it has not reached, where windows agree, take 22 % of the multiplications
(38 % of those on 64 pixels).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int32, UInt8

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.detectors.base import Scorer
from offsites_jax.projects.one_class.detectors.blockwise import one_device, sharded_over_queries
from offsites_jax.projects.one_class.detectors.patches import PatchFeatures, score_patches
from offsites_jax.projects.one_class.model import OneClassNetwork

Images = UInt8[np.ndarray, "images height width channels"]
Maps = Float[np.ndarray, "images rows columns"]
HeatMaps = Float[np.ndarray, "images height width"]
Variables = Mapping[str, Any]

_SIGMA = 3 / 8  # of the window's size: 12 pixels of 32, as liznerski/fcdd takes for MVTec AD
_GROUP_BYTES = 2**28  # of window features that are on the host at once while scoring


@dataclasses.dataclass(frozen=True)
class Windows:
    """All square windows of an image at a stride.

    Attributes:
      size: side in pixels; what the network was trained on.
      stride: from one to the next in pixels; the windows must end where the image does.
      at_once: how many go through the network together, at most. More than a few dozen only pay on
        accelerators.

    """

    size: int = 32
    stride: int = 4
    at_once: int = 512

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise UserError(f"windows.{field.name} is {getattr(self, field.name)}; give 1 or more")

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of windows in an image: 57 x 57 of 256 x 256 pixels by default.

        Raises:
          UserError: an image that the windows do not cover to its last pixel.

        """
        for side in (height, width):
            rest = (side - self.size) % self.stride
            if side < self.size or rest:
                fitting = self.size if side < self.size else side - rest
                raise UserError(
                    f"windows of {self.size} pixels at stride {self.stride} do not cover {side} pixels; "
                    f"resize images to {fitting}, or to any multiple of {self.stride} more"
                )
        return (height - self.size) // self.stride + 1, (width - self.size) // self.stride + 1


def window_features(
    network: OneClassNetwork,
    variables: Variables,
    image: UInt8[Array, "height width channels"],
    windows: Windows,
) -> Float[Array, "locations features"]:
    """Pooled features of all windows of an image, row by row: a pure function.

    A window is what the network was trained on, zeros around it included: each convolution pads it anew. So
    its features are those of the window alone.

    Args:
      network: in evaluation mode.
      variables: of the network.
      image: pixels.
      windows: which.

    """
    corners = window_corners(windows, *image.shape[:2])
    size = (windows.size, windows.size, image.shape[2])

    def of_chunk(corners: Int32[Array, "windows 2"]) -> Float[Array, "windows features"]:
        cut = jax.vmap(lambda corner: jax.lax.dynamic_slice(image, (*corner, 0), size))(corners)
        return outputs(network, variables, cut.astype(jnp.float32) / 255)["pooled"]

    return in_equal_chunks(of_chunk, corners, windows.at_once)


def outputs(
    network: OneClassNetwork, variables: Variables, pixels: Float[Array, "count height width channels"]
) -> dict[str, Array]:
    """All outputs of the network in evaluation mode, by name."""
    return cast(dict[str, Array], network.apply(variables, pixels, train=False))


def window_corners(windows: Windows, height: int, width: int) -> Int32[np.ndarray, "locations 2"]:
    """Top and left of every window, row by row."""
    rows, columns = np.indices(windows.grid(height, width), np.int32)
    return windows.stride * np.stack([rows, columns], -1).reshape(-1, 2)


def in_equal_chunks(
    function: Callable[[Array], Array], rows: Int32[np.ndarray, "rows *rest"], at_once: int
) -> Array:
    """`function(rows)`, of at most `at_once` rows at a time; some of the last may be worked out twice."""
    count = len(rows)
    chunks = -(-count // at_once)
    size = -(-count // chunks)
    filled = np.pad(rows, ((0, chunks * size - count), *((0, 0),) * (rows.ndim - 1)), "edge")
    results = jax.lax.map(function, jnp.asarray(filled).reshape(chunks, size, *rows.shape[1:]))
    return results.reshape(-1, *results.shape[2:])[:count]


@functools.cache  # the same function for the same arguments: compiled once
def _features_of(network: OneClassNetwork, windows: Windows) -> Callable[..., Array]:
    def features(variables: Variables, images: Array) -> Array:
        return jax.lax.map(lambda image: window_features(network, variables, image, windows), images)

    return features


def patch_features(
    network: OneClassNetwork,
    variables: Variables,
    images: Images,
    windows: Windows = Windows(),
    mesh: Mesh | None = None,
) -> PatchFeatures:
    """Features of all windows as `fit_patches` and `score_patches` take them: [locations, images, columns].

    They take a lot of memory: 6.7 MB an image of 256 x 256 pixels, with the default windows and 512 columns.

    Args:
      network: of the model.
      variables: `params` and `batch_stats`.
      images: of equal size.
      windows: which.
      mesh: the images are split over it (default: one device).

    Raises:
      UserError: images of another type, or that the windows do not cover.

    """
    return np.moveaxis(_by_image(network, variables, images, windows, mesh), 0, 1)


def _by_image(
    network: OneClassNetwork, variables: Variables, images: Images, windows: Windows, mesh: Mesh | None
) -> Float[np.ndarray, "images locations features"]:
    images = checked_images(images)
    windows.grid(*images.shape[1:3])
    return sharded_over_queries(
        _features_of(network, windows), variables, (images,), mesh or one_device(), chunk=1
    )


def dense_map(
    network: OneClassNetwork,
    variables: Variables,
    scorer: Scorer,
    images: Images,
    windows: Windows = Windows(),
    mesh: Mesh | None = None,
) -> Maps:
    """The score of every window: one map an image, float32, larger is more anomalous.

    Args:
      network: of the model; what its features are is part of it.
      variables: `params` and `batch_stats`.
      scorer: of `fit_patches`, or any other fitted to features of single patches.
      images: of equal size.
      windows: those that the scorer was fitted to.
      mesh: images, and then locations, are split over it (default: one device).

    Raises:
      UserError: images of another type, or that the windows do not cover; a scorer of another number of
        columns or locations.

    """
    images = checked_images(images)
    rows, columns = windows.grid(*images.shape[1:3])
    group = max(1, _GROUP_BYTES // (4 * rows * columns * scorer.dimension))
    scores = [
        score_patches(
            scorer, patch_features(network, variables, images[start : start + group], windows, mesh), mesh
        ).T
        for start in range(0, len(images), group)
    ]
    return np.concatenate(scores).reshape(-1, rows, columns)


def image_scores(maps: Maps) -> Float[np.ndarray, "images"]:
    """The score of an image: that of its most anomalous window."""
    return maps.max((1, 2))


def upsample(
    maps: Maps, windows: Windows = Windows(), *, sigma: float | None = None, normalize_borders: bool = False
) -> HeatMaps:
    """Heat maps of the size of the images: every window's score spread over its pixels by a Gaussian.

    A transposed convolution with `gaussian_kernel` and the windows' stride, unpadded. Pixels near the rim are
    in fewer windows and thus cooler than inside.

    Args:
      maps: scores of windows.
      windows: which windows they are of.
      sigma: of the Gaussian in pixels; none is 3/8 of the window's size.
      normalize_borders: divide by the upsampled map of ones: then a constant map stays constant.

    """
    kernel = gaussian_kernel(windows.size, sigma)
    down, across = (_spread(kernel, count, windows.stride) for count in maps.shape[1:])
    heat = down @ maps.astype(np.float64) @ across.T
    if normalize_borders:
        heat /= np.outer(down.sum(1), across.sum(1))
    return heat.astype(np.float32)


def gaussian_kernel(size: int, sigma: float | None = None) -> Float[np.ndarray, "size"]:
    """Each factor of the kernel, which is its outer product with itself (liznerski/fcdd).

    1 at the centre of an odd size. An even size has no centre: it is that of one less, the centre taken
    twice, all halved. The sum is not 1.

    Args:
      size: in pixels.
      sigma: in pixels; none is 3/8 of the size.

    Raises:
      UserError: a sigma that is not positive.

    """
    sigma = _SIGMA * size if sigma is None else sigma
    if not sigma > 0:
        raise UserError(f"sigma is {sigma}; give a positive number of pixels")
    reach = (size - 1) // 2
    odd = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    return odd if size % 2 else np.insert(odd, reach, odd[reach]) / 2


def _spread(
    kernel: Float[np.ndarray, "size"], count: int, stride: int
) -> Float[np.ndarray, "pixels windows"]:
    """The matrix that puts the kernel, times a window's value, where each of `count` windows lies."""
    matrix = np.zeros(((count - 1) * stride + len(kernel), count))
    for window in range(count):
        matrix[window * stride : window * stride + len(kernel), window] = kernel
    return matrix


def checked_images(images: Any) -> Images:
    """The images as they are.

    Raises:
      UserError: anything but uint8 [images, height, width, channels], or none.

    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise UserError(
            f"images of {images.dtype}{list(images.shape)}; give uint8 [images, height, width, channels]"
        )
    return images
