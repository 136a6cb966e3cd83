"""Drawn augmentations applied with NumPy and OpenCV, for data workers."""

import functools
from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from offsites_jax.data.augment.draws import FILL, OPS, Draw

Image = UInt8[np.ndarray, "height width channels"]
Channel = UInt8[np.ndarray, "height width"]
Table = UInt8[np.ndarray, "256"]

_RAMP = np.arange(256)
_LEVELS = _RAMP.astype(np.uint8).reshape(1, 256, 1)  # as an image


def cutout(
    image: Image, rng: np.random.Generator, size: int, *, fill: int | Literal["noise"] = FILL
) -> Image:
    """Cover a square of `size` pixels around a random pixel, clipped at the border (arXiv 1708.04552).

    Args:
        image: Any number of channels; not changed.
        rng: Source of randomness.
        size: Side of the square in pixels, even. google/automl fine-tunes with half the image's side.
        fill: Value of covered pixels. "noise" draws each from the upper half of the range, which is
            U(0, 1) once pixels are scaled to -1..1 (google/automl, fine-tuning).

    """
    row, column = rng.random(2, np.float32)
    hole = _hole(image, size // 2, row, column)
    covered = image.copy()
    covered[hole] = rng.integers(128, 256, image[hole].shape, np.uint8) if fill == "noise" else fill
    return covered


def apply(image: Image, draw: Draw) -> Image:
    """Apply the operations of a draw in order.

    The result is that of google/automl (`efficientnetv2/autoaugment.py`), whose conventions are: pixels
    are looked up at the nearest source pixel, halves rounded away from zero, and are 128 outside;
    blended values are truncated; Contrast blends with the grey level `min(pixels of the image / 256,
    255)`, where Pillow takes the mean. The sum under Sharpness and Color is exact here and is in
    float32 there: where it lies on a whole number, the value blended with may be one level off there.
    An image that is not of three channels has no colour and Color leaves it alone.

    Args:
        image: Not changed.
        draw: Without batch dimensions.

    """
    image = np.ascontiguousarray(image)
    shape = image.shape
    for op, arguments in zip(draw.op, draw.arguments, strict=True):
        image = _APPLY[op](image, arguments).reshape(shape)  # OpenCV drops a single channel
    return image


def _look_up_by_channel(image: Image, table_of: Callable[[Channel], Table]) -> Image:
    return cv2.merge([cv2.LUT(channel, table_of(channel)) for channel in cv2.split(image)])


def _autocontrast(image: Image, _: np.ndarray) -> Image:
    return _look_up_by_channel(image, _stretching_table)


def _stretching_table(channel: Channel) -> Table:
    """The lowest level becomes 0 and the highest 255."""
    low, high, _, _ = cv2.minMaxLoc(channel)
    if low == high:
        return _RAMP.astype(np.uint8)
    scale = np.float32(255) / np.float32(high - low)
    table = _RAMP.astype(np.float32) * scale + np.float32(-low) * scale
    return np.clip(table, 0, 255).astype(np.uint8)


def _equalize(image: Image, _: np.ndarray) -> Image:
    return _look_up_by_channel(image, _equalizing_table)


def _equalizing_table(channel: Channel) -> Table:
    counts = cv2.calcHist([channel], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    step = (counts.sum() - counts[counts.nonzero()[0][-1]]) // 255
    if step == 0:
        return _RAMP.astype(np.uint8)
    below = counts.cumsum() - counts
    return np.minimum((below + step // 2) // step, 255).astype(np.uint8)


def _invert(image: Image, _: np.ndarray) -> Image:
    return 255 - image


def _posterize(image: Image, arguments: np.ndarray) -> Image:
    dropped = int(arguments[0])
    return cv2.LUT(image, (_RAMP >> dropped << dropped).astype(np.uint8))


def _solarize(image: Image, arguments: np.ndarray) -> Image:
    return cv2.LUT(image, np.where(arguments[0] > _RAMP, _RAMP, 255 - _RAMP).astype(np.uint8))


def _solarize_add(image: Image, arguments: np.ndarray) -> Image:
    brighter = np.minimum(_RAMP + int(arguments[0]), 255)
    return cv2.LUT(image, np.where(_RAMP < 128, brighter, _RAMP).astype(np.uint8))


def _color(image: Image, arguments: np.ndarray) -> Image:
    if image.shape[2] != 3:
        return image
    # TensorFlow scales to 0..1, weighs, and scales back by 255.5; in integers, which float32 holds exactly.
    weights = np.array([[2989, 5870, 1140]], np.float32)
    luma = cv2.transform(image.astype(np.float32), weights).astype(np.int32)
    grey = (luma * 511 // 5_100_000).astype(np.uint8)
    return _blend(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), image, arguments[0])


def _contrast(image: Image, arguments: np.ndarray) -> Image:
    grey = min(image.shape[0] * image.shape[1] // 256, 255)
    return cv2.LUT(image, _blend(np.full_like(_LEVELS, grey), _LEVELS, arguments[0]).ravel())


def _brightness(image: Image, arguments: np.ndarray) -> Image:
    return cv2.LUT(image, _blend(np.zeros_like(_LEVELS), _LEVELS, arguments[0]).ravel())


def _sharpness(image: Image, arguments: np.ndarray) -> Image:
    total = cv2.boxFilter(image, cv2.CV_16S, (3, 3), normalize=False).reshape(image.shape).view(np.uint16)
    smooth = ((total + np.uint16(4) * image) // np.uint16(13)).astype(np.uint8)
    for border in (np.s_[:1], np.s_[-1:], np.s_[:, :1], np.s_[:, -1:]):
        smooth[border] = image[border]
    return _blend(smooth, image, arguments[0])


def _blend(start: Image, end: Image, factor: np.float32) -> Image:
    """From `start` at factor 0 through `end` at 1 and beyond, truncated."""
    values = np.asarray(cv2.subtract(end, start, dtype=cv2.CV_32F), np.float32).reshape(end.shape)
    values *= factor
    values += start
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def _rotate(image: Image, arguments: np.ndarray) -> Image:
    """Turn around the middle of the image."""
    cosine, sine, _ = arguments
    last_row, last_column = np.float32(image.shape[0] - 1), np.float32(image.shape[1] - 1)
    shift_x = (last_column - (cosine * last_column - sine * last_row)) / np.float32(2)
    shift_y = (last_row - (sine * last_column + cosine * last_row)) / np.float32(2)
    return _warp(image, cosine, -sine, shift_x, sine, cosine, shift_y)


def _shear_x(image: Image, arguments: np.ndarray) -> Image:
    return _warp(image, 1, arguments[0], 0, 0, 1, 0)


def _shear_y(image: Image, arguments: np.ndarray) -> Image:
    return _warp(image, 1, 0, 0, arguments[0], 1, 0)


def _translate_x(image: Image, arguments: np.ndarray) -> Image:
    return _warp(image, 1, 0, arguments[0], 0, 1, 0)


def _translate_y(image: Image, arguments: np.ndarray) -> Image:
    return _warp(image, 1, 0, 0, 0, 1, arguments[0])


def _warp(image: Image, *matrix: float) -> Image:
    """Take each pixel (x, y) from (a x + b y + c, d x + e y + f) of the image."""
    columns, rows = _source_pixels(image.shape[0], image.shape[1], tuple(map(float, matrix)))
    fill = [FILL] * image.shape[2]
    return cv2.remap(image, columns, rows, cv2.INTER_NEAREST, None, cv2.BORDER_CONSTANT, fill)


@functools.lru_cache(maxsize=32)
def _source_pixels(
    height: int, width: int, matrix: tuple[float, ...]
) -> tuple[Float32[np.ndarray, "height width"], Float32[np.ndarray, "height width"]]:
    """Column and row each pixel comes from; images of one size share few matrices."""
    a, b, c, d, e, f = np.array(matrix, np.float32)
    x = np.arange(width, dtype=np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    return _round(a * x + b * y + c), _round(d * x + e * y + f)


def _round(position: Float32[np.ndarray, "height width"]) -> Float32[np.ndarray, "height width"]:
    """To the nearest integer, halves away from zero."""
    whole = np.trunc(position)
    return whole + np.where(np.abs(position - whole) >= 0.5, np.sign(position), np.float32(0))


def _cutout(image: Image, arguments: np.ndarray) -> Image:
    covered = image.copy()
    covered[_hole(image, int(arguments[0]), arguments[1], arguments[2])] = FILL
    return covered


def _hole(image: Image, half: int, row: np.float32, column: np.float32) -> tuple[slice, slice]:
    """The square of side `2 half` around a pixel given as parts of height and width."""
    y, x = int(row * np.float32(image.shape[0])), int(column * np.float32(image.shape[1]))
    return slice(max(y - half, 0), y + half), slice(max(x - half, 0), x + half)


def _identity(image: Image, _: np.ndarray) -> Image:
    return image


_BY_NAME = {
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "Color": _color,
    "Contrast": _contrast,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Cutout": _cutout,
    "SolarizeAdd": _solarize_add,
    "Identity": _identity,
}
_APPLY = tuple(_BY_NAME[name] for name in OPS)
