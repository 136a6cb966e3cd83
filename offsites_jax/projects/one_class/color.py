"""Colour jitter as arXiv 2011.02578 trains with, in an order that each image draws for itself.

The operations are those of `tf.image`: brightness is added, contrast moves each channel from its own mean,
saturation and hue work on the colour hexagon. google-research/deep_representation_one_class shuffles the four
once per run and never cuts values to [0, 1]; here the order is drawn per image, and `clip` is an option.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from offsites_jax.errors import UserError

Image = Float[Array, "height width channels"]
Planes = Float[Array, "channels height width"]
Weights = Float[Array, "height width"] | None

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_LUMA = (0.2989, 0.587, 0.114)


@dataclasses.dataclass(frozen=True)
class Jitter:
    """How far colours move; 0 leaves an operation out.

    Attributes:
      brightness: what is added to all pixels is uniform within this of 0.
      contrast: the factor is uniform within this of 1.
      saturation: the same.
      hue: turn of the colour circle, uniform within this of 0; a whole turn is 1.
      clip: cut the result to [0, 1].

    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    clip: bool = False

    def __post_init__(self) -> None:
        for name, most in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"jitter.{name} is {getattr(self, name)}: it must be in [0, {most}]")


class DrawnJitter(NamedTuple):
    """What happens to one image.

    Attributes:
      brightness: added.
      contrast: factor of the distance from the mean.
      saturation: factor.
      hue: turn.
      rank: place of each operation in the order, by `BRIGHTNESS` … `HUE`.

    """

    brightness: Float[Array, ""]
    contrast: Float[Array, ""]
    saturation: Float[Array, ""]
    hue: Float[Array, ""]
    rank: Int[Array, "4"]


def jitter(key: PRNGKeyArray, image: Image, settings: Jitter, weights: Weights = None) -> Image:
    """Jitters the colours of an image with values around [0, 1].

    Args:
      key: of this image.
      image: of three channels; with another number only brightness and contrast are moved.
      settings: how far.
      weights: which pixels the mean of the contrast is taken over; all unless given.

    """
    if not (settings.brightness or settings.contrast or settings.saturation or settings.hue):
        return image
    recolours = bool(settings.saturation or settings.hue)
    jittered = apply_jitter(image, draw_jitter(key, settings), weights, recolours)
    return jnp.clip(jittered, 0, 1) if settings.clip else jittered


def draw_jitter(key: PRNGKeyArray, settings: Jitter) -> DrawnJitter:
    """Draws amounts and order."""
    amount_key, order_key = jax.random.split(key)
    reach = jnp.array([settings.brightness, settings.contrast, settings.saturation, settings.hue])
    amounts = jnp.array([0.0, 1.0, 1.0, 0.0]) + reach * jax.random.uniform(amount_key, (4,), minval=-1.0)
    brightness, contrast, saturation, hue = amounts
    return DrawnJitter(brightness, contrast, saturation, hue, jax.random.permutation(order_key, 4))


def apply_jitter(
    image: Image,
    drawn: DrawnJitter,
    weights: Weights = None,
    recolours: bool = True,
) -> Image:
    """Applies the four operations in the drawn order, or only the first two: without `recolours`, or colours.

    Brightness and contrast commute, and so do saturation and hue: of an order, only how the two pairs
    interleave matters. So any order is some of a fixed row of five passes, each of which may do nothing.
    """
    planes = jnp.moveaxis(image, -1, 0)  # several times faster: neighbours in memory are treated alike
    if recolours and len(planes) == 3:
        planes = _all_passes(planes, drawn, weights)
    else:
        planes = _affine(planes, drawn.brightness, drawn.contrast, weights)
    return jnp.moveaxis(planes, 0, -1)


def _all_passes(planes: Planes, drawn: DrawnJitter, weights: Weights) -> Planes:
    rank = drawn.rank
    saturation_first = rank[SATURATION] < rank[HUE]

    def affine(planes: Planes, slot: int) -> Planes:
        added = jnp.where(_colour_passes_before(rank, BRIGHTNESS) == slot, drawn.brightness, 0.0)
        factor = jnp.where(_colour_passes_before(rank, CONTRAST) == slot, drawn.contrast, 1.0)
        return _affine(planes, added, factor, weights)

    planes = _recolour(affine(planes, 0), saturation_first, drawn.saturation, drawn.hue)
    planes = _recolour(affine(planes, 1), ~saturation_first, drawn.saturation, drawn.hue)
    return affine(planes, 2)


def _colour_passes_before(rank: Int[Array, "4"], op: int) -> Int[Array, ""]:
    return (rank[SATURATION] < rank[op]).astype(jnp.int32) + (rank[HUE] < rank[op])


def _affine(planes: Planes, added: Array, factor: Array, weights: Weights) -> Planes:
    """Contrast about the mean of each channel, and brightness."""
    mean = jnp.average(planes, (1, 2), weights)[:, None, None]
    return planes * factor + (mean * (1 - factor) + added)


def _recolour(planes: Planes, is_saturation: Bool[Array, ""], factor: Array, turn: Array) -> Planes:
    """Saturation or hue; the largest value of a pixel stays.

    A channel is the largest value minus its distance, which is the spread times a function of the hue.
    Saturation scales the spread, at most to the largest value; a pixel that is nowhere positive turns grey.
    """
    red, green, blue = planes
    top = jnp.maximum(jnp.maximum(red, green), blue)
    spread = top - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(spread > 0, spread, 1.0)
    scale = jnp.where(is_saturation, jnp.clip(top / divisor, 0.0, factor), 1.0)
    sixths = _hue(red, green, blue, divisor) + jnp.where(is_saturation, 0.0, 6 * turn)

    def channel(own_place: float) -> Float[Array, "height width"]:
        away = sixths - own_place
        away -= 6 * jnp.round(away * (1 / 6))  # the shorter way round; many times faster than `%`
        return top - spread * scale * jnp.clip(jnp.abs(away) - 1, 0, 1)

    return jnp.stack([channel(0.0), channel(2.0), channel(4.0)])


def _hue(red: Array, green: Array, blue: Array, spread: Array) -> Float[Array, "height width"]:
    """Place on the colour circle, in sixths of it from red.

    Which channel is largest is found by comparing them with one another, and where two are equal both answers
    agree. Comparing with the maximum would not do: a compiler may round the two differently.
    """
    red_leads = (red >= green) & (red >= blue)
    green_leads = green >= blue
    difference = jnp.where(red_leads, green - blue, jnp.where(green_leads, blue - red, red - green))
    return difference / spread + jnp.where(red_leads, 0.0, jnp.where(green_leads, 2.0, 4.0))


def grey(image: Image) -> Image:
    """All three channels as the luma of Rec. 601; images of one channel stay."""
    if image.shape[-1] != 3:
        return image
    luma = jnp.sum(image * jnp.array(_LUMA), axis=-1, keepdims=True)
    return jnp.broadcast_to(luma, image.shape)
