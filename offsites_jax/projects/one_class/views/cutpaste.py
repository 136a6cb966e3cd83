"""Made-up defects in one image: CutPaste, its scar, and what arXiv 2104.04015 compares them with (table 4).

Pure functions of a key with static shapes. A rectangle of random size, which may be turned, is a mask over a
window large enough for the largest. Which pixels are meant follows from whole numbers alone, so that no
compiler's rounding can change it. Images are float32, [height, width, channels], in [0, 1] or around it.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.color import Image, Jitter, jitter

Fill = Literal["grey", "mean", "color"]

Size = tuple[int, ...]
"""Height and width of an image in pixels."""

Sides = tuple[Int[Array, ""], Int[Array, ""]]
"""Height and width of a rectangle in whole pixels."""

Window = tuple[Int[Array, "2"], Bool[Array, "rows columns"]]
"""Top and left of a part of the image, and which of its pixels are meant."""

_GREY = 0.5
_CHOICES = 4096  # values of an area, an aspect or an angle, evenly spread, that one is drawn from
_PART_BITS, _TURN_BITS = 6, 12
_PARTS, _ONE = 1 << _PART_BITS, 1 << _TURN_BITS  # of a pixel; of a cosine or sine


@dataclasses.dataclass(frozen=True)
class Patch:
    """Sizes of the rectangle that CutPaste copies and cutout fills.

    Attributes:
      area: smallest and largest share of the image, equally likely in between.
      aspect: smallest and largest width over height. Narrow (below 1) and wide (above) are equally likely,
        and so are all values of each.

    """

    area: tuple[float, float] = (0.02, 0.15)
    aspect: tuple[float, float] = (0.3, 3.3)

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] < 1:
            raise UserError(f"patch.area is {self.area}: give two rising shares between 0 and 1")
        if not 0 < self.aspect[0] <= 1 <= self.aspect[1]:
            raise UserError(
                f"patch.aspect is {self.aspect}: give one value of at most 1 and one of at least 1"
            )
        if self.area[1] * max(self.aspect[1], 1 / self.aspect[0]) > 1 + 1e-6:
            raise UserError(
                f"patch.area {self.area} with patch.aspect {self.aspect}: the longest patch does not fit "
                "into the image; lower one of them"
            )


@dataclasses.dataclass(frozen=True)
class Scar:
    """Sizes of the long thin rectangle that is turned before it is pasted.

    Attributes:
      width: smallest and largest in whole pixels.
      length: the same, along the height of the image before turning.
      rotation: largest angle either way, in degrees.

    """

    width: tuple[int, int] = (2, 16)
    length: tuple[int, int] = (10, 25)
    rotation: float = 45.0

    def __post_init__(self) -> None:
        for name in ("width", "length"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise UserError(f"scar.{name} is {(low, high)}: give two rising numbers of pixels")
        _check_angle("scar", self.rotation)


@dataclasses.dataclass(frozen=True)
class Confetti:
    """Turned squares of random colours, after the noise of liznerski/fcdd.

    Attributes:
      count: fewest and most, equally likely in between.
      side: smallest and largest, as shares of the image's shorter side.
      rotation: largest angle either way, in degrees.

    """

    count: tuple[int, int] = (1, 4)
    side: tuple[float, float] = (0.033, 0.225)
    rotation: float = 45.0

    def __post_init__(self) -> None:
        if not 1 <= self.count[0] <= self.count[1]:
            raise UserError(f"confetti.count is {self.count}: give two rising numbers, from 1")
        if not 0 < self.side[0] <= self.side[1] <= 0.5:
            raise UserError(f"confetti.side is {self.side}: give two rising shares, at most 0.5")
        _check_angle("confetti", self.rotation)


def _check_angle(where: str, rotation: float) -> None:
    if not 0 <= rotation <= 180:
        raise UserError(f"{where}.rotation is {rotation}: it must be in [0, 180] degrees")


class TurnedBox(NamedTuple):
    """A rectangle turned about its centre, against the clock.

    Attributes:
      center: row and column, in 1/64 pixels.
      sides: height and width, the same.
      turn: cosine and sine of the angle, in 1/4096.

    """

    center: Int[Array, "2"]
    sides: Int[Array, "2"]
    turn: Int[Array, "2"]


def cutpaste(key: PRNGKeyArray, image: Image, patch: Patch, colors: Jitter) -> Image:
    """Copies a rectangle of the image, jitters its colours, and pastes it somewhere else inside."""
    size_key, place_key, color_key = jax.random.split(key, 3)
    size = image.shape[:2]
    sides = draw_sides(size_key, size, patch)
    source, target = draw_corners(place_key, size, sides, 2)
    largest = _largest_sides(size, patch)
    corner = jnp.minimum(target, jnp.array(size) - jnp.array(largest))
    inside = box_mask(largest, target - corner, sides)
    rows, columns = (
        first + jnp.clip(start + jnp.arange(count) - to, 0, side - 1)
        for first, start, count, to, side in zip(source, corner, largest, target, sides, strict=True)
    )
    pasted = jitter(color_key, image[rows][:, columns], colors, weights=inside.astype(jnp.float32))
    return _put(image, (corner, inside), pasted)


def cutout(key: PRNGKeyArray, image: Image, patch: Patch, fill: Fill) -> Image:
    """Fills a rectangle with grey, with the image's mean colour, or with a random one."""
    size_key, corner_key, color_key = jax.random.split(key, 3)
    sides = draw_sides(size_key, image.shape[:2], patch)
    (corner,) = draw_corners(corner_key, image.shape[:2], sides, 1)
    inside = box_mask(image.shape[:2], corner, sides)
    if fill == "color":
        color = jax.random.uniform(color_key, image.shape[-1:])
    else:
        color = image.mean((0, 1)) if fill == "mean" else jnp.full(image.shape[-1:], _GREY)
    return jnp.where(inside[..., None], color, image)


def draw_sides(key: PRNGKeyArray, size: Size, patch: Patch) -> Sides:
    """Height and width of a patch in whole pixels, for an image of that height and width."""
    areas = math.prod(size) * np.linspace(*patch.area, _CHOICES, dtype=np.float32)
    narrow, wide = (
        np.linspace(low, high, _CHOICES // 2, dtype=np.float32)
        for low, high in ((patch.aspect[0], 1), (1, patch.aspect[1]))
    )
    aspects = np.concatenate([narrow, wide])
    shapes = np.stack([1 / aspects, aspects], axis=-1)
    area, aspect = jax.random.randint(key, (2,), 0, _CHOICES)
    # A single product is rounded alike by all.
    sides = jnp.asarray(np.sqrt(areas))[area] * jnp.asarray(np.sqrt(shapes))[aspect]
    height, width = jnp.clip(jnp.round(sides), 1, jnp.array(size)).astype(jnp.int32)
    return height, width


def _largest_sides(size: Size, patch: Patch) -> tuple[int, int]:
    """The greatest height and the greatest width of a patch, in whole pixels."""
    area = patch.area[1] * math.prod(size)
    longest = math.sqrt(area / patch.aspect[0]), math.sqrt(area * patch.aspect[1])
    height, width = (min(math.ceil(side), most) for side, most in zip(longest, size, strict=True))
    return height, width


def draw_corners(key: PRNGKeyArray, size: Size, sides: Sides, count: int) -> Int[Array, "{count} 2"]:
    """Top and left of boxes that are inside the image; all places are equally likely."""
    return jax.random.randint(key, (count, 2), 0, jnp.array(size) - jnp.stack(sides) + 1)


def box_mask(size: Size, corner: Int[Array, "2"], sides: Sides) -> Bool[Array, "height width"]:
    """True inside the box of that top, left, height and width."""
    row, column = jnp.arange(size[0])[:, None] - corner[0], jnp.arange(size[1]) - corner[1]
    return (row >= 0) & (row < sides[0]) & (column >= 0) & (column < sides[1])


def cutpaste_scar(key: PRNGKeyArray, image: Image, scar: Scar, colors: Jitter) -> Image:
    """Copies a thin rectangle of the image, jitters its colours, turns it, and pastes it inside."""
    box_key, source_key, color_key = jax.random.split(key, 3)
    box, side = _draw_scar(box_key, image.shape[:2], scar)
    (corner, inside), offsets = _turned_window(box, side, image.shape[:2])
    height, width = box.sides // _PARTS
    (source,) = draw_corners(source_key, image.shape[:2], (height, width), 1)
    rows, columns = (
        start + jnp.clip(offset, 0, count - 1)
        for start, offset, count in zip(source, offsets, (height, width), strict=True)
    )
    pasted = jitter(color_key, image[rows, columns], colors, weights=inside.astype(jnp.float32))
    return _put(image, (corner, inside), pasted)


def color_scar(key: PRNGKeyArray, image: Image, scar: Scar) -> Image:
    """Fills a turned thin rectangle with a random colour."""
    box_key, color_key = jax.random.split(key)
    box, side = _draw_scar(box_key, image.shape[:2], scar)
    window, _ = _turned_window(box, side, image.shape[:2])
    return _put(image, window, jax.random.uniform(color_key, image.shape[-1:]))


def confetti(key: PRNGKeyArray, image: Image, settings: Confetti) -> Image:
    """Strews a few turned squares of random colours over the image."""
    size, (fewest, most) = image.shape[:2], settings.count
    smallest, largest = (round(share * min(size) * _PARTS) for share in settings.side)
    window_side = math.ceil(math.sqrt(2) * largest / _PARTS) + 1
    _check_fits("confetti.side", window_side, size)
    count_key, squares_key = jax.random.split(key)
    count = jax.random.randint(count_key, (), fewest, most + 1)

    def strew(number: Int[Array, ""], image: Image) -> Image:
        side_key, place_key, color_key = jax.random.split(jax.random.fold_in(squares_key, number), 3)
        side = jax.random.randint(side_key, (), smallest, largest + 1)
        box = _draw_place(place_key, size, jnp.stack([side, side]), settings.rotation)
        (corner, inside), _ = _turned_window(box, window_side, size)
        color = jax.random.uniform(color_key, image.shape[-1:])
        return _put(image, (corner, inside & (number < count)), color)

    return jax.lax.fori_loop(0, most, strew, image)


def _draw_scar(key: PRNGKeyArray, size: Size, scar: Scar) -> tuple[TurnedBox, int]:
    """A scar inside the image, and the side of a window that has room for any."""
    window_side = math.ceil(math.hypot(scar.length[1], scar.width[1])) + 1
    _check_fits("scar.length", window_side, size)
    sides_key, place_key = jax.random.split(key)
    low, high = jnp.array([scar.length, scar.width]).T
    sides = jax.random.randint(sides_key, (2,), low, high + 1)
    return _draw_place(place_key, size, sides * _PARTS, scar.rotation), window_side


def _check_fits(where: str, needed: int, size: Size) -> None:
    if needed > min(size):
        raise UserError(
            f"{where}: turned, the largest needs {needed} pixels, images are {size[0]} x {size[1]}; lower it"
        )


def _draw_place(key: PRNGKeyArray, size: Size, sides: Int[Array, "2"], rotation: float) -> TurnedBox:
    """Turns a rectangle and puts it where all of it is inside the image."""
    angle_key, center_key = jax.random.split(key)
    angles = np.radians(np.linspace(-rotation, rotation, _CHOICES))
    turns = np.rint(_ONE * np.stack([np.cos(angles), np.sin(angles)], axis=-1)).astype(np.int32)
    turn = jnp.asarray(turns)[jax.random.randint(angle_key, (), 0, _CHOICES)]
    cosine, sine = jnp.abs(turn)
    half_reach = (cosine * sides + sine * sides[::-1]) // (2 * _ONE) + 1
    center = jax.random.randint(center_key, (2,), half_reach, _PARTS * jnp.array(size) - half_reach + 1)
    return TurnedBox(center, sides, turn)


def _turned_window(
    box: TurnedBox, side: int, size: Size
) -> tuple[Window, tuple[Int[Array, "{side} {side}"], Int[Array, "{side} {side}"]]]:
    """A window around the box with the pixels whose centres are in the box, and where in it each pixel is.

    The last are whole pixels from the box's own top and left, before it was turned.
    """
    rounded = (box.center - side * _PARTS // 2 + _PARTS // 2) >> _PART_BITS
    corner = jnp.clip(rounded, 0, jnp.array(size) - side)
    centers = (corner[:, None] + jnp.arange(side)) * _PARTS + _PARTS // 2 - box.center[:, None]
    row, column = centers[0][:, None], centers[1]
    cosine, sine = box.turn
    height, width = box.sides * _ONE
    down, right = cosine * row + sine * column + height // 2, cosine * column - sine * row + width // 2
    inside = (down >= 0) & (down < height) & (right >= 0) & (right < width)
    bits = _PART_BITS + _TURN_BITS
    return (corner, inside), (down >> bits, right >> bits)


def _put(image: Image, window: Window, pixels: Array) -> Image:
    """The image with `pixels` where the window says so."""
    (top, left), inside = window
    below = jax.lax.dynamic_slice(image, (top, left, 0), (*inside.shape, image.shape[-1]))
    return jax.lax.dynamic_update_slice(image, jnp.where(inside[..., None], pixels, below), (top, left, 0))
