"""The headers of WAV files, which often are wrong about the length, and writing."""

import io
import os
import struct
import wave
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float

from offsites_jax.data.atomic import write_atomically

_STREAMED = (0, 0xFFFFFFFF)  # what recorders write that did not come back to fill in the length
_FORMS = (b"RIFF", b"RIFX", b"RF64")


class Checked(NamedTuple):
    """A WAV file that can be decoded, and what had to be said about it."""

    data: bytes
    notes: tuple[str, ...]


def check_wav(data: bytes) -> Checked:
    """Set the length of the samples to what is there, where a header promises more or nothing.

    Raises:
      ValueError: no WAV file, or one without samples; the message says what it is instead.

    """
    if data[:4] not in _FORMS or data[8:12] != b"WAVE":
        raise ValueError(f"is no WAV file, it begins with {data[:4]!r}")
    if data[:4] != b"RIFF":
        return Checked(data, ())
    place = _find_samples(data)
    (promised,) = struct.unpack_from("<I", data, place + 4)
    there = len(data) - place - 8
    if promised <= there and not (promised == 0 and there):
        return Checked(data, ())
    note = (
        f"length missing in the header, {there} bytes of samples read"
        if promised in _STREAMED
        else f"truncated: the header promises {promised} bytes of samples, {there} are there"
    )
    fixed = data[:4] + struct.pack("<I", len(data) - 8) + data[8 : place + 4] + struct.pack("<I", there)
    return Checked(fixed + data[place + 8 :], (note,))


def _find_samples(data: bytes) -> int:
    """Where the chunk of the samples begins."""
    place = 12
    while place + 8 <= len(data):
        name, size = data[place : place + 4], struct.unpack_from("<I", data, place + 4)[0]
        if name == b"data":
            return place
        place += 8 + size + size % 2
    raise ValueError("is a WAV file that ends before its samples")


def write_wav(path: str | os.PathLike[str], samples: Float[np.ndarray, "samples"], rate: int) -> None:
    """Write a waveform in -1..1 as 16-bit PCM, clipping what is beyond; never seen half-written.

    What was read from a 16-bit file is written back the same.

    Raises:
      ValueError: samples that are not finite, or not of one channel.

    """
    if samples.ndim != 1 or not np.all(np.isfinite(samples)):
        raise ValueError(f"{path}: only a finite waveform of one channel can be written")
    write_atomically(epath.Path(path), _encode(samples, rate))


def _encode(samples: np.ndarray, rate: int) -> bytes:
    levels = np.clip(np.rint(np.asarray(samples, np.float64) * 32768), -32768, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(rate)
        stream.writeframes(levels.tobytes())
    return buffer.getvalue()
