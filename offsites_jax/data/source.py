"""Random-access sources of records: arrays, image folders, ArrayRecord files, TFDS data sets.

A source is read by index, in any order, from several threads and worker processes, so it holds
paths and offsets rather than open files. What a record means is up to the pipeline's transform;
images stay encoded bytes until then, so that a damaged one is reported with its file and index.
"""

import bisect
import difflib
import hashlib
import itertools
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from etils import epath

from offsites_jax.errors import DamagedDataError, UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

Record = dict[str, Any]


class RandomAccess(Protocol):
    """What the pipeline asks of a source; `describe(index) -> str` may be added to name a record."""

    def __len__(self) -> int:
        """Return the number of records."""
        ...

    def __getitem__(self, index: int) -> Record:
        """Return record `index`; raise DamagedDataError when it cannot be read."""
        ...

    def fingerprint(self) -> str:
        """Return a short text that changes when the records or their order change."""
        ...


def describe(source: RandomAccess, index: int) -> str:
    """Name record `index` for a person: its file where the source knows it, and the index."""
    namer = getattr(source, "describe", None)
    return namer(index) if namer else f"record {index}"


class ArraySource:
    """Records cut from arrays of equal length: record i is `{name: array[i]}`, read-only views."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = {name: _read_only(name, array) for name, array in arrays.items()}
        lengths = {name: len(array) for name, array in self._arrays.items()}
        if len(set(lengths.values())) != 1:
            raise UserError(f"arrays of one data set need one common length, got {lengths}")
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Record:
        return {name: array[index] for name, array in self._arrays.items()}

    def describe(self, index: int) -> str:
        """Name record `index`."""
        return f"record {index} of the arrays {', '.join(self._arrays)}"

    def fingerprint(self) -> str:
        """Digest names, shapes, dtypes and every value."""
        parts: list[str | memoryview] = []
        for name, array in sorted(self._arrays.items()):
            values = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            parts += [name, f"{array.dtype}{array.shape}", values.data]
        return _digest(parts)


class ImageFolderSource:
    """Images in one folder per class: `root/<split>/<class>/*.{jpg,jpeg,png,webp}`.

    Records are `{"image": encoded bytes, "label": int32, "path": path below root}`, ordered by the
    bytes of their path. A class's label is its line in `root/classes.txt` where that exists, else
    its rank among the folders of `root/train` (so that every split shares one numbering), else
    among the folders read.

    Args:
        root: Folder that holds the splits, or the class folders themselves when `split` is None.
        split: Name of the split's folder, such as "train" or "val".

    Raises:
        UserError: A folder is missing or empty, a class is not in the list, or names clash.

    """

    def __init__(self, root: str | os.PathLike[str], split: str | None = None):
        self._root = epath.Path(root)
        folder = self._root / split if split else self._root
        folders = _class_folders(folder)
        self.classes = _class_names(self._root, folders)
        label_of = {name: label for label, name in enumerate(self.classes)}
        self._paths: list[str] = []
        self._labels: list[int] = []
        for name in folders:
            if name not in label_of:
                raise UserError(f"{folder / name}: this class is in neither classes.txt nor train/")
            images = _image_names(folder / name)
            self._paths += [f"{split}/{name}/{image}" if split else f"{name}/{image}" for image in images]
            self._labels += [label_of[name]] * len(images)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Record:
        path = self._paths[index]
        try:
            image = (self._root / path).read_bytes()
        except OSError as error:
            raise DamagedDataError(f"cannot be read ({error.strerror or error})") from error
        return {"image": image, "label": np.int32(self._labels[index]), "path": path}

    def describe(self, index: int) -> str:
        """Name the file and index of record `index`."""
        return f"{self._root / self._paths[index]} (record {index})"

    def fingerprint(self) -> str:
        """Digest the class list and every path; file contents are not read."""
        return _digest([*self.classes, "", *self._paths])


def folder_classes(root: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names in order of number: the lines of `root/classes.txt`, or the folders of `root/train`."""
    return _class_names(epath.Path(root), [])


def matching_files(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Names of the files that are meant by a path, a pattern such as "data/train-*", or several of either.

    Those of one pattern are in order of name.

    Raises:
        UserError: No file matches.

    """
    if isinstance(paths, str | os.PathLike):
        path = epath.Path(paths)
        files = [path] if path.exists() else list(path.parent.glob(path.name))
        if not files:
            raise UserError(f"{os.fspath(paths)}: no such file; give files or a pattern of them")
        return sorted(os.fspath(file) for file in files)
    return [file for one in paths for file in matching_files(one)]


def decode_msgpack(data: bytes) -> Record:
    """Decode the record of an ArrayRecord file written by `write_array_record`."""
    try:
        return msgspec.msgpack.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise DamagedDataError(f"is not a msgpack map ({error})") from error


def write_array_record(path: str | os.PathLike[str], records: Iterable[Record]) -> int:
    """Write records of bytes, text, numbers and lists as one ArrayRecord file; return their number.

    The file appears under its name only when complete, and with one record a group, so that
    single records can be read without their neighbours.
    """
    from array_record.python import array_record_module

    unfinished = f"{os.fspath(path)}.unfinished"
    writer = array_record_module.ArrayRecordWriter(unfinished, "group_size:1")
    count = 0
    for record in records:
        writer.write(msgspec.msgpack.encode(record))
        count += 1
    writer.close()
    os.replace(unfinished, path)
    return count


class ArrayRecordSource:
    """Records of one or more ArrayRecord files, in the order of the sorted file names.

    Args:
        paths: A file, a pattern such as "data/train-*.array_record", or a sequence of either.
        decode: Turns the bytes of a record into a dict; raises DamagedDataError when it cannot.

    Raises:
        UserError: No file matches.
        DamagedDataError: A file is truncated or is no ArrayRecord file.

    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        decode: Callable[[bytes], Record] = decode_msgpack,
    ):
        self._files = matching_files(paths)
        self._readers = [_open_array_record(file) for file in self._files]
        self._ends = list(itertools.accumulate(len(reader) for reader in self._readers))
        self._decode = decode

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        file, position = _locate(self._ends, index)
        try:
            data = self._readers[file][position]
        except (RuntimeError, ValueError) as error:
            raise DamagedDataError(f"cannot be read ({_one_line(error)})") from error
        return self._decode(data)

    def describe(self, index: int) -> str:
        """Name the file of record `index` and its place there."""
        file, position = _locate(self._ends, index)
        return f"{self._files[file]}, record {position}"

    def fingerprint(self) -> str:
        """Digest every file's name, number of records and size."""
        parts = [
            f"{os.path.basename(file)} {len(reader)} {epath.Path(file).stat().length}"
            for file, reader in zip(self._files, self._readers, strict=True)
        ]
        return _digest(parts)


class TFDSSource:
    """A prepared TensorFlow Datasets data set, read without importing TensorFlow.

    The data must have been prepared with `--file_format=array_record`: TFRecord files have no
    random access. Top-level images stay encoded bytes; other features come as TFDS gives them
    (text as bytes, ragged sequences as lists).

    Args:
        name: Data set name, with config and version where wanted: "cifar10", "glue/cola:2.0.0".
        split: Split or part of one, such as "train" or "train[:98%]".
        data_dir: Folder of prepared data sets; TFDS's own default when None.

    Attributes:
        class_names: Names of the classes in order of number, by feature, of those that hold classes.

    Raises:
        UserError: The name or split is unknown, or the data is not prepared as ArrayRecord.

    """

    def __init__(self, name: str, split: str, data_dir: str | os.PathLike[str] | None = None):
        import tensorflow_datasets as tfds

        builder = _prepared_builder(name, data_dir)
        info = builder.info
        self._name = f"{info.full_name}, split {split}"
        try:
            part = info.splits[split]
        except (KeyError, ValueError) as error:
            known = ", ".join(info.splits)
            raise UserError(f"{info.full_name} has no split {split!r}; it has {known}") from error
        self._parts = part.file_instructions
        self._ends = list(itertools.accumulate(part.take for part in self._parts))
        self.class_names = {
            feature: tuple(inner.names)
            for feature, kind in info.features.items()
            if isinstance(inner := getattr(kind, "feature", kind), tfds.features.ClassLabel) and inner.names
        }
        images = {
            feature: tfds.decode.SkipDecoding()
            for feature, kind in info.features.items()
            if isinstance(kind, tfds.features.Image)
        }
        self._records = builder.as_data_source(split=split, decoders=images or None)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Record:
        try:
            return self._records[index]
        except Exception as error:  # the readers and parsers below raise nearly every type
            raise DamagedDataError(f"cannot be read ({_one_line(error)})") from error

    def describe(self, index: int) -> str:
        """Name the data set, the file of record `index` and its place there."""
        file, position = _locate(self._ends, index)
        part = self._parts[file]
        return f"{self._name} (record {index}: {part.filename}, record {part.skip + position})"

    def fingerprint(self) -> str:
        """Digest name, config, version, split and the ranges of the files it spans."""
        ranges = [f"{os.path.basename(part.filename)} {part.skip} {part.take}" for part in self._parts]
        return _digest([self._name, *ranges])


def _prepared_builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """Find the prepared files of a TFDS data set, or say what is missing."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    where = os.fspath(data_dir) if data_dir else tfds.core.constants.DATA_DIR
    command = f"tfds build {name} --data_dir={where} --file_format=array_record"
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        base = name.partition(":")[0].partition("/")[0]
        if base in known:
            raise UserError(f"{name} is not prepared in {where}; run: {command}") from error
        near = ", ".join(difflib.get_close_matches(base, known, cutoff=0.5)) or "none"
        raise UserError(
            f"there is no TFDS data set {name!r}, nor files of it in {where}; nearest names: {near}"
        ) from error
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise UserError(
            f"{name} in {where} is prepared as {', '.join(sorted(formats))}, which has no random "
            f"access; prepare it in another data_dir with --file_format=array_record: {command}"
        )
    return builder


def _read_only(name: str, array: np.ndarray) -> np.ndarray:
    view = np.asarray(array).view()
    if view.ndim == 0 or view.dtype.hasobject:
        raise UserError(f"array {name!r} must have a leading axis of records and a plain dtype")
    view.flags.writeable = False
    return view


def _class_folders(folder: epath.Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a root that holds one folder per class")
    names = [child.name for child in folder.iterdir() if child.is_dir()]
    names = sorted((name for name in names if not name.startswith(".")), key=os.fsencode)
    if not names:
        raise UserError(f"{folder}: no class folders; images belong in {folder}/<class>/")
    by_look: dict[str, str] = {}
    for name in names:
        twin = by_look.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if twin != name:
            raise UserError(f"{folder}: class folders {twin!r} and {name!r} clash; rename one")
    return names


def _class_names(root: epath.Path, folders: list[str]) -> tuple[str, ...]:
    listing = root / "classes.txt"
    if listing.exists():
        names = [line.strip() for line in listing.read_text().splitlines() if line.strip()]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise UserError(f"{listing}: class {twice[0]!r} is listed twice; keep one line")
        return tuple(names)
    if (root / "train").is_dir() and "train" not in folders:
        return tuple(_class_folders(root / "train"))
    return tuple(folders)


def _image_names(folder: epath.Path) -> list[str]:
    names = [child.name for child in folder.iterdir()]
    images = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]
    if not images:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise UserError(f"{folder}: this class has no images ({kinds}); add some or remove it")
    return sorted(images, key=os.fsencode)


def _open_array_record(file: str) -> Any:
    import grain

    try:
        return grain.sources.ArrayRecordDataSource([file])
    except RuntimeError as error:
        reason = _one_line(error) or "truncated"
        raise DamagedDataError(f"{file}: not a whole ArrayRecord file ({reason})") from error


def _locate(ends: list[int], index: int) -> tuple[int, int]:
    """Return (file, position in it) of record `index`, where file f ends before `ends[f]`."""
    file = bisect.bisect_right(ends, index)
    return file, index - (ends[file - 1] if file else 0)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _digest(parts: Iterable[str | memoryview]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = memoryview(os.fsencode(part)) if isinstance(part, str) else part
        digest.update(data.nbytes.to_bytes(8, "little"))  # "ab" + "c" is not "a" + "bc"
        digest.update(data)
    return digest.hexdigest()
