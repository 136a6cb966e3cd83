"""Reads TensorFlow checkpoints without TensorFlow.

A checkpoint ("tensor bundle") is `NAME.index`, a LevelDB table of serialised `BundleEntryProto` messages by
tensor name, and shards `NAME.data-00000-of-00002` of raw numbers. The formats are those of google/leveldb
(doc/table_format.md) and tensorflow/tensorflow (core/protobuf/tensor_bundle.proto).
"""

import dataclasses
import math
import pathlib
import struct
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from offsites_jax.data.crc32c import masked_crc32c
from offsites_jax.data.protobuf import fields, message_of, varint
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.export.importers.tensors import Tensors

MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_INDEX_LIMIT = 1 << 28  # bytes; the index of a model of a thousand tensors has some 100 kB

# DataType of tensorflow/core/framework/types.proto, of those that hold plain numbers.
DTYPES = {
    1: np.dtype(np.float32),
    2: np.dtype(np.float64),
    3: np.dtype(np.int32),
    9: np.dtype(np.int64),
    10: np.dtype(np.bool_),
    14: np.dtype(ml_dtypes.bfloat16),
    19: np.dtype(np.float16),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a tensor lies.

    Attributes:
      dtype: TensorFlow's number of its type.
      shape: its sizes.
      shard: number of its data file.
      offset, size: its bytes there.
      crc: masked CRC-32C of them.
      sliced: it is stored in pieces, under other keys.

    """

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    sliced: bool = False


def read_bundle(prefix: pathlib.Path) -> Tensors:
    """Opens a checkpoint.

    Args:
      prefix: path of its files without `.index` and `.data-...`.

    Raises:
      DamagedDataError: the index, a shard or a checksum is wrong; reading a tensor may raise it too.
      UserError: the checkpoint is of a kind that is not read: compressed, big-endian, in slices.

    """
    index = prefix.with_name(prefix.name + ".index")
    try:
        entries, shards = _parse_index(index)
    except (IndexError, ValueError, struct.error) as error:  # what reading past an end, or nonsense, raises
        raise DamagedDataError(f"{index}: damaged ({error}); download it again") from error
    files = [prefix.with_name(f"{prefix.name}.data-{k:05d}-of-{shards:05d}") for k in range(shards)]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: missing; a checkpoint consists of its .index and all .data files")

    def read(name: str) -> np.ndarray:
        return _read_tensor(files, name, entries[name])

    return Tensors({name: entry.shape for name, entry in entries.items()}, read, (index, *files))


def _read_tensor(files: list[pathlib.Path], name: str, entry: Entry) -> np.ndarray:
    dtype = DTYPES.get(entry.dtype)
    if dtype is None or entry.sliced:
        kind = "stored in slices" if entry.sliced else f"of TensorFlow's type number {entry.dtype}"
        raise UserError(f"{files[0]}: tensor {name!r} is {kind}, which is not read; save it whole, as floats")
    if entry.shard >= len(files) or entry.size != math.prod(entry.shape) * dtype.itemsize:
        raise DamagedDataError(f"{files[0]}: the index entry of {name!r} is impossible; download it again")
    file = files[entry.shard]
    with file.open("rb") as stream:
        stream.seek(entry.offset)
        data = stream.read(entry.size)
    if len(data) != entry.size:
        raise DamagedDataError(f"{file}: ends inside tensor {name!r}; download it again")
    if masked_crc32c(data) != entry.crc:
        raise DamagedDataError(f"{file}: tensor {name!r} does not have its checksum; download it again")
    return np.frombuffer(data, dtype.newbyteorder("<")).reshape(entry.shape)


def _parse_index(file: pathlib.Path) -> tuple[dict[str, Entry], int]:
    """Entries by tensor name, and the number of shards."""
    if file.stat().st_size > _INDEX_LIMIT:
        raise ValueError("larger than any index")
    table = dict(_read_table(file.read_bytes()))
    shards = 0
    for number, value in fields(table.pop(b"")):
        if number == 1:
            shards = _as_int(value)
        elif number == 2 and value != 0:
            raise UserError(f"{file}: written by a big-endian machine, which is not read")
    if not 0 < shards < 100_000:
        raise ValueError(f"claims {shards} data files")
    # Keys that start with a zero byte belong to the pieces of partitioned variables.
    named = {key.decode(): value for key, value in table.items() if not key.startswith(b"\0")}
    return {name: _parse_entry(value) for name, value in named.items()}, shards


def _parse_entry(message: bytes) -> Entry:
    """A `BundleEntryProto`."""
    numbers: dict[int, int] = {}
    shape: tuple[int, ...] = ()
    sliced = False
    for number, value in fields(message):
        if number == 2:
            shape = _parse_shape(message_of(value))
        elif number == 7:
            sliced = True
        else:
            numbers[number] = _as_int(value)
    dtype, shard, offset, size, crc = (numbers.get(number, 0) for number in (1, 3, 4, 5, 6))
    return Entry(dtype, shape, shard, offset, size, crc, sliced)


def _parse_shape(message: bytes) -> tuple[int, ...]:
    """A `TensorShapeProto`: dimensions in field 2, the size of each in its field 1."""
    sizes = []
    for number, dimension in fields(message):
        if number == 2:
            sizes.append(next((_as_int(v) for n, v in fields(message_of(dimension)) if n == 1), 0))
    return tuple(sizes)


def _read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a LevelDB table."""
    footer = data[-_FOOTER:]
    if len(footer) < _FOOTER or struct.unpack("<Q", footer[-8:])[0] != MAGIC:
        raise ValueError("no TensorFlow checkpoint index, or cut short")
    _, at = _handle(footer, 0)  # of meta blocks, which hold nothing we want
    index, _ = _handle(footer, at)
    for _, value in _entries(_block(data, *index)):
        yield from _entries(_block(data, *_handle(value, 0)[0]))


def _block(data: bytes, offset: int, size: int) -> bytes:
    """The contents of a block, which a byte for the compression and a checksum of both follow."""
    kind, checksum = struct.unpack_from("<BI", data, offset + size)
    if masked_crc32c(data[offset : offset + size + 1]) != checksum:
        raise ValueError(f"block at {offset} does not have its checksum")
    if kind:
        raise UserError("a TensorFlow checkpoint with a compressed index is not read; save it anew")
    return data[offset : offset + size]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; each key gives only what differs from the one before it."""
    restarts = struct.unpack("<I", block[-4:])[0]
    end, at, key = len(block) - 4 * (restarts + 1), 0, b""
    while at < end:
        shared, at = varint(block, at)
        fresh, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or at + fresh + size > end:
            raise ValueError("an entry reaches beyond its block")
        key = key[:shared] + block[at : at + fresh]
        yield key, block[at + fresh : at + fresh + size]
        at += fresh + size


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _as_int(value: int | bytes) -> int:
    if not isinstance(value, int) or value >= 1 << 63:
        raise ValueError("a field is no size")
    return value
