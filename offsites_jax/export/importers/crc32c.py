"""CRC-32C (Castagnoli) of large buffers in NumPy: many stretches side by side, joined at the end.

A CRC without its initial and final inversions is linear over GF(2): that of A followed by B is that of A
shifted by the length of B, plus (xor) that of B. A shift by one zero byte is a 32x32 matrix, kept as its
32 columns in a uint32 array.
"""

import functools

import numpy as np
from jaxtyping import UInt8, UInt32

_POLYNOMIAL = 0x82F63B78
_STRETCH = 256  # bytes that one lane walks through, at most
_ONES = 0xFFFFFFFF
_BITS = np.arange(32, dtype=np.uint32)

Operator = UInt32[np.ndarray, "32"]


def crc32c(data: bytes) -> int:
    """The checksum as RFC 3720 defines it."""
    inverted = _apply(_power(_byte_shift(), len(data)), np.array([_ONES], np.uint32))
    return int(inverted[0] ^ _linear(np.frombuffer(data, np.uint8))) ^ _ONES


def masked_crc32c(data: bytes) -> int:
    """The form in which LevelDB tables and TensorFlow store it: rotated right by 15, plus a constant."""
    value = crc32c(data)
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & _ONES


def _linear(data: UInt8[np.ndarray, "size"]) -> np.uint32:
    """CRC from state 0, without the final inversion."""
    lanes = 1
    while lanes * _STRETCH < data.size:
        lanes *= 2
    length = -(-data.size // lanes) + 1 & ~1  # bytes of a lane, an even number
    # Zeros in front do not change a CRC that starts from 0.
    padded = np.concatenate([np.zeros(lanes * length - data.size, np.uint8), data])
    words = np.ascontiguousarray(padded.view("<u2").reshape(lanes, length // 2).T)
    table = _table()
    state = np.zeros(lanes, np.uint32)
    for column in words:
        state = (state >> 16) ^ table[(state ^ column) & 0xFFFF]
    shift = _power(_byte_shift(), length)
    while state.size > 1:
        state = _apply(shift, state[0::2]) ^ state[1::2]
        shift = _apply(shift, shift)
    return state[0]


@functools.cache
def _table() -> UInt32[np.ndarray, "65536"]:
    """What two bytes leave of a state, by those two bytes."""
    return _steps(np.arange(1 << 16, dtype=np.uint32), 16)


@functools.cache
def _byte_shift() -> Operator:
    """A state after one zero byte."""
    return _steps(np.uint32(1) << _BITS, 8)


def _steps(state: np.ndarray, count: int) -> np.ndarray:
    for _ in range(count):
        state = (state >> 1) ^ np.where(state & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return state


def _power(operator: Operator, exponent: int) -> Operator:
    result = np.uint32(1) << _BITS
    while exponent:
        if exponent & 1:
            result = _apply(operator, result)
        operator = _apply(operator, operator)
        exponent >>= 1
    return result


def _apply(operator: Operator, states: UInt32[np.ndarray, "n"]) -> UInt32[np.ndarray, "n"]:
    """The matrix times each state."""
    result = np.zeros_like(states)
    for bit, column in enumerate(operator):
        result ^= np.where(states >> np.uint32(bit) & 1, column, np.uint32(0))
    return result
