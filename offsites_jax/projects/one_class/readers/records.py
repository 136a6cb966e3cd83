"""What every reader gives: photos in files or pixels in memory, each normal (0) or anomalous (1)."""

import hashlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from etils import epath
from jaxtyping import Bool, Int32, Integer, UInt8

from offsites_jax.data.source import Record
from offsites_jax.errors import DamagedDataError, UserError

NORMAL, ANOMALOUS, UNKNOWN = 0, 1, -1
GOOD = "good"

Indices = Integer[np.ndarray, " chosen"]
Self = TypeVar("Self", bound="Source")


class Source(Protocol):
    """Records by position, and what is known of all of them without opening any.

    Records are `{"image": encoded bytes or pixels, "label": int32, "index": int32}`, and where the source
    has masks `"mask"` too: encoded bytes, `b""` where nothing is wrong, or bool pixels.

    Attributes:
      names: what each record is called in reports: its path below the root, for files.
      kinds: class, or type of defect, of each.
      labels: 0 normal, 1 anomalous.
      has_masks: whether it is known where the anomalies are.

    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    labels: Int32[np.ndarray, " records"]
    has_masks: bool

    def __len__(self) -> int:
        """Number of records."""
        ...

    def __getitem__(self, index: int) -> Record:
        """Record `index`."""
        ...

    def describe(self, index: int) -> str:
        """Name record `index` for a person."""
        ...

    def fingerprint(self) -> str:
        """A short text that changes with the records or their order."""
        ...

    def pick(self: Self, indices: Indices, labels: Int32[np.ndarray, " chosen"] | None = None) -> Self:
        """The records at `indices`, labelled anew where `labels` are given."""
        ...


class Photo(NamedTuple):
    """An image file.

    Attributes:
      path: below the root.
      label: 0 normal, 1 anomalous.
      kind: good, the type of its defect, or its class.
      mask: path of the mask below the root; empty where there is none.

    """

    path: str
    label: int
    kind: str
    mask: str = ""


class PhotoSource:
    """Image files below a root.

    Args:
      root: folder that the paths are below.
      photos: one a record.

    """

    def __init__(self, root: str | os.PathLike[str], photos: Sequence[Photo]) -> None:
        self._root, self._photos = epath.Path(root), list(photos)
        self.names = tuple(photo.path for photo in self._photos)
        self.kinds = tuple(photo.kind for photo in self._photos)
        self.labels = np.array([photo.label for photo in self._photos], np.int32)
        self.has_masks = any(photo.mask for photo in self._photos)

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> Record:
        photo = self._photos[index]
        record = {"image": self._read(photo.path), "label": self.labels[index], "index": np.int32(index)}
        if self.has_masks:
            record["mask"] = self._read(photo.mask) if photo.mask else b""
        return record

    def describe(self, index: int) -> str:
        """The file's path, and that of its mask."""
        photo = self._photos[index]
        mask = f" with mask {photo.mask}" if photo.mask else ""
        return f"{self._root / photo.path}{mask} (record {index})"

    def fingerprint(self) -> str:
        """Digest of paths and labels; files are not read."""
        return _digest("\0".join(f"{p.path}\0{p.label}\0{p.mask}" for p in self._photos).encode())

    def pick(self, indices: Indices, labels: Int32[np.ndarray, " chosen"] | None = None) -> "PhotoSource":
        """The photos at `indices`, labelled anew where `labels` are given."""
        chosen = [self._photos[index] for index in indices]
        if labels is not None:
            chosen = [photo._replace(label=int(label)) for photo, label in zip(chosen, labels, strict=True)]
        return PhotoSource(self._root, chosen)

    def _read(self, path: str) -> bytes:
        try:
            return (self._root / path).read_bytes()
        except OSError as error:
            raise DamagedDataError(f"{path} cannot be read ({error.strerror or error})") from error


class PixelSource:
    """Images in memory.

    Args:
      title: what they are called together; names are `<title>/<number>` unless given.
      images: all of one size.
      labels: 0 normal, 1 anomalous; unknown without.
      kinds: class or type of defect of each; empty without.
      masks: where the anomalies are.
      names: of each image.

    """

    def __init__(
        self,
        title: str,
        images: UInt8[np.ndarray, "records height width channels"],
        labels: Int32[np.ndarray, " records"] | None = None,
        kinds: Sequence[str] = (),
        masks: Bool[np.ndarray, "records height width"] | None = None,
        names: Sequence[str] = (),
    ) -> None:
        self._title, self.images, self.masks = title, images, masks
        self.names = tuple(names) or tuple(f"{title}/{number:05d}" for number in range(len(images)))
        self.kinds = tuple(kinds) or ("",) * len(images)
        self.labels = np.full(len(images), UNKNOWN, np.int32) if labels is None else labels.astype(np.int32)
        self.has_masks = masks is not None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        record: dict[str, Any] = {
            "image": self.images[index],
            "label": self.labels[index],
            "index": np.int32(index),
        }
        if self.masks is not None:
            record["mask"] = self.masks[index]
        return record

    def describe(self, index: int) -> str:
        """The image's name."""
        return f"{self.names[index]} (record {index})"

    def fingerprint(self) -> str:
        """Digest of names, pixels, labels and masks."""
        arrays = [self.images, self.labels, *([] if self.masks is None else [self.masks])]
        return _digest("\0".join(self.names).encode(), *(array.tobytes() for array in arrays))

    def pick(self, indices: Indices, labels: Int32[np.ndarray, " chosen"] | None = None) -> "PixelSource":
        """The images at `indices`, labelled anew where `labels` are given."""
        return PixelSource(
            self._title,
            self.images[indices],
            self.labels[indices] if labels is None else labels,
            [self.kinds[index] for index in indices],
            None if self.masks is None else self.masks[indices],
            [self.names[index] for index in indices],
        )


class Classes(NamedTuple):
    """A labelled data set, before one of its classes is called normal.

    Attributes:
      source: the images, their labels still unknown.
      numbers: class of each.
      names: of the classes in order of number; empty where the files do not tell.

    """

    source: PixelSource | PhotoSource
    numbers: Integer[np.ndarray, " records"]
    names: tuple[str, ...]

    def number(self, category: str) -> int:
        """The number of a class that is given by name or number.

        Raises:
          UserError: there is no such class.
        """
        if category in self.names:
            return self.names.index(category)
        present = np.unique(self.numbers)
        if category.isdecimal() and int(category) in present:
            return int(category)
        known = ", ".join(self.names) or f"{present.min()} to {present.max()}"
        raise UserError(f"config.data.category: no class {category!r}; known: {known}")


class Copies:
    """Every record of a source several times over; `copy` says which time it is.

    Distribution augmentation makes a different picture of each copy: one epoch sees all of them.

    Args:
      source: the records.
      copies: of each record.

    """

    def __init__(self, source: Any, copies: int) -> None:
        self._source, self._copies = source, copies

    def __len__(self) -> int:
        return len(self._source) * self._copies

    def __getitem__(self, index: int) -> Record:
        copy, position = divmod(index, len(self._source))
        return {**self._source[position], "copy": np.int32(copy)}

    def describe(self, index: int) -> str:
        """The name of the record that this is a copy of."""
        return self._source.describe(index % len(self._source))

    def fingerprint(self) -> str:
        """The source's, and the number of copies."""
        return f"{self._source.fingerprint()} x {self._copies}"


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
