"""Textures inside scikit-image, cut into windows; defects are drawn on those that are tested.

The left 320 columns of a 512 x 512 picture are for training, the right 192 for testing. A defect is a square
or an ellipse filled with one grey or with a piece of a photograph: nothing that a pretext task draws.
"""

import importlib.metadata
import pathlib

import numpy as np
from jaxtyping import Bool, UInt8

from offsites_jax.data.image import decode
from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.readers.records import ANOMALOUS, GOOD, NORMAL, PixelSource
from offsites_jax.train.schema import nearest

NAMES = ("brick", "grass", "gravel")
TRAIN_COLUMNS = 320
STRIDE = 8  # between training windows
TEST_WINDOWS = 300  # normal ones, and as many anomalous ones
TILES, TILE = 12, 128
SIZES = (6, 13)  # smallest and largest side of a defect

Picture = UInt8[np.ndarray, "height width"]


def open_textures(texture: str, split: str, *, side: int = 32, seed: int = 1) -> PixelSource:
    """Windows of a texture, grey.

    Args:
      texture: brick, grass or gravel.
      split: train (every eighth window of the left part); test (300 normal windows of the right part and 300
        with a defect); tiles (12 windows of 128 pixels of the right part with one defect each).
      side: of a window of train and test.
      seed: of the windows and defects of test and tiles.

    Raises:
      UserError: there is no such texture or split, a window is too large, or scikit-image is not installed.

    """
    if texture not in NAMES:
        raise UserError(f"config.data.category: no texture {texture!r}{nearest(texture, NAMES)}")
    title = f"{texture}/{split}"
    picture = _picture(texture)
    left, right = picture[:, :TRAIN_COLUMNS], picture[:, TRAIN_COLUMNS:]
    if not SIZES[1] <= side <= min(right.shape):
        raise UserError(
            f"config.data.image_size: is {side}; a window has {SIZES[1]} to {min(right.shape)} pixels"
        )
    rng = np.random.Generator(np.random.Philox(key=[seed, NAMES.index(texture)]))
    match split:
        case "train":
            windows = np.lib.stride_tricks.sliding_window_view(left, (side, side))[::STRIDE, ::STRIDE]
            pixels = windows.reshape(-1, side, side, 1)
            return PixelSource(title, pixels, np.zeros(len(pixels), np.int32), [GOOD] * len(pixels))
        case "test":
            return _tested(title, right, side, (TEST_WINDOWS, TEST_WINDOWS), rng)
        case "tiles":
            return _tested(title, right, TILE, (0, TILES), rng)
    raise UserError(f"config.data: textures has no split {split!r}; use train, test or tiles")


def installed(name: str) -> pathlib.Path:
    """A picture of the installed scikit-image, which is not imported.

    Raises:
      UserError: it is not installed.
    """
    try:
        file = importlib.metadata.distribution("scikit-image").locate_file(f"skimage/data/{name}")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            "config.data.source: needs the pictures of scikit-image; pip install scikit-image"
        ) from None
    path = pathlib.Path(str(file))
    if not path.is_file():
        raise UserError(f"{path}: scikit-image is installed without it; use version 0.24 or later")
    return path


def _tested(
    title: str, part: Picture, side: int, numbers: tuple[int, int], rng: np.random.Generator
) -> PixelSource:
    """Windows at random places, the last of them with a defect."""
    normal, defective = numbers
    photo = _picture("camera")
    pixels = np.stack([_window(part, side, rng) for _ in range(normal + defective)])
    masks = np.zeros(pixels.shape, bool)
    for window, mask in zip(pixels[normal:], masks[normal:], strict=True):
        mask |= _shape(side, rng)
        window[mask] = _filling(photo, side, rng)[mask]
    labels = np.repeat(np.array([NORMAL, ANOMALOUS], np.int32), numbers)
    kinds = [GOOD] * normal + ["defect"] * defective
    return PixelSource(title, pixels[..., None], labels, kinds, masks)


def _window(part: Picture, side: int, rng: np.random.Generator) -> Picture:
    top, left = (int(rng.integers(length - side + 1)) for length in part.shape)
    return part[top : top + side, left : left + side].copy()


def _shape(side: int, rng: np.random.Generator) -> Bool[np.ndarray, "side side"]:
    """A square or an ellipse somewhere inside."""
    is_square = rng.random() < 0.5
    height, width = (int(size) for size in rng.integers(SIZES[0], SIZES[1] + 1, 2))
    width = height if is_square else width
    top, left = (int(rng.integers(side - length + 1)) for length in (height, width))
    y, x = np.mgrid[:side, :side] + 0.5
    y, x = (y - top) / height * 2 - 1, (x - left) / width * 2 - 1
    return (np.maximum(abs(y), abs(x)) < 1) if is_square else (y**2 + x**2 < 1)


def _filling(photo: Picture, side: int, rng: np.random.Generator) -> Picture:
    """One grey, or a piece of a photograph."""
    if rng.random() < 0.5:
        return np.full((side, side), rng.integers(256), np.uint8)
    return _window(photo, side, rng)


def _picture(name: str) -> Picture:
    return decode(installed(f"{name}.png").read_bytes())[:, :, 0]
