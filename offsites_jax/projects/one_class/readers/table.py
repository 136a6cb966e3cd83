"""Photos named by a CSV file with the columns `path,split,label,mask`.

Paths are below the folder of the CSV. A label is 0, good or normal; or 1, or the name of a kind of defect.
The column `mask` may be left out; with it, every anomalous image of a split has a mask or none has.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.readers.records import ANOMALOUS, GOOD, NORMAL, Photo, PhotoSource

COLUMNS = ("path", "split", "label")
NORMAL_LABELS = ("0", GOOD, "normal")


class _Line(NamedTuple):
    place: str
    split: str
    photo: Photo


def open_table(file: epath.PathLike, split: str) -> PhotoSource:
    """The photos of a split.

    Args:
      file: the CSV.
      split: as in its column of that name; `train` has to be normal throughout.

    Raises:
      UserError: there is no such file or split, or a line is wrong.

    """
    path = epath.Path(file)
    if not path.is_file():
        raise UserError(f"{path}: no such file; config.data.path names the CSV")
    lines = list(_lines(path))
    chosen = [line for line in lines if line.split == split]
    if not chosen:
        known = ", ".join(sorted({line.split for line in lines})) or "no lines at all"
        raise UserError(f"{path}: has no split {split!r}, but {known}")
    _check(path, split, chosen)
    return PhotoSource(path.parent, [line.photo for line in chosen])


def _check(file: epath.Path, split: str, lines: list[_Line]) -> None:
    anomalous = [line for line in lines if line.photo.label == ANOMALOUS]
    if split == "train" and anomalous:
        raise UserError(f"{anomalous[0].place}: training is on normal images only; change its split or label")
    if any(line.photo.mask for line in lines):
        bare = next((line for line in anomalous if not line.photo.mask), None)
        if bare:
            raise UserError(
                f"{bare.place}: has no mask, other lines of {split!r} have; give all of them or none"
            )
    seen: set[str] = set()
    for line in lines:
        if line.photo.path in seen:
            raise UserError(f"{line.place}: {line.photo.path} is listed twice in {split!r}; keep one line")
        seen.add(line.photo.path)


def _lines(file: epath.Path) -> Iterator[_Line]:
    try:
        reader = csv.DictReader(io.StringIO(file.read_bytes().decode("utf-8-sig")))
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"{file}: no column {missing[0]!r}; the first line has to be path,split,label,mask"
            )
        for cells in reader:
            yield _line(f"{file}:{reader.line_num}", cells)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a CSV in UTF-8 ({error})") from None


def _line(place: str, cells: dict[str, str | None]) -> _Line:
    path, split, label = ((cells[name] or "").strip() for name in COLUMNS)
    mask = (cells.get("mask") or "").strip()
    if not path or not split or not label:
        raise UserError(f"{place}: path, split and label have to be given")
    for name in filter(None, (path, mask)):
        # Scores and heat maps are written under these names.
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"{place}: {name} is not below the folder of the CSV; write it relative to that")
    normal = label.lower() in NORMAL_LABELS
    if normal and mask:
        raise UserError(f"{place}: a normal image has no mask; change its label or leave the mask out")
    kind = GOOD if normal else ("anomaly" if label == "1" else label)
    return _Line(place, split, Photo(path, NORMAL if normal else ANOMALOUS, kind, mask))
