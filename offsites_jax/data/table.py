"""Images named by a table, with one label or many: CSV, JSON lines, or ImageNet's flat validation folder.

A table lies at `root/<split>.csv` (header `path,labels`; labels separated by ";") or `root/<split>.jsonl`
(`{"path": "a/b.jpg", "labels": [3, 7]}` a line). Paths are below `root`. Labels are class numbers, or names
that `root/classes.txt` numbers by line; without that file the names of the training table in order of bytes.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from etils import epath

from offsites_jax.data.source import Record, folder_classes
from offsites_jax.errors import DamagedDataError, UserError

SEPARATOR = ";"


class Row(NamedTuple):
    """A line of a table.

    Attributes:
      place: file and line, for messages.
      path: of the image, below the root.
      labels: its classes, by name or number.

    """

    place: str
    path: str
    labels: tuple[str | int, ...]


class _JsonRow(msgspec.Struct):
    path: str
    labels: list[str | int]


class FileListSource:
    """Image files with their class numbers.

    Records are `{"image": encoded bytes, "label": int32 [labels], "path": path below root}`.

    Args:
        root: Folder that the paths are below.
        paths: One per record.
        labels: Class numbers of each record.
        classes: Their names, where they have any.

    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        paths: Sequence[str],
        labels: Sequence[Sequence[int]],
        classes: Sequence[str] | None = None,
    ):
        self._root = epath.Path(root)
        self._paths = list(paths)
        self._labels = [np.array(numbers, np.int32) for numbers in labels]
        self.classes = tuple(classes) if classes is not None else None

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Record:
        path = self._paths[index]
        try:
            image = (self._root / path).read_bytes()
        except OSError as error:
            raise DamagedDataError(f"cannot be read ({error.strerror or error})") from error
        return {"image": image, "label": self._labels[index], "path": path}

    def label_range(self) -> tuple[int, int]:
        """The least and the largest class number there is."""
        numbers = np.concatenate(self._labels)
        return int(numbers.min()), int(numbers.max())

    def describe(self, index: int) -> str:
        """Name the file and index of record `index`."""
        return f"{self._root / self._paths[index]} (record {index})"

    def fingerprint(self) -> str:
        """Digest classes, paths and labels; file contents are not read."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (*(self.classes or ()), "", *self._paths):
            digest.update(part.encode() + b"\0")
        for numbers in self._labels:
            digest.update(numbers.tobytes() + b";")
        return digest.hexdigest()


def open_table(root: str | os.PathLike[str], split: str) -> FileListSource:
    """The images of `root/<split>.csv` or `root/<split>.jsonl`.

    Raises:
      UserError: there is no table, a line is wrong or has no label, or a class is unknown.

    """
    folder = epath.Path(root)
    rows = read_table(folder, split)
    by_name = any(isinstance(label, str) for row in rows for label in row.labels)
    classes = _names(folder, split, rows) if by_name else listed_classes(folder)
    number = {name: index for index, name in enumerate(classes or ())}
    labels = [_numbers(row, number if by_name else None) for row in rows]
    return FileListSource(folder, [row.path for row in rows], labels, classes)


def open_flat_folder(root: str | os.PathLike[str], split: str) -> FileListSource | None:
    """ImageNet's validation images as they come: all in one folder, and a file that says their classes.

    That file is `root/LOC_val_solution.csv` (ImageId, then a synset and its boxes) or `root/<split>.txt`
    (file name and class number, separated by a space). Synsets are numbered as `folder_classes` says.

    Returns:
      The source, or None when neither file is there.

    """
    folder = epath.Path(root)
    solution, listing = folder / f"LOC_{split}_solution.csv", folder / f"{split}.txt"
    classes = folder_classes(folder)
    if solution.exists():
        number = {name: index for index, name in enumerate(classes)}
        rows = list(_solution_rows(solution, split))
        labels = [_numbers(row, number) for row in rows]
        return FileListSource(folder, [row.path for row in rows], labels, classes)
    if not listing.exists():
        return None
    pairs = [line.rsplit(maxsplit=1) for line in listing.read_text().splitlines() if line.strip()]
    wrong = next((pair for pair in pairs if len(pair) != 2 or not pair[1].isdigit()), None)
    if wrong:
        raise UserError(f"{listing}: {' '.join(wrong)!r} is not a file name and a class number")
    paths = [f"{split}/{name}" for name, _ in pairs]
    return FileListSource(folder, paths, [[int(number)] for _, number in pairs], classes or None)


def read_table(folder: epath.Path, split: str) -> list[Row]:
    """The lines of a split's table, each with a path and at least one label."""
    text, lines = folder / f"{split}.csv", folder / f"{split}.jsonl"
    if text.exists():
        rows = list(_csv_rows(text))
    elif lines.exists():
        rows = list(_json_rows(lines))
    else:
        raise UserError(f"{folder}: has neither {text.name} nor {lines.name}; data.path names their folder")
    if not rows:
        raise UserError(f"{text if text.exists() else lines}: no rows; split {split!r} is empty")
    for row in rows:
        if not row.labels:
            raise UserError(f"{row.place}: no label; give every image at least one, or leave it out")
    return rows


def _solution_rows(file: epath.Path, split: str) -> Iterator[Row]:
    """Kaggle's table: an image's name, and its synset before the first box."""
    for line, cells in enumerate(_csv(file, ("ImageId", "PredictionString")), start=2):
        synset = tuple(cells["PredictionString"].split()[:1])
        yield Row(f"{file}:{line}", f"{split}/{cells['ImageId']}.JPEG", synset)


def _csv_rows(file: epath.Path) -> Iterator[Row]:
    for line, cells in enumerate(_csv(file, ("path", "labels")), start=2):
        labels = [label.strip() for label in cells["labels"].split(SEPARATOR) if label.strip()]
        yield Row(f"{file}:{line}", cells["path"], tuple(int(x) if x.isdecimal() else x for x in labels))


def _csv(file: epath.Path, columns: tuple[str, ...]) -> Iterator[Mapping[str, str]]:
    reader = csv.DictReader(io.StringIO(file.read_text()))
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{file}: no column {missing[0]!r}; the first line has to be {','.join(columns)}")
    for cells in reader:
        if any(not isinstance(cells[name], str) for name in columns):
            raise UserError(f"{file}:{reader.line_num}: has fewer cells than the first line; complete it")
        yield cells


def _json_rows(file: epath.Path) -> Iterator[Row]:
    for line, text in enumerate(file.read_text().splitlines(), start=1):
        if not text.strip():
            continue
        try:
            row = msgspec.json.decode(text, type=_JsonRow)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise UserError(f'{file}:{line}: {error}; write {{"path": ..., "labels": [...]}}') from None
        yield Row(f"{file}:{line}", row.path, tuple(row.labels))


def _names(folder: epath.Path, split: str, rows: list[Row]) -> tuple[str, ...]:
    """Class names in order of number."""
    listed = listed_classes(folder)
    if listed is not None:
        return listed
    known = rows if split == "train" else read_table(folder, "train")
    return tuple(sorted({str(label) for row in known for label in row.labels}, key=os.fsencode))


def listed_classes(root: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """The lines of `root/classes.txt`: class names in order of number; None without that file."""
    file = epath.Path(root) / "classes.txt"
    if not file.exists():
        return None
    names = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    twice = _first_twice(names)
    if twice:
        raise UserError(f"{file}: class {twice!r} is listed twice; keep one line")
    return tuple(names)


def _first_twice(names: Iterable[str]) -> str:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), "")  # type: ignore[func-returns-value]


def _numbers(row: Row, number: Mapping[str, Any] | None) -> list[int]:
    """The class numbers of a row, each once."""
    if number is None:
        return sorted({int(label) for label in row.labels})
    for label in row.labels:
        if str(label) not in number:
            raise UserError(f"{row.place}: class {label!r} is in neither classes.txt nor the training table")
    return sorted({number[str(label)] for label in row.labels})
