"""Synthetic defects: shapes filled with a colour or a piece of a photograph, drawn on good images.

This is the test of Li et al. 2021 (CutPaste, section 5.3), whose sizes are not published: here a shape's
diameter is a tenth to three tenths of the short side.
"""

import dataclasses
import functools
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from etils import epath
from jaxtyping import Bool, Float, UInt8

from offsites_jax.data.image import RGBImage, decode
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.one_class.readers.folder import is_plain, open_folder
from offsites_jax.projects.one_class.readers.records import GOOD, NORMAL, PhotoSource
from offsites_jax.projects.one_class.readers.splits import hold_out
from offsites_jax.train.media import encode_image

Shape = Literal["digit", "square", "ellipse", "heart"]
Mask = Bool[np.ndarray, "height width"]
Plane = Float[np.ndarray, "height width"]

SHAPES: tuple[Shape, ...] = ("digit", "square", "ellipse", "heart")
SMALLEST = 6  # pixels of a shape's diameter


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How defects are drawn.

    Attributes:
      shapes: each good test image is drawn on once with each.
      diameter: of a shape, smallest and largest, as a share of the image's short side.
      photos: share of the shapes that are filled with a piece of a photograph, not one colour.
      seed: of places, sizes, angles and fillings.

    """

    shapes: tuple[Shape, ...] = SHAPES
    diameter: tuple[float, float] = (0.1, 0.3)
    photos: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.diameter
        if not 0 < low <= high <= 1:
            raise UserError(f"diameter: {low} to {high} is no range of shares of the short side")
        if not 0 <= self.photos <= 1:
            raise UserError(f"photos: is {self.photos}, must be a share in [0, 1]")
        if not self.shapes or len(set(self.shapes)) < len(self.shapes):
            raise UserError("shapes: name at least one, each once")


def draw_defect(
    image: RGBImage, shape: Shape, rng: np.random.Generator, drawing: Drawing = Drawing()
) -> tuple[RGBImage, Mask]:
    """A copy of the image with one defect that lies inside it whole, and where that is.

    On a grey image the filling is grey as well.

    Raises:
      UserError: the image is too small.

    """
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST:
        raise UserError(f"an image of {width} x {height} pixels is too small to draw on; use larger ones")
    diameter = max(rng.uniform(*drawing.diameter) * min(height, width), SMALLEST)
    top, left = (rng.uniform(0, length - diameter) for length in (height, width))
    y, x = np.mgrid[:height, :width] + 0.5
    y, x = (2 * (axis - start) / diameter - 1 for axis, start in ((y, top), (x, left)))
    angle = rng.uniform(0, 2 * np.pi)
    mask = _inside(shape, y * np.cos(angle) - x * np.sin(angle), y * np.sin(angle) + x * np.cos(angle), rng)
    filling = _filling(image.shape, rng, drawing.photos)
    if (image == image[..., :1]).all():
        filling = np.repeat(filling.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    return np.where(mask[..., None], filling, image), mask


def write_defects(
    normal: epath.PathLike, output: epath.PathLike, drawing: Drawing = Drawing(), *, held_out: float = 0.2
) -> dict[str, int]:
    """Writes a data set of MVTec AD's layout with masks, made of good photos.

    Photos to train on and good ones to test on are copied as they are; each of the latter is drawn on once
    with every shape. The same photos and the same `drawing` always give the same files.

    Args:
      normal: a folder with `train/good` and `test/good`, or of good photos only.
      output: folder to make; it appears under its name when complete.
      drawing: shapes, sizes, seed.
      held_out: share of the photos that are tested on, where they are not divided yet.

    Returns:
      Number of images by folder: `train/good`, `test/good`, `test/square` ...

    Raises:
      UserError: the output is there already, or there are too few photos.
      DamagedDataError: a photo cannot be read.

    """
    folder = epath.Path(output)
    if folder.exists():
        raise UserError(f"{folder}: exists already; choose another folder")
    train, test = _good_photos(normal, held_out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = epath.Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        counts = {f"train/{GOOD}": _copy(train, unfinished / "train" / GOOD)}
        counts[f"test/{GOOD}"] = _copy(test, unfinished / "test" / GOOD)
        for number, shape in enumerate(drawing.shapes):
            counts[f"test/{shape}"] = _draw_all(test, shape, unfinished, drawing, number)
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return counts


def _good_photos(normal: epath.PathLike, held_out: float) -> tuple[PhotoSource, PhotoSource]:
    """The good photos to train on, and those to draw on."""
    train = open_folder(normal, "train")
    if is_plain(normal):
        kept, held = hold_out(len(train), held_out)
        return train.pick(kept.indices), train.pick(held.indices)
    test = open_folder(normal, "test")
    good = test.pick(np.flatnonzero(test.labels == NORMAL))
    if not len(good):
        raise UserError(f"{normal}: no photos in test/{GOOD} to draw defects on")
    return train, good


def _copy(photos: PhotoSource, folder: epath.Path) -> int:
    folder.mkdir(parents=True)
    for number, name in enumerate(photos.names):
        (folder / f"{number:03d}{os.path.splitext(name)[1].lower()}").write_bytes(photos[number]["image"])
    return len(photos)


def _draw_all(photos: PhotoSource, shape: Shape, root: epath.Path, drawing: Drawing, stream: int) -> int:
    """Every photo once with the shape, and its mask."""
    pictures, masks = root / "test" / shape, root / "ground_truth" / shape
    pictures.mkdir(parents=True)
    masks.mkdir(parents=True)
    for number in range(len(photos)):
        rng = np.random.default_rng([drawing.seed, stream, number])
        try:
            image = decode(photos[number]["image"])
        except DamagedDataError as error:
            raise DamagedDataError(f"{photos.describe(number)}: {error}; repair or remove it") from error
        picture, mask = draw_defect(image, shape, rng, drawing)
        (pictures / f"{number:03d}.png").write_bytes(encode_image(picture).content)
        (masks / f"{number:03d}_mask.png").write_bytes(encode_image(mask.astype(np.uint8) * 255).content)
    return len(photos)


def _inside(shape: Shape, y: Plane, x: Plane, rng: np.random.Generator) -> Mask:
    """Whether points (downwards, rightwards) are inside a shape that touches the unit circle."""
    match shape:
        case "square":
            return np.maximum(abs(y), abs(x)) < np.sqrt(0.5)
        case "ellipse":
            return (y / rng.uniform(0.4, 1)) ** 2 + x**2 < 1
        case "heart":
            # The sextic heart curve, moved and shrunk into the circle.
            y, x = -1.2 * y + 0.15, 1.2 * x
            return (x**2 + y**2 - 1) ** 3 < x**2 * y**3
        case "digit":
            return _digit(y, x, rng)


def _digit(y: Plane, x: Plane, rng: np.random.Generator) -> Mask:
    """Whether points are on the strokes of a handwritten digit (scikit-learn's, 8 x 8 pixels)."""
    scans = _scans()
    scan = scans[rng.integers(len(scans))].astype(np.float32)
    rows, columns = ((axis / np.sqrt(2) + 0.5) * 8 - 0.5 for axis in (y, x))
    strokes = cv2.remap(
        scan,
        columns.astype(np.float32),
        rows.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    return (strokes > scan.max() / 2) & (np.maximum(abs(y), abs(x)) < np.sqrt(0.5))


@functools.cache
def _scans() -> Float[np.ndarray, "scans 8 8"]:
    from sklearn.datasets import load_digits

    return load_digits().images


@functools.cache
def _photo(name: str) -> RGBImage:
    from sklearn.datasets import load_sample_image

    return load_sample_image(name)


def _filling(
    shape: Sequence[int], rng: np.random.Generator, photos: float
) -> UInt8[np.ndarray, "height width 3"]:
    """One colour, or a piece of one of scikit-learn's two photographs, of the size of the image."""
    if rng.random() >= photos:
        return np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), tuple(shape))
    photo = _photo(("china.jpg", "flower.jpg")[rng.integers(2)])
    height, width = shape[:2]
    scale = max(height / photo.shape[0], width / photo.shape[1], 1)
    if scale > 1:
        size = (int(np.ceil(photo.shape[1] * scale)), int(np.ceil(photo.shape[0] * scale)))
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_LINEAR)
    top, left = (int(rng.integers(photo.shape[axis] - shape[axis] + 1)) for axis in (0, 1))
    return photo[top : top + height, left : left + width]
