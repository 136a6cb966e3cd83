"""Writes TensorFlow checkpoints without TensorFlow, in the format that `importers.bundle` reads."""

import pathlib
import struct
from collections.abc import Mapping, Sequence

import numpy as np

from offsites_jax.data.crc32c import masked_crc32c
from offsites_jax.export.importers.bundle import DTYPES, MAGIC

_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
_HANDLES = 40  # bytes of the footer in front of its magic number


def write_bundle(
    prefix: pathlib.Path, tensors: Mapping[str, np.ndarray], also: Mapping[str, str] | None = None
) -> None:
    """Writes `prefix.index` and `prefix.data-00000-of-00001`, and the file `checkpoint` that names them.

    Args:
      prefix: path without those endings.
      tensors: by name; numbers of a type that checkpoints hold.
      also: further names, by the tensor whose bytes they share.

    """
    entries: dict[str, bytes] = {"": _field(1, 1) + _field(3, _field(1, 1))}  # one shard, version 1
    also, offset = also or {}, 0
    with prefix.with_name(f"{prefix.name}.data-00000-of-00001").open("wb") as stream:
        for name, tensor in tensors.items():
            little = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
            data = little.tobytes()
            entry = _entry(_NUMBERS[tensor.dtype], tensor.shape, offset, data)
            entries |= {name: entry} | ({also[name]: entry} if name in also else {})
            offset += stream.write(data)
    prefix.with_name(f"{prefix.name}.index").write_bytes(_table(entries))
    prefix.with_name("checkpoint").write_text(f'model_checkpoint_path: "{prefix.name}"\n')


def _entry(dtype: int, shape: Sequence[int], offset: int, data: bytes) -> bytes:
    """A `BundleEntryProto`."""
    sizes = b"".join(_field(2, _field(1, size)) for size in shape)
    where = _field(4, offset) + _field(5, len(data))
    return _field(1, dtype) + _field(2, sizes) + where + b"\x35" + struct.pack("<I", masked_crc32c(data))


def _table(entries: Mapping[str, bytes]) -> bytes:
    """A LevelDB table of one block of entries, in the order of their keys, and one that says where it is."""
    ordered = sorted((name.encode(), value) for name, value in entries.items())
    table, handles = b"", []
    for block in (ordered, []):
        handles.append(_varint(len(table)) + _varint(len(_block(block))))
        table += _sealed(_block(block))
    index = _block([(ordered[-1][0], handles[0])])
    place = _varint(len(table)) + _varint(len(index))
    return table + _sealed(index) + (handles[1] + place).ljust(_HANDLES, b"\0") + struct.pack("<Q", MAGIC)


def _block(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Entries with their keys in full, and where each begins."""
    data, begins = b"", []
    for key, value in entries:
        begins.append(len(data))
        data += _varint(0) + _varint(len(key)) + _varint(len(value)) + key + value
    begins = begins or [0]
    return data + struct.pack(f"<{len(begins) + 1}I", *begins, len(begins))


def _sealed(block: bytes) -> bytes:
    """The block with the byte that says it is not compressed, and the checksum of both."""
    return block + b"\0" + struct.pack("<I", masked_crc32c(block + b"\0"))


def _field(number: int, value: int | bytes) -> bytes:
    """A field of a protobuf message: a number, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """A number in groups of seven bits, least first."""
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
