"""Where a detector looks: class-activation maps on the radiograph, and whether the finding is there."""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from offsites_jax.data.image import Box
from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.intake.grey import Grey
from offsites_jax.projects.chest_xray.intake.radiograph import to_uint8
from offsites_jax.train.overlay import outline

RED, YELLOW = (230, 30, 30), (255, 205, 0)

Map = Float32[np.ndarray, "rows columns"]
Heat = Float32[np.ndarray, "height width"]
Region = Bool[np.ndarray, "height width"]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A map against the box a radiologist drew.

    Attributes:
      hit: the map is strongest inside the box.
      overlap: of the outlined region and the box: their intersection over their union.

    """

    hit: bool
    overlap: float


def places(size: int, cells: int, *, centred: bool) -> Float64[np.ndarray, " cells"]:
    """Where the cells of a feature map look, in pixels of the network's input (0 is the middle of the first).

    Convolutions of stride 2 with TensorFlow's padding look half a pixel further on where their input is of
    even length; over five of them that adds up to half a cell.

    Args:
      size: side of the input.
      cells: side of the map.
      centred: every cell looks at its own middle; otherwise TensorFlow's padding, as in EfficientNets.

    """
    if centred:
        return (np.arange(cells) + 0.5) * size / cells - 0.5
    found, length, step, offset = np.arange(cells, dtype=np.float64), size, 1, 0.0
    while length > cells:
        offset += step * (length % 2 == 0)
        step, length = 2 * step, -(-length // 2)
    return found * step + offset


def full_size(
    found: Map, height: int, width: int, cells_at: Float64[np.ndarray, " cells"], size: int
) -> Heat:
    """The map of a padded square on the radiograph inside it: bilinear, beyond the outer cells as there.

    Args:
      found: the map.
      height: of the radiograph.
      width: of the radiograph.
      cells_at: of `places`.
      size: side of the network's input.

    """
    side = max(height, width)
    lines = []
    for length in (height, width):
        pixels = np.arange(length) + (side - length) // 2
        seen = (pixels + 0.5) * size / side - 0.5
        lines.append(np.interp(seen, cells_at, np.arange(len(cells_at))).astype(np.float32))
    rows, columns = np.meshgrid(*lines, indexing="ij")
    values = np.asarray(found, np.float32)
    heat = cv2.remap(values, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(heat, np.float32)


def strongest(heat: Heat) -> tuple[int, int]:
    """Row and column of the maximum."""
    row, column = np.unravel_index(int(np.argmax(heat)), heat.shape)
    return int(row), int(column)


def region(heat: Heat, level: float) -> Region:
    """Where a map reaches a share of its maximum; nowhere if no place speaks for the finding."""
    most = float(heat.max())
    return heat >= level * most if most > 0 else np.zeros(heat.shape, bool)


def agreement(heat: Heat, found: Region, box: Box) -> Agreement:
    """How a map and its region agree with a box."""
    row, column = strongest(heat)
    hit = box.top <= row < box.top + box.height and box.left <= column < box.left + box.width
    marked = _filled(box, heat.shape)
    union = (marked | found).sum()
    return Agreement(hit, float((marked & found).sum() / union) if union else 0.0)


def picture(
    pixels: Grey, found: Region, box: Box | None = None, longest: int = 1024
) -> UInt8[np.ndarray, "height width 3"]:
    """The radiograph with a region outlined in red, and a box in yellow.

    Args:
      pixels: the radiograph.
      found: of the same size.
      box: of a radiologist.
      longest: side that the picture is shrunk to, where it is larger.

    """
    masks = [(found, RED)] + ([(_filled(box, found.shape), YELLOW)] if box else [])
    scale = min(1.0, longest / max(pixels.shape))
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    grey = cv2.resize(to_uint8(pixels), size, interpolation=cv2.INTER_AREA)
    drawn = np.repeat(grey[:, :, None], 3, axis=2)
    width = max(1, round(max(size) / 300))
    for mask, colour in masks:
        small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        drawn = outline(drawn, small, colour=colour, width=width)
    return drawn


def parse_box(cell: str) -> Box | None:
    """A cell of the column `box`: left, top, width and height in pixels; None from an empty one.

    Raises:
      UserError: it is none.

    """
    if not cell.strip():
        return None
    try:
        left, top, width, height = (round(float(part)) for part in cell.split())
    except (ValueError, OverflowError):
        raise UserError(f"box {cell!r}: give left, top, width and height with spaces between") from None
    return Box(top, left, height, width)


def _filled(box: Box, shape: tuple[int, ...]) -> Region:
    mask = np.zeros(shape, bool)
    top, left = max(0, box.top), max(0, box.left)
    mask[top : max(top, box.top + box.height), left : max(left, box.left + box.width)] = True
    return mask
