"""Random views of one image, as pure functions of a key: crops, flips, turns, colour, blur.

All have static shapes and can be jitted and mapped over a batch: what is random are the coordinates that
pixels are taken from. Images are float32, [height, width, channels], with values around [0, 1].
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.color import Image, Jitter, grey, jitter

BLUR_SIGMA = (0.1, 2.0)  # pixels

NUM_TURNS = 8


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to an image, in this order; everything is off unless asked for.

    Attributes:
      translate: shift by whole pixels, up to this share of the side each way; the image is mirrored at its
        borders.
      min_crop: side of the smallest square crop as a share of the image's, resized back; 1 is off.
      flip: mirror half of the images, left to right.
      jitter: of colours.
      grey: probability of losing all colour.
      blur: probability of a Gaussian blur.

    """

    translate: float = 0.0
    min_crop: float = 1.0
    flip: bool = False
    jitter: Jitter = Jitter()
    grey: float = 0.0
    blur: float = 0.0

    def __post_init__(self) -> None:
        for name in ("translate", "grey", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augmentation.{name} is {getattr(self, name)}: it must be in [0, 1]")
        if not 0 < self.min_crop <= 1:
            raise UserError(f"augmentation.min_crop is {self.min_crop}: it must be in (0, 1]")


def augment(key: PRNGKeyArray, image: Image, settings: Augmentation) -> Image:
    """One random view of an image."""
    keys = jax.random.split(key, 6)
    if settings.translate:
        image = random_translate(keys[0], image, settings.translate)
    if settings.min_crop < 1:
        image = random_crop_resize(keys[1], image, settings.min_crop)
    if settings.flip:
        image = random_flip(keys[2], image)
    image = jitter(keys[3], image, settings.jitter)
    if settings.grey:
        image = jnp.where(jax.random.bernoulli(keys[4], settings.grey), grey(image), image)
    if settings.blur:
        image = random_blur(keys[5], image, settings.blur)
    return image


def to_unit(
    images: UInt8[Array, "*batch height width channels"],
) -> Float[Array, "*batch height width channels"]:
    """Bytes as float32 in [0, 1]."""
    # Compilers may turn a division by a constant into this, and have nothing to choose here.
    return images.astype(jnp.float32) * (1 / 255)


def random_translate(key: PRNGKeyArray, image: Image, share: float) -> Image:
    """Shifts by whole pixels, up to `share` of the side each way, into the mirrored image."""
    size = image.shape[:2]
    most = jnp.array([int(share * side) for side in size])
    shifts = jax.random.randint(key, (2,), -most, most + 1)
    rows, columns = (
        _mirrored(shift + jnp.arange(side), side - 1) for shift, side in zip(shifts, size, strict=True)
    )
    return image[rows][:, columns]


def _mirrored(place: Int[Array, "places"], last: int) -> Int[Array, "places"]:
    """Places of an image that goes on as its mirror image; the borders are not repeated."""
    return jnp.abs(last - jnp.abs(last - jnp.abs(place)))


def random_window(key: PRNGKeyArray, image: Image, side: int) -> Float[Array, "{side} {side} channels"]:
    """A square of that side from anywhere in the image, as it is.

    Raises:
      UserError: the image is smaller.

    """
    height, width, _ = image.shape
    if side > min(height, width):
        raise UserError(f"window is {side} pixels: images are only {height} x {width}; use at most that")
    top, left = jax.random.randint(key, (2,), 0, jnp.array([height - side + 1, width - side + 1]))
    return jax.lax.dynamic_slice(image, (top, left, 0), (side, side, image.shape[-1]))


class Crop(NamedTuple):
    """A square of an image, in pixels."""

    top: Int[Array, ""]
    left: Int[Array, ""]
    side: Int[Array, ""]


def random_crop_resize(key: PRNGKeyArray, image: Image, min_share: float) -> Image:
    """A random square crop at the size of the image; sides are equally likely from the share to all of it."""
    size = _square_side(image)
    side_key, corner_key = jax.random.split(key)
    side = jax.random.randint(side_key, (), int(min_share * size), size + 1)
    top, left = jax.random.randint(corner_key, (2,), 0, size - side + 1)
    return crop_resize(image, Crop(top, left, side))


def crop_resize(image: Image, crop: Crop) -> Image:
    """Resizes a square part to the size of the whole: bilinear, half-pixel centres, no antialiasing.

    That is `tf.image.resize` of the part alone: nothing outside it is read.
    """
    size = _square_side(image)
    # Coordinates are whole numbers, of which `parts` make a pixel: no rounding decides what is read.
    parts = 2 * size
    position = jnp.clip((2 * jnp.arange(size) + 1) * crop.side - size, 0, parts * (crop.side - 1))
    low = position // parts
    high = jnp.minimum(low + 1, crop.side - 1)
    across = ((position - parts * low) * (1 / parts))[:, None]
    rows = _mix(image[crop.top + low], image[crop.top + high], across[..., None])
    return _mix(rows[:, crop.left + low], rows[:, crop.left + high], across)


def _mix(low: Array, high: Array, share: Array) -> Array:
    return low * (1 - share) + high * share


def random_flip(key: PRNGKeyArray, image: Image) -> Image:
    """Mirrors left to right, or not."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def random_blur(key: PRNGKeyArray, image: Image, probability: float) -> Image:
    """Blurs, or not, by a Gaussian of 0.1 to 2 pixels over a window of a tenth of the height, made odd."""
    sigma_key, coin_key = jax.random.split(key)
    sigma = jax.random.uniform(sigma_key, (), minval=BLUR_SIGMA[0], maxval=BLUR_SIGMA[1])
    return jnp.where(jax.random.bernoulli(coin_key, probability), blur(image, sigma), image)


def blur(image: Image, sigma: Float[Array, ""]) -> Image:
    """Gaussian blur; the image is mirrored at its borders."""
    radius = image.shape[0] // 10 // 2
    weights = jnp.exp(-jnp.square(jnp.arange(-radius, radius + 1)) / (2 * sigma**2))
    weights = weights / weights.sum()
    for axis in (0, 1):
        size = image.shape[axis]
        padding = [(radius, radius) if each == axis else (0, 0) for each in range(3)]
        padded = jnp.pad(image, padding, "reflect")
        parts = (
            jax.lax.slice_in_dim(padded, start, start + size, axis=axis) for start in range(2 * radius + 1)
        )
        image = sum(
            (weight * part for weight, part in zip(weights, parts, strict=True)), jnp.zeros_like(image)
        )
    return image


def turn(image: Image, number: Int[Array, ""] | int) -> Image:
    """One of the eight symmetries of a square.

    Args:
      image: square.
      number: 2 * quarter turns against the clock + 1 if mirrored, left to right, after turning; the order of
        google-research/deep_representation_one_class.

    Raises:
      UserError: the image is not square, and would change its size.

    """
    _square_side(image)
    number = jnp.asarray(number)
    quarters, mirrored = number // 2, number % 2 == 1
    image = jnp.where(quarters % 2 == 1, image.swapaxes(0, 1), image)
    image = jnp.where((quarters == 1) | (quarters == 2), image[::-1], image)
    return jnp.where((quarters >= 2) ^ mirrored, image[:, ::-1], image)


def _square_side(image: Image) -> int:
    height, width, _ = image.shape
    if height != width:
        raise UserError(
            f"images are {height} x {width}: turning and cropping them takes square ones; resize them"
        )
    return height
