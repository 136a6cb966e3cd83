"""CIFAR-10 and CIFAR-100 as published: the python version and the binary one (Krizhevsky 2009)."""

from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import UInt8

from offsites_jax.data import restricted_pickle
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.one_class.readers.records import Classes, PixelSource

SIDE = 32
PIXELS = 3 * SIDE * SIDE
MAX_BYTES = 2**29


class _Version(NamedTuple):
    """Where one version of one of the sets keeps things.

    Attributes:
      folder: it unpacks to.
      files: of each split.
      names: file of the class names.
      label: key of the labels in a pickle, or their place before the pixels of a binary row.
      label_bytes: before the pixels of a binary row; 0 for pickles.

    """

    folder: str
    files: dict[str, tuple[str, ...]]
    names: str
    label: str | int
    label_bytes: int = 0


def read_cifar10(root: epath.PathLike, split: str) -> Classes:
    """CIFAR-10: the folder `cifar-10-batches-py` or `cifar-10-batches-bin`, or the one that holds it.

    Args:
      root: that folder.
      split: train (50,000 images of 32 x 32) or test (10,000).

    Raises:
      UserError: there is no such split, or a file is missing.
      DamagedDataError: a file is not what it should be; the message names it.

    """
    parts = tuple(f"data_batch_{number}" for number in range(1, 6))
    python = _Version(
        "cifar-10-batches-py", {"train": parts, "test": ("test_batch",)}, "batches.meta", "labels"
    )
    binary = _Version(
        "cifar-10-batches-bin",
        {"train": tuple(f"{part}.bin" for part in parts), "test": ("test_batch.bin",)},
        "batches.meta.txt",
        label=0,
        label_bytes=1,
    )
    return _read(epath.Path(root), split, "cifar10", python, binary)


def read_cifar100(root: epath.PathLike, split: str, *, fine: bool = False) -> Classes:
    """CIFAR-100: the folder `cifar-100-python` or `cifar-100-binary`, or the one that holds it.

    Args:
      root: that folder.
      split: train (50,000 images of 32 x 32) or test (10,000).
      fine: count the 100 fine classes instead of the 20 coarse ones.

    Raises:
      UserError, DamagedDataError: as for `read_cifar10`.

    """
    kind = "fine" if fine else "coarse"
    python = _Version("cifar-100-python", {"train": ("train",), "test": ("test",)}, "meta", f"{kind}_labels")
    binary = _Version(
        "cifar-100-binary",
        {"train": ("train.bin",), "test": ("test.bin",)},
        f"{kind}_label_names.txt",
        label=int(fine),
        label_bytes=2,
    )
    return _read(epath.Path(root), split, "cifar100", python, binary)


def _read(root: epath.Path, split: str, title: str, *versions: _Version) -> Classes:
    folder, version = _find(root, versions)
    if split not in version.files:
        raise UserError(f"config.data: {title} has no split {split!r}; use train or test")
    read = _read_binary if version.label_bytes else _read_pickle
    parts = [read(folder / file, version) for file in version.files[split]]
    images = np.concatenate([pixels for pixels, _ in parts])
    numbers = np.concatenate([labels for _, labels in parts])
    names = _class_names(folder / version.names, version)
    if names and numbers.max() >= len(names):
        raise DamagedDataError(f"{folder}: has class {numbers.max()}, but only {len(names)} class names")
    kinds = [names[number] if names else str(number) for number in numbers]
    return Classes(PixelSource(f"{title}/{split}", images, kinds=kinds), numbers, names)


def _find(root: epath.Path, versions: tuple[_Version, ...]) -> tuple[epath.Path, _Version]:
    for version in versions:
        for folder in (root, root / version.folder):
            if (folder / version.files["test"][0]).is_file():
                return folder, version
    known = " nor ".join(version.folder for version in versions)
    raise UserError(f"{root}: holds neither {known}; config.data.path names the folder that does")


def _bytes(file: epath.Path) -> bytes:
    if not file.is_file():
        raise UserError(f"{file}: no such file; unpack the whole archive")
    if file.stat().length > MAX_BYTES:
        raise DamagedDataError(f"{file}: larger than {MAX_BYTES} bytes, which no file of CIFAR is")
    return file.read_bytes()


def _unpickled(file: epath.Path) -> dict[bytes, Any]:
    try:
        found = restricted_pickle.loads(_bytes(file), encoding="bytes")
    except DamagedDataError as error:
        raise DamagedDataError(f"{file}: {error}") from None
    if not isinstance(found, dict):
        raise DamagedDataError(f"{file}: holds a {type(found).__name__}, not a dict; download it again")
    return found


def _read_pickle(file: epath.Path, version: _Version) -> tuple[np.ndarray, np.ndarray]:
    found = _unpickled(file)
    pixels, labels = found.get(b"data"), found.get(str(version.label).encode())
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (PIXELS,):
        raise DamagedDataError(f"{file}: 'data' is not an array of {PIXELS} bytes an image")
    numbers = labels if isinstance(labels, list) else []
    if len(numbers) != len(pixels) or not all(isinstance(number, int) for number in numbers):
        raise DamagedDataError(
            f"{file}: {version.label!r} is not one number for each of {len(pixels)} images"
        )
    return _images(pixels), _numbers(file, np.array(numbers, np.int64))


def _read_binary(file: epath.Path, version: _Version) -> tuple[np.ndarray, np.ndarray]:
    data = np.frombuffer(_bytes(file), np.uint8)
    row = version.label_bytes + PIXELS
    if not len(data) or len(data) % row:
        raise DamagedDataError(
            f"{file}: {len(data)} bytes are no whole number of rows of {row}; download it again"
        )
    rows = data.reshape(-1, row)
    return _images(rows[:, version.label_bytes :]), rows[:, int(version.label)].astype(np.int64)


def _images(rows: UInt8[np.ndarray, "images pixels"]) -> UInt8[np.ndarray, "images 32 32 3"]:
    """Rows hold the red plane, the green and the blue, each by lines."""
    return np.ascontiguousarray(rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))


def _numbers(file: epath.Path, numbers: np.ndarray) -> np.ndarray:
    if len(numbers) == 0 or numbers.min() < 0:
        raise DamagedDataError(f"{file}: has no images, or classes below 0; download it again")
    return numbers


def _class_names(file: epath.Path, version: _Version) -> tuple[str, ...]:
    """The class names, where their file is there."""
    if not file.is_file():
        return ()
    if version.label_bytes:
        return tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
    key = {"labels": b"label_names"}.get(str(version.label), str(version.label).encode()[:-1] + b"_names")
    return tuple(name.decode() for name in _unpickled(file).get(key, ()))
