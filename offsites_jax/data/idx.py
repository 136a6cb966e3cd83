"""Arrays in the idx files of MNIST and its successors, plain or gzipped.

An idx file is two zero bytes, a type, the number of axes, their lengths, and the values, all big-endian
(yann.lecun.com/exdb/mnist).
"""

import gzip
import math
import os
import struct
import zlib
from typing import BinaryIO, cast

import numpy as np
from etils import epath

from offsites_jax.errors import DamagedDataError, UserError

MAX_BYTES = 2**30

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_AXES = 8
_GZIP = b"\x1f\x8b"


def read_idx(file: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """The array of an idx file, in the machine's byte order.

    Never reads more than the header announces, however far a gzipped file would unpack.

    Args:
      file: the file; gzip is recognised by its first bytes.
      max_bytes: refuse larger arrays before reading them.

    Raises:
      UserError: there is no such file.
      DamagedDataError: it is no idx file, is cut off, goes on too long, or is too large.

    """
    path = epath.Path(file)
    if not path.is_file():
        raise UserError(f"{path}: no such file; data.path names its folder")
    try:
        with path.open("rb") as stream:
            zipped = stream.read(2) == _GZIP
            stream.seek(0)
            return _read(gzip.open(stream) if zipped else stream, max_bytes)
    except DamagedDataError as error:
        raise DamagedDataError(f"{path}: {error}; download it again") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedDataError(f"{path}: cannot be unpacked ({error}); download it again") from None


def _read(stream: "BinaryIO | gzip.GzipFile", max_bytes: int) -> np.ndarray:
    stream = cast(BinaryIO, stream)
    zeros, kind, axes = struct.unpack(">HBB", _exactly(stream, 4))
    if zeros or kind not in _TYPES or not 0 < axes <= _MAX_AXES:
        raise DamagedDataError("not an idx file (its first four bytes say neither type nor axes)")
    shape = struct.unpack(f">{axes}I", _exactly(stream, 4 * axes))
    dtype = np.dtype(_TYPES[kind])
    size = math.prod(shape) * dtype.itemsize
    if size > max_bytes:
        raise DamagedDataError(f"announces {size} bytes, over {max_bytes} allowed")
    values = np.frombuffer(_exactly(stream, size), dtype).reshape(shape)
    if stream.read(1):
        raise DamagedDataError(f"goes on after the {size} bytes its header announces")
    return values.astype(dtype.newbyteorder("="))


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise DamagedDataError(f"is cut off ({len(data)} bytes where {size} belong)")
    return data
