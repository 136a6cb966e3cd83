"""Outlines of real lungs, to draw made-up radiographs in.

The package torchxrayvision carries some 400 of them, drawn on public radiographs and released by V7 Labs:
`pip install --no-deps torchxrayvision` brings the file, which is read where it is.
"""

import importlib.util
import io
import os
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from etils import epath
from jaxtyping import Float32, UInt8
from PIL import Image

from offsites_jax.errors import DamagedDataError, UserError

PACKAGE, FILE = "torchxrayvision", "data/semantic_masks_v7labs_lungs.zip"
HEIGHT = 256

_FULL = 255  # other values mark where the lungs are only guessed at
_MAX_BYTES = 2**24
_MAX_PIXELS = 10**8
_LEAST_LUNG = 0.15  # of the box around both, for either lung


class Outline(NamedTuple):
    """The lungs of somebody.

    Attributes:
      name: of the mask.
      lungs: [HEIGHT, width]: 1 inside, 0 outside, cut to the box around both; the patient's right lung is on
        the left.

    """

    name: str
    lungs: Float32[np.ndarray, "height width"]


def find_archive() -> str:
    """The archive inside the installed package, which is not imported.

    Raises:
      UserError: it is not installed.

    """
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    found = next((place for place in places if os.path.exists(os.path.join(place, FILE))), None)
    if found is None:
        raise UserError(
            f"no lung outlines: pip install --no-deps {PACKAGE}, or give --outlines with a zip of masks"
        )
    return os.path.join(found, FILE)


def read_outlines(path: str | os.PathLike[str], most: int) -> list[Outline]:
    """The first outlines of a zip of masks, in order of name; masks without two lungs are passed over.

    Raises:
      UserError: there is no such file, or no usable mask in it.
      DamagedDataError: it is no zip archive, or a mask in it is no picture.

    """
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"{path}: no such file; give a zip of lung masks")
    found: list[Outline] = []
    for name, mask in _masks(file):
        lungs = crop(mask)
        if lungs is not None:
            found.append(Outline(name, lungs))
        if len(found) == most:
            break
    if not found:
        raise UserError(f"{path}: no mask shows two lungs; masks are 255 inside, smaller outside")
    return found


def crop(mask: UInt8[np.ndarray, "height width"]) -> Float32[np.ndarray, "height width"] | None:
    """Two lungs cut to their box and scaled to `HEIGHT`; None where there are not two whole ones."""
    inside = (mask == _FULL).astype(np.uint8)
    number, parts, stats, _ = cv2.connectedComponentsWithStats(inside)
    sizes = stats[1:, cv2.CC_STAT_AREA]
    if number < 3 or len(lungs := np.argsort(-sizes)[:2] + 1) < 2:
        return None
    both = np.isin(parts, lungs)
    rows, columns = np.flatnonzero(both.any(axis=1)), np.flatnonzero(both.any(axis=0))
    height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    touches = 0 in (rows[0], columns[0]) or rows[-1] == len(mask) - 1 or columns[-1] == mask.shape[1] - 1
    if touches or sizes[lungs - 1].min() < _LEAST_LUNG * height * width:
        return None
    cut = both[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    size = max(1, round(width * HEIGHT / height)), HEIGHT
    return cv2.resize(cut, size, interpolation=cv2.INTER_AREA)


def _masks(file: epath.Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            for member in sorted(members, key=lambda member: member.filename):
                if member.file_size > _MAX_BYTES:
                    raise DamagedDataError(f"{file}: {member.filename} is larger than {_MAX_BYTES} bytes")
                yield member.filename.rpartition("/")[2], _decode(archive.read(member), file, member.filename)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedDataError(f"{file}: not a zip archive that can be read ({error})") from error


def _decode(data: bytes, file: epath.Path, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"more than {_MAX_PIXELS} pixels")
            # Twice the height that is kept is enough; large masks take seconds otherwise.
            step = max(1, min(image.size) // (2 * HEIGHT))
            return np.asarray(image.convert("L"))[::step, ::step]
    except (OSError, ValueError, SyntaxError) as error:
        raise DamagedDataError(f"{file}: {name} is no PNG mask ({error})") from error
