"""A radiograph as the network takes it: grey, in [0, 1], square; from DICOM, PNG or JPEG.

Brightness is settled at full depth and full size; only then are images made smaller, so that neither 16 bits
become 8 nor a window cuts off what a smaller image has mixed.
"""

import io
import os
from collections.abc import Collection

import numpy as np
from etils import epath
from jaxtyping import Float, UInt16
from PIL import Image

from offsites_jax.data.image import MAX_PIXELS, resize
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.intake.grey import Grey, Radiograph, unit_range

DICOM_MARK = slice(128, 132), b"DICM"
MAX_BYTES = 2**29
FULL = 65535
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")


def read(path: str | os.PathLike[str], *, allow: Collection[str] = ()) -> Radiograph:
    """Read a radiograph of any accepted format from a file.

    Args:
      path: of the file.
      allow: as in `dicom.parse`.

    Raises:
      DamagedDataError: it is none, or broken; names the file.
      UserError: there is no such file.

    """
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"{path}: no such file")
    try:
        if file.stat().length > MAX_BYTES:
            raise DamagedDataError(f"larger than {MAX_BYTES >> 20} MiB")
        return parse(file.read_bytes(), allow=allow)
    except DamagedDataError as error:
        raise DamagedDataError(f"{path}: {error}") from error


def parse(data: bytes, *, allow: Collection[str] = ()) -> Radiograph:
    """A radiograph from the bytes of a file; what they are, not a name, decides how.

    Raises:
      DamagedDataError: they are none, or broken.

    """
    where, mark = DICOM_MARK
    if data[where] != mark:
        return Radiograph(unit_range(_grey(data)))

    from offsites_jax.projects.chest_xray.intake import dicom

    return dicom.parse(data, allow=allow)


def prepare(pixels: Grey, size: int, *, crop_borders: bool = False) -> Grey:
    """A square of `size` pixels: uniform borders cut off if asked, black added, then made smaller or larger.

    Resized bilinearly with an antialiasing filter, as Pillow does.
    """
    if crop_borders:
        pixels = without_borders(pixels)
    side = max(pixels.shape)
    top, left = ((side - length) // 2 for length in pixels.shape)
    square = np.zeros((side, side), np.float32)
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return resize(square[:, :, None], (size, size), antialias=True)[:, :, 0]


def without_borders(pixels: Grey, tolerance: float = 1 / 255) -> Grey:
    """Without the outer rows and columns that have one value each, as collimators and labels leave them."""
    rows = np.flatnonzero(np.ptp(pixels, axis=1) > tolerance)
    columns = np.flatnonzero(np.ptp(pixels, axis=0) > tolerance)
    if not len(rows) or not len(columns):
        return pixels
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def to_uint16(pixels: Grey) -> UInt16[np.ndarray, "height width"]:
    """[0, 1] to 0..65,535: what the network takes, and what is kept of an archive."""
    return np.round(pixels * FULL).astype(np.uint16)


def to_uint8(pixels: Grey) -> np.ndarray:
    """[0, 1] to 0..255, for pictures."""
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _grey(data: bytes) -> Float[np.ndarray, "height width"]:
    """Grey values at the depth of the file; colour only where all its planes are equal."""
    if not data:
        raise DamagedDataError("the image file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DamagedDataError(f"more than {MAX_PIXELS} pixels")
            pixels = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    except DamagedDataError:
        raise
    except Exception as error:  # Pillow's readers raise nearly every type on damaged bytes
        raise DamagedDataError(f"the image cannot be decoded ({error})") from error
    if pixels.ndim == 3:
        colours = pixels[:, :, :3] if pixels.shape[2] >= 3 else pixels[:, :, :1]
        if (colours != colours[:, :, :1]).any():
            raise DamagedDataError("the colour planes differ: a radiograph is grey")
        pixels = colours[:, :, 0]
    return pixels.astype(np.float64)
