"""CRC-32C (Castagnoli) of buffers in NumPy: many stretches side by side, joined at the end.

A CRC without its initial and final inversions is linear over GF(2): that of A followed by B is that of A
shifted by the length of B, plus (xor) that of B. A shift is kept as four tables, one for each byte of the
state that is shifted.
"""

import functools

import numpy as np
from jaxtyping import UInt8, UInt16, UInt32

_POLYNOMIAL = 0x82F63B78
_STRETCH = 256  # bytes that one lane walks through, at most
_ONES = 0xFFFFFFFF

Shift = UInt32[np.ndarray, "4 256"]


def crc32c(data: bytes) -> int:
    """The checksum as RFC 3720 defines it."""
    return int(_inverted(len(data)) ^ _linear(np.frombuffer(data, np.uint8))) ^ _ONES


def masked_crc32c(data: bytes) -> int:
    """The form in which LevelDB tables and TensorFlow store it: rotated right by 15, plus a constant."""
    value = crc32c(data)
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & _ONES


def masked_crc32c_rows(data: UInt8[np.ndarray, "rows size"]) -> UInt32[np.ndarray, "rows"]:
    """`masked_crc32c` of each row of an even number of bytes."""
    words = np.ascontiguousarray(np.ascontiguousarray(data).view("<u2").T)
    value = _walk(words) ^ _inverted(data.shape[1]) ^ np.uint32(_ONES)
    return ((value >> 15) | (value << 17)) + np.uint32(0xA282EAD8)


def _inverted(size: int) -> np.uint32:
    """What the initial inversion leaves after so many bytes."""
    state = np.array([_ONES], np.uint32)
    for bit in range(size.bit_length()):
        if size >> bit & 1:
            state = _apply(_shift(1, bit), state)
    return state[0]


def _linear(data: UInt8[np.ndarray, "size"]) -> np.uint32:
    """CRC from state 0, without the final inversion."""
    lanes = 1
    while lanes * _STRETCH < data.size:
        lanes *= 2
    length = -(-data.size // lanes) + 1 & ~1  # bytes of a lane, an even number
    # Zeros in front do not change a CRC that starts from 0.
    padded = np.concatenate([np.zeros(lanes * length - data.size, np.uint8), data])
    words = np.ascontiguousarray(padded.view("<u2").reshape(lanes, length // 2).T)
    state, level = _walk(words), 0
    while state.size > 1:
        state = _apply(_shift(length, level), state[0::2]) ^ state[1::2]
        level += 1
    return state[0]


def _walk(words: UInt16[np.ndarray, "steps lanes"]) -> UInt32[np.ndarray, "lanes"]:
    """CRC from state 0 of each column, two bytes at a time."""
    table = _table()
    state = np.zeros(words.shape[1], np.uint32)
    for row in words:
        state = (state >> 16) ^ table[(state ^ row) & 0xFFFF]
    return state


@functools.cache
def _table() -> UInt32[np.ndarray, "65536"]:
    """What two bytes leave of a state, by those two bytes."""
    return _steps(np.arange(1 << 16, dtype=np.uint32), 16)


@functools.cache
def _shift(length: int, doublings: int) -> Shift:
    """The shift by `length * 2**doublings` zero bytes."""
    if doublings:
        half = _shift(length, doublings - 1)
        return _apply(half, half.ravel()).reshape(4, 256)
    state = (np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, None]).ravel()
    return _steps(state, 8 * length).reshape(4, 256)


def _apply(shift: Shift, states: UInt32[np.ndarray, "n"]) -> UInt32[np.ndarray, "n"]:
    """Each state after the shift."""
    first, second, third, fourth = shift
    low = first[states & 0xFF] ^ second[states >> 8 & 0xFF]
    return low ^ third[states >> 16 & 0xFF] ^ fourth[states >> 24]


def _steps(state: np.ndarray, count: int) -> np.ndarray:
    for _ in range(count):
        state = (state >> 1) ^ np.where(state & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return state
