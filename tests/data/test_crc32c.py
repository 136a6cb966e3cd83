import numpy as np
import pytest
from tensorboardX.crc32c import crc32c as bytewise

from offsites_jax.data.crc32c import crc32c, masked_crc32c


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_values(data, expected):
    """Those of RFC 3720, section B.4."""
    assert crc32c(data) == expected


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 511, 513, 1000, 4096, 100_003])
def test_any_size_equals_a_bytewise_implementation(size):
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == bytewise(data)


def test_mask_is_that_of_leveldb():
    value = bytewise(b"foo")
    assert masked_crc32c(b"foo") == ((value >> 15 | value << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32
