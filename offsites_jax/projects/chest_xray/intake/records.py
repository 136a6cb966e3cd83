"""Images of a manifest as ArrayRecord files: pixels as the network takes them, to be read by index.

Decoding a DICOM file and making it smaller takes tens of milliseconds each time it is read; a record takes
none of that. A folder of records holds `manifest.csv` and `<split>-00000-of-00004.array_record`, whose
records are in the order of the manifest.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath
from jaxtyping import UInt16

from offsites_jax.data.source import ArrayRecordSource, Record, write_array_record
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.intake import radiograph
from offsites_jax.projects.chest_xray.intake.inputs import Input
from offsites_jax.projects.chest_xray.intake.readings import read_all
from offsites_jax.projects.chest_xray.tables.case import Case
from offsites_jax.projects.chest_xray.tables.manifest import write_manifest

MANIFEST, PATTERN = "manifest.csv", "{split}-*-of-*.array_record"

_STORED = np.dtype("<u2")


def write_records(
    inputs: Sequence[Input],
    folder: str | os.PathLike[str],
    size: int,
    per_file: int,
    *,
    crop_borders: bool = False,
    allow: Sequence[str] = (),
) -> dict[str, str]:
    """Writes the records of each split, then the manifest: a folder without one is not finished.

    Args:
      inputs: images of a manifest, each with a split.
      folder: to write, made where missing.
      size: side of the squares, in pixels.
      per_file: records in a file, at most.
      crop_borders: cut off rows and columns of one value at the edges first.
      allow: objects to accept beside CR and DX for presentation.

    Returns:
      Errors by name of the images that could not be read and are left out.

    Raises:
      UserError: an image without a split, or records in the folder already.

    """
    place = epath.Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    if list(place.glob(PATTERN.format(split="*"))):
        raise UserError(f"{place}: holds records already; name another folder, or remove it")
    kept: list[Case] = []
    errors: dict[str, str] = {}

    def records(part: Sequence[Input]) -> Iterator[Record]:
        for readings in read_all(part, allow):
            for reading in readings:
                if reading.read is None:
                    errors[reading.source.name] = reading.error
                    continue
                square = radiograph.prepare(reading.read.pixels, size, crop_borders=crop_borders)
                kept.append(reading.source.case)
                yield _record(reading.source.name, radiograph.to_uint16(square))

    for split, own in _by_split(inputs).items():
        count = -(-len(own) // per_file)
        for number in range(count):
            file = place / f"{split}-{number:05d}-of-{count:05d}.array_record"
            write_array_record(file, records(own[number * per_file : (number + 1) * per_file]))
    write_manifest(place / MANIFEST, kept)
    return errors


def open_records(folder: str | os.PathLike[str], split: str, cases: Sequence[Case]) -> ArrayRecordSource:
    """The records of a split.

    Raises:
      UserError: there are none.
      DamagedDataError: a file is damaged, or they are not as many as the manifest says.

    """
    found = ArrayRecordSource(os.fspath(epath.Path(folder) / PATTERN.format(split=split)))
    if len(found) != len(cases):
        raise DamagedDataError(
            f"{folder}: {len(found)} records of {split}, but {len(cases)} in {MANIFEST}; write them again"
        )
    return found


def pixels_of(record: Record) -> UInt16[np.ndarray, "size size"]:
    """The pixels of a record.

    Raises:
      DamagedDataError: it holds something else.

    """
    side, data = record.get("side"), record.get("pixels")
    if not isinstance(side, int) or not isinstance(data, bytes) or len(data) != side**2 * _STORED.itemsize:
        raise DamagedDataError("the record holds no square picture of 16 bits; write the records again")
    return np.frombuffer(data, _STORED).reshape(side, side)


def _record(image: str, pixels: UInt16[np.ndarray, "size size"]) -> Record:
    return {"image": image, "side": len(pixels), "pixels": pixels.astype(_STORED).tobytes()}


def _by_split(inputs: Sequence[Input]) -> dict[str, list[Input]]:
    found: dict[str, list[Input]] = {}
    for one in inputs:
        if not one.case.split.isidentifier():
            raise UserError(
                f"{one.name}: has the split {one.case.split!r}; assign splits first, as `offsites chest_xray "
                "split` does"
            )
        found.setdefault(one.case.split, []).append(one)
    return found
