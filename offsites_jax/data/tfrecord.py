"""TFRecord files of `tf.train.Example`s, read by index and without TensorFlow.

A record is its length (uint64), the masked CRC-32C of these 8 bytes, its bytes, and their masked CRC-32C
(tensorflow/core/lib/io/record_writer.h). Such a file has no index; one is made by walking over the lengths.
"""

import bisect
import hashlib
import itertools
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int64

from offsites_jax.data.crc32c import masked_crc32c, masked_crc32c_rows
from offsites_jax.data.protobuf import parse_example
from offsites_jax.data.source import Record, matching_files
from offsites_jax.errors import DamagedDataError, UserError

_HEADER, _FOOTER = 12, 4
_THREADS = 16  # opening and seeking waits for disks and networks
MAX_RECORD = 2**30

Offsets = Int64[np.ndarray, "records"]


def decode_example(data: bytes) -> Record:
    """The features of a serialised `tf.train.Example`, each a list of bytes, ints or floats."""
    try:
        return dict(parse_example(data))
    except (ValueError, IndexError, KeyError, struct.error) as error:
        raise DamagedDataError(f"is not a tf.train.Example ({error})") from error


class TFRecordSource:
    """Records of TFRecord files, in the order of the sorted file names.

    Args:
        paths: A file, a pattern such as "data/train-*", or a sequence of either.
        decode: Turns the bytes of a record into a dict; raises DamagedDataError when it cannot.
        index: File to keep the places of records in, so that later starts need not walk over the data again;
            made anew when names or sizes of the data differ.

    Raises:
        UserError: No file matches.
        DamagedDataError: A file is truncated or is no TFRecord file.

    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        decode: Callable[[bytes], Record] = decode_example,
        index: str | os.PathLike[str] | None = None,
    ):
        self._files = matching_files(paths)
        self._sizes = [epath.Path(file).stat().length for file in self._files]
        self._offsets = _find_offsets(self._files, self._sizes, index)
        self._ends = list(itertools.accumulate(map(len, self._offsets)))
        self._decode = decode

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        file, position = self._locate(index)
        try:
            with epath.Path(self._files[file]).open("rb") as stream:
                stream.seek(int(self._offsets[file][position]))
                data = _read_record(stream)
        except OSError as error:
            raise DamagedDataError(f"cannot be read ({error.strerror or error})") from error
        return self._decode(data)

    def describe(self, index: int) -> str:
        """Name the file of record `index` and its place there."""
        file, position = self._locate(index)
        return f"{self._files[file]}, record {position}"

    def fingerprint(self) -> str:
        """Digest every file's name, number of records and size."""
        facts = zip(self._files, self._offsets, self._sizes, strict=True)
        lines = [f"{os.path.basename(file)} {len(offsets)} {size}" for file, offsets, size in facts]
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()

    def _locate(self, index: int) -> tuple[int, int]:
        """(file, position in it) of record `index`."""
        file = bisect.bisect_right(self._ends, index)
        return file, index - (self._ends[file - 1] if file else 0)


def _read_record(stream: Any) -> bytes:
    """The bytes of the record that starts here, checked against both checksums."""
    header = stream.read(_HEADER)
    length, checksum = struct.unpack("<QI", header) if len(header) == _HEADER else (MAX_RECORD + 1, 0)
    if length > MAX_RECORD or masked_crc32c(header[:8]) != checksum:
        raise DamagedDataError("its length does not have its checksum")
    data, footer = stream.read(length), stream.read(_FOOTER)
    if len(footer) < _FOOTER or masked_crc32c(data) != struct.unpack("<I", footer)[0]:
        raise DamagedDataError("does not have its checksum")
    return data


def _find_offsets(files: list[str], sizes: list[int], index: str | os.PathLike[str] | None) -> list[Offsets]:
    """Where each record of each file starts, from the index file if it fits."""
    names = [os.path.basename(file) for file in files]
    kept = _load_index(epath.Path(index), names, sizes) if index else None
    if kept is not None:
        return kept
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="index-tfrecord") as threads:
        offsets = list(threads.map(_walk, files, sizes))
    if index:
        _save_index(epath.Path(index), names, sizes, offsets)
    return offsets


def _walk(file: str, size: int) -> Offsets:
    """Where each record of a file starts.

    Raises:
      DamagedDataError: a length is wrong, or the file ends inside a record.

    """
    offsets, headers, at = [], [], 0
    with epath.Path(file).open("rb") as stream:
        while at < size:
            stream.seek(at)
            header = stream.read(_HEADER)
            offsets.append(at)
            headers.append(header.ljust(_HEADER, b"\0"))
            at += _HEADER + int.from_bytes(header[:8], "little") + _FOOTER
    _check_headers(file, headers)
    if at > size:
        raise DamagedDataError(f"{file}: ends inside record {len(offsets) - 1}; copy it again")
    return np.array(offsets, np.int64)


def _check_headers(file: str, headers: list[bytes]) -> None:
    rows = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, _HEADER)
    stored = np.ascontiguousarray(rows[:, 8:]).view("<u4")[:, 0]
    wrong = np.flatnonzero(masked_crc32c_rows(rows[:, :8]) != stored)
    if len(wrong):
        raise DamagedDataError(
            f"{file}: not a TFRecord file, or damaged: the length of record {wrong[0]} has another checksum"
        )


def _load_index(file: epath.Path, names: list[str], sizes: list[int]) -> list[Offsets] | None:
    """The offsets kept in an index file; None when there is none, or it is of other data."""
    if not file.exists():
        return None
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            if kept["names"].tolist() != names or kept["sizes"].tolist() != sizes:
                return None
            return np.split(kept["offsets"], np.cumsum(kept["counts"])[:-1])
    except Exception as error:  # the reader of zip files raises nearly every type on damaged bytes
        raise DamagedDataError(f"{file}: not an index of TFRecords ({error}); delete it") from error


def _save_index(file: epath.Path, names: list[str], sizes: list[int], offsets: list[Offsets]) -> None:
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            np.savez(
                stream,
                names=np.array(names),
                sizes=np.array(sizes, np.int64),
                counts=np.array([len(found) for found in offsets], np.int64),
                offsets=np.concatenate(offsets),
            )
        partial.replace(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error}); choose another") from None
