"""Reads protobuf messages without their schemas: field numbers and values, never beyond the bytes there are.

The format is that of protobuf.dev/programming-guides/encoding.
"""

import struct
from collections.abc import Iterator

import numpy as np

Feature = list[bytes] | list[int] | list[float]


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a message: numbers, or bytes where it has a length.

    Raises:
      ValueError, IndexError, struct.error: the bytes are no message.

    """
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        value: int | bytes
        match tag & 7:
            case 0:
                value, at = varint(message, at)
            case 1:
                value, at = struct.unpack_from("<Q", message, at)[0], at + 8
            case 2:
                size, at = varint(message, at)
                if at + size > len(message):
                    raise ValueError("a field reaches beyond its message")
                value, at = message[at : at + size], at + size
            case 5:
                value, at = struct.unpack_from("<I", message, at)[0], at + 4
            case wire:
                raise ValueError(f"wire type {wire}")
        yield tag >> 3, value


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, least first, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")


def message_of(value: int | bytes) -> bytes:
    """The value of a field that has to hold bytes."""
    if not isinstance(value, bytes):
        raise ValueError("a field is no message")
    return value


def parse_example(message: bytes) -> dict[str, Feature]:
    """The features of a `tf.train.Example` by name (tensorflow/core/example/feature.proto).

    Raises:
      ValueError, IndexError, struct.error: the bytes are no such message.

    """
    found: dict[str, Feature] = {}
    for number, features in fields(message):
        if number != 1:
            continue
        for _, entry in fields(message_of(features)):
            parts = dict(fields(message_of(entry)))
            found[message_of(parts[1]).decode()] = _feature(message_of(parts.get(2, b"")))
    return found


def _feature(message: bytes) -> Feature:
    """One of bytes, floats and int64s, each a list in field 1 of its own message."""
    for kind, values in fields(message):
        items = [value for number, value in fields(message_of(values)) if number == 1]
        if kind == 1:
            return [message_of(item) for item in items]
        if kind == 2:
            return [number for item in items for number in _floats(item)]
        if kind == 3:
            return [number for item in items for number in _integers(item)]
    return []


def _floats(item: int | bytes) -> list[float]:
    """Packed floats, or a single one."""
    raw = item if isinstance(item, bytes) else struct.pack("<I", item)
    return np.frombuffer(raw, "<f4").tolist()


def _integers(item: int | bytes) -> list[int]:
    """Packed int64s, or a single one."""
    if isinstance(item, int):
        return [_signed(item)]
    numbers, at = [], 0
    while at < len(item):
        number, at = varint(item, at)
        numbers.append(_signed(number))
    return numbers


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number
