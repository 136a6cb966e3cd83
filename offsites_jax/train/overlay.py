"""Heat maps over pictures: colours of the turbo map, outlines of regions, and the bar of the colours."""

import functools

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

Picture = UInt8[np.ndarray, "height width 3"]
Colour = tuple[int, int, int]

_STRIP, _TICK, _GAP = 14, 4, 6  # of the colour bar: width of the colours, of a tick, of the margin, in pixels
_FONT = 12
_TICK_ROWS = 40  # pixels between two numbers, at least


def overlay(
    image: Picture, heat: Float[np.ndarray, "height width"], low: float, high: float, alpha: float = 0.5
) -> Picture:
    """The picture under the colours of its heat map: blue at `low` and below, red at `high` and above.

    Args:
      image: the picture.
      heat: of every pixel; one that is NaN stays as it is.
      low: heat of the first colour.
      high: heat of the last colour.
      alpha: share of the colour in a pixel.

    Raises:
      ValueError: sizes that differ, `high` not above `low`, or `alpha` outside [0, 1].

    """
    _check_sizes(image, heat)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; give a number from 0 to 1")
    colours = turbo(heat, low, high)
    mixed = np.round((1 - alpha) * image.astype(np.float32) + alpha * colours.astype(np.float32))
    return np.where(np.isnan(heat)[..., None], image, mixed.astype(np.uint8))


def turbo(heat: Float[np.ndarray, "height width"], low: float, high: float) -> Picture:
    """The colours of a heat map; NaN has that of `low`.

    Raises:
      ValueError: `high` is not above `low`.

    """
    if not low < high:
        raise ValueError(f"a range of colours from {low} to {high}; give a high above low")
    place = np.nan_to_num((np.asarray(heat, np.float64) - low) / (high - low), nan=0.0)
    return _table()[np.round(255 * place.clip(0, 1)).astype(np.uint8)]


def outline(
    image: Picture,
    region: Bool[np.ndarray, "height width"] | Float[np.ndarray, "height width"],
    level: float = 0.5,
    colour: Colour = (255, 255, 255),
    width: int = 1,
) -> Picture:
    """The picture with a line along the inner edge of a region, also where that meets the picture's edge.

    Args:
      image: the picture.
      region: a mask, or a heat map of which the region is what is at `level` or above.
      level: of a heat map; a mask is 1 inside and 0 outside.
      colour: of the line, RGB.
      width: of the line in pixels.

    Raises:
      ValueError: sizes that differ, or a width below 1.

    """
    from scipy import ndimage

    _check_sizes(image, region)
    if width < 1:
        raise ValueError(f"a line of width {width}; give 1 or more pixels")
    inside = np.asarray(region, np.float64) >= level
    line = inside & ~ndimage.binary_erosion(inside, np.ones((3, 3)), iterations=width)
    return np.where(line[..., None], np.asarray(colour, np.uint8), image)


@functools.lru_cache(maxsize=8)
def colour_bar(height: int, low: float, high: float, label: str = "") -> UInt8[np.ndarray, "height width 3"]:
    """The colours from `low` (below) to `high` (above) with numbers beside them, on white.

    Args:
      height: in pixels, such as that of the picture it stands next to.
      low: as for `overlay`.
      high: as for `overlay`.
      label: what the numbers are; written below the colours.

    """
    font = ImageFont.load_default(_FONT)
    margin = _FONT // 2 + 2
    foot = margin + (_FONT + 4 if label else 0)
    rows = max(height - margin - foot, 2)
    count = max(2, min(6, 1 + rows // _TICK_ROWS))
    values = np.linspace(low, high, count)
    texts = _texts(values)
    across = max(
        _GAP + _STRIP + _TICK + 3 + max(font.getlength(text) for text in texts), _GAP + font.getlength(label)
    )
    bar = Image.new("RGB", (int(np.ceil(across)) + _GAP, height), "white")
    ramp = np.repeat(np.linspace(high, low, rows)[:, None], _STRIP, 1)
    bar.paste(Image.fromarray(turbo(ramp, low, high)), (_GAP, margin))
    draw = ImageDraw.Draw(bar)
    for text, place in zip(texts, np.linspace(margin + rows - 1, margin, count), strict=True):
        right = _GAP + _STRIP
        draw.line((right, round(place), right + _TICK - 1, round(place)), fill="black")
        draw.text((right + _TICK + 3, place), text, "black", font, anchor="lm")
    draw.text((_GAP, height - 3), label, "black", font, anchor="ls")
    pixels = np.asarray(bar).copy()
    pixels.setflags(write=False)  # the same array is given out again
    return pixels


def _texts(values: Float[np.ndarray, "count"]) -> list[str]:
    """Numbers with as many digits as tell them apart, thousands written out."""
    whole = 1000 <= np.abs(values).max() < 1e6
    for digits in range(3, 8):
        texts = [f"{value:.0f}" if whole else f"{value:.{digits}g}" for value in values]
        if whole or len(set(texts)) == len(texts):
            break
    return texts


@functools.cache
def _table() -> UInt8[np.ndarray, "256 3"]:
    return np.round(255 * matplotlib.colormaps["turbo"](np.arange(256))[:, :3]).astype(np.uint8)


def _check_sizes(image: np.ndarray, of_pixels: np.ndarray) -> None:
    if (
        image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or image.shape[:2] != of_pixels.shape
    ):
        raise ValueError(
            f"a picture of {image.dtype}{list(image.shape)} and a map of {list(of_pixels.shape)}; "
            "give uint8 [height, width, 3] and [height, width]"
        )
