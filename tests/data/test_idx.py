"""Idx files: written by struct, read back; and files that are not what they say."""

import gzip
import struct

import numpy as np
import pytest

from offsites_jax.data.idx import read_idx
from offsites_jax.errors import DamagedDataError, UserError

CODES = {"u1": 8, "i1": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}


def idx(array, code):
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("dtype", "code"), CODES.items())
def test_every_type_comes_back(tmp_path, dtype, code, zipped):
    array = (np.arange(24).reshape(2, 3, 4) - 5).astype(dtype)
    data = idx(array, code)
    file = tmp_path / "values"
    file.write_bytes(gzip.compress(data) if zipped else data)
    found = read_idx(file)
    assert found.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array)


def test_the_published_magic_numbers():
    assert struct.unpack(">I", idx(np.zeros((1, 2, 2), np.uint8), 8)[:4]) == (2051,)
    assert struct.unpack(">I", idx(np.zeros(1, np.uint8), 8)[:4]) == (2049,)


def test_damage_is_named(tmp_path):
    good = idx(np.arange(100, dtype=np.uint8), 8)
    zipped = gzip.compress(good)
    broken = bytearray(zipped)
    broken[-6] ^= 1  # the checksum
    wrong = {
        "cut off": good[:-1],
        "goes on": good + b"x",
        "not an idx file": b"PK\x03\x04" + good[4:],
        "cannot be unpacked": zipped[:30],
        "unpacked": bytes(broken),
        "announces": struct.pack(">HBB3I", 0, 14, 3, 2**31, 2**31, 2**31),
    }
    for message, data in wrong.items():
        file = tmp_path / "bad.gz"
        file.write_bytes(data)
        with pytest.raises(DamagedDataError, match=message) as caught:
            read_idx(file)
        assert str(file) in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        read_idx(tmp_path / "missing")


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    file = tmp_path / "bomb.gz"
    header = struct.pack(">HBBI", 0, 8, 1, 10)
    with gzip.open(file, "wb", compresslevel=1) as stream:
        stream.write(header)
        for _ in range(64):
            stream.write(bytes(2**20))
    with pytest.raises(DamagedDataError, match="goes on after the 10 bytes"):
        read_idx(file)
    with pytest.raises(DamagedDataError, match="announces 10 bytes, over 9"):
        read_idx(file, max_bytes=9)
