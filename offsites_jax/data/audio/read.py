"""Recordings from files: WAV, FLAC, Ogg, MP3 by libsndfile; raw G.722, MP4, WebM by FFmpeg's libraries.

Reading is bounded in bytes, seconds and channels, whatever a header promises; no other program is started.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float32

from offsites_jax.data.audio.resample import resample
from offsites_jax.data.audio.wav import check_wav
from offsites_jax.errors import DamagedDataError, UserError

LEAST_RATE = 8000
LEAST_SECONDS = 0.032
MAX_CHANNELS = 32

# Containers for FFmpeg, by file ending. Playlists and the like, which name further files, are not among them.
_FFMPEG = {
    ".g722": "g722", ".aac": "aac", ".amr": "amr", ".gsm": "gsm", ".wma": "asf",
    ".m4a": "mov", ".mp4": "mov", ".3gp": "mov", ".mka": "matroska", ".webm": "matroska",
}  # fmt: skip

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".sph", ".aiff", *_FFMPEG)

_PIECE = 1 << 13  # values decoded at a time: as much is lost where a file breaks off


class Recording(NamedTuple):
    """A decoded recording.

    Attributes:
      samples: float32 in -1..1, one channel.
      sample_rate: of `samples`, in Hz.
      original_rate: of the file. Where it is lower, the upper part of the spectrum is empty.
      notes: what was made good, one sentence each: several channels, a truncated file.

    """

    samples: Float32[np.ndarray, "samples"]
    sample_rate: int
    original_rate: int
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.samples) / self.sample_rate


class _Decoded(NamedTuple):
    samples: np.ndarray  # [samples, channels]
    rate: int
    notes: tuple[str, ...]


def read_audio(
    path: str | os.PathLike[str],
    *,
    sample_rate: int | None = None,
    channel: int | None = None,
    max_seconds: float = 600.0,
    max_bytes: int = 2**28,
) -> Recording:
    """Read a recording; several channels become their mean, with a note.

    A file that ends early is read as far as it goes, with a note.

    Args:
      path: of a file; its ending says what it is.
      sample_rate: wanted rate; the file's own when left out.
      channel: take this one, from 0, instead of the mean.
      max_seconds: refuse longer recordings, without decoding more than that.
      max_bytes: refuse larger files.

    Raises:
      UserError: no such file or channel, a file beyond the limits, or a missing library.
      DamagedDataError: unreadable, empty, shorter than 32 ms, below 8 kHz, or not finite.

    """
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"{file}: no such file; check the path")
    if file.stat().length > max_bytes:
        raise UserError(f"{file}: larger than {max_bytes / 2**20:.0f} MiB; cut it, or raise max_bytes")
    return decode_audio(
        file.read_bytes(), str(file), sample_rate=sample_rate, channel=channel, max_seconds=max_seconds
    )


def decode_audio(
    data: bytes,
    name: str,
    *,
    sample_rate: int | None = None,
    channel: int | None = None,
    max_seconds: float = 600.0,
) -> Recording:
    """`read_audio` of the bytes of a file called `name`."""
    decoded = _decode(data, name, max_seconds)
    _refuse_useless(decoded, name)
    mono, notes = _one_channel(decoded, name, channel)
    rate = sample_rate or decoded.rate
    return Recording(resample(mono, decoded.rate, rate), rate, decoded.rate, notes)


def seconds_of(path: str | os.PathLike[str]) -> float:
    """Length of a recording by its header; raw G.722 by its size. Nothing is decoded.

    Raises:
      DamagedDataError: no header that can be read.

    """
    if str(path).endswith(".g722"):
        return epath.Path(path).stat().length / 8000  # 64 kbit/s
    soundfile = _library("soundfile")
    try:
        with epath.Path(path).open("rb") as stream, soundfile.SoundFile(stream) as sound:
            return sound.frames / sound.samplerate
    except soundfile.LibsndfileError as error:
        raise DamagedDataError(f"{path}: cannot be read ({_reason(error)}); leave it out") from error


def _refuse_useless(decoded: _Decoded, name: str) -> None:
    samples, rate, _ = decoded
    if rate < LEAST_RATE:
        raise DamagedDataError(f"{name}: {rate} Hz is too low for speech; give a recording of 8 kHz or more")
    if not len(samples):
        raise DamagedDataError(f"{name}: holds no samples; record it again or leave it out")
    if len(samples) < LEAST_SECONDS * rate:
        length = 1000 * len(samples) / rate
        raise DamagedDataError(f"{name}: only {length:.1f} ms long; leave recordings below 32 ms out")
    bad = np.count_nonzero(~np.isfinite(samples))
    if bad:
        raise DamagedDataError(f"{name}: {bad} of {samples.size} samples are not finite; convert it again")


def _one_channel(
    decoded: _Decoded, name: str, channel: int | None
) -> tuple[Float32[np.ndarray, "samples"], tuple[str, ...]]:
    samples, _, notes = decoded
    channels = samples.shape[1]
    if channel is not None:
        if not 0 <= channel < channels:
            raise UserError(f"{name}: no channel {channel}; take one of 0 to {channels - 1}")
        return np.ascontiguousarray(samples[:, channel]), notes
    if channels == 1:
        return samples[:, 0], notes
    return samples.mean(axis=1, dtype=np.float32), (*notes, f"mean of {channels} channels")


def _decode(data: bytes, name: str, max_seconds: float) -> _Decoded:
    if not data:
        raise DamagedDataError(f"{name}: is empty; record it again or leave it out")
    suffix = os.path.splitext(name)[1].lower()
    if suffix in _FFMPEG:
        return _decode_ffmpeg(data, name, _FFMPEG[suffix], max_seconds)
    notes: tuple[str, ...] = ()
    if suffix == ".wav":
        try:
            data, notes = check_wav(data)
        except ValueError as error:
            raise DamagedDataError(f"{name}: {error}; convert it, or name it as what it is") from error
    decoded = _decode_sndfile(data, name, max_seconds)
    return decoded._replace(notes=notes + decoded.notes)


def _decode_sndfile(data: bytes, name: str, max_seconds: float) -> _Decoded:
    soundfile = _library("soundfile")
    try:
        sound = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        raise DamagedDataError(f"{name}: no readable audio ({_reason(error)}); convert it to WAV") from error
    with sound:
        rate, channels = sound.samplerate, sound.channels
        collected = _collect(_pieces(sound), soundfile.LibsndfileError, name, rate, channels, max_seconds)
        return _Decoded(collected.samples, rate, _missing(collected, sound.frames))


def _pieces(sound: Any) -> Iterator[np.ndarray]:
    while True:
        yield sound.read(max(1, _PIECE // sound.channels), dtype="float32", always_2d=True)


def _decode_ffmpeg(data: bytes, name: str, container: str, max_seconds: float) -> _Decoded:
    av = _library("av")
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(av.open(io.BytesIO(data), format=container))
            stream = opened.streams.audio[0]
        except (av.FFmpegError, IndexError) as error:
            raise DamagedDataError(f"{name}: no readable {container} audio; convert it to WAV") from error
        rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
        pieces = _planes(opened.decode(stream), av.AudioResampler(format="fltp"))
        collected = _collect(pieces, av.FFmpegError, name, rate, channels, max_seconds)
        return _Decoded(collected.samples, rate, collected.notes)


def _planes(frames: Iterable[Any], converter: Any) -> Iterator[np.ndarray]:
    """Decoded frames as floats [samples, channels]."""
    for frame in frames:
        for part in converter.resample(frame):
            yield part.to_ndarray().T


class _Collected(NamedTuple):
    samples: np.ndarray
    notes: tuple[str, ...]


def _collect(
    pieces: Iterable[np.ndarray],
    failure: type[Exception],
    name: str,
    rate: int,
    channels: int,
    max_seconds: float,
) -> _Collected:
    """Join pieces up to an empty one; a failure ends the recording there, with a note."""
    if channels > MAX_CHANNELS:
        raise UserError(f"{name}: {channels} channels; give a recording of at most {MAX_CHANNELS}")
    parts: list[np.ndarray] = [np.zeros((0, channels), np.float32)]
    notes: tuple[str, ...] = ()
    length, iterator = 0, iter(pieces)
    while True:
        try:
            piece = next(iterator, None)
        except failure:
            notes = ("truncated: the end cannot be decoded",)
            break
        if piece is None or not len(piece):
            break
        length += len(piece)
        if length > max_seconds * rate:
            raise UserError(f"{name}: longer than {max_seconds:g} s; cut it, or raise max_seconds")
        parts.append(piece)
    return _Collected(np.concatenate(parts), notes)


def _missing(collected: _Collected, promised: int) -> tuple[str, ...]:
    there = len(collected.samples)
    if collected.notes or there >= promised:
        return collected.notes
    return (f"truncated: the header promises {promised} samples, {there} are there",)


def _reason(error: Any) -> str:
    return str(error.error_string).strip().rstrip(".")


def _library(name: str) -> Any:
    """Libraries of the extra `speech`, imported when there is audio to read."""
    importers: dict[str, Callable[[], Any]] = {"soundfile": _soundfile, "av": _av}
    try:
        return importers[name]()
    except ImportError as error:
        raise UserError(f"audio needs {name}; pip install 'offsites-jax[speech]'") from error


def _soundfile() -> Any:
    import soundfile

    return soundfile


def _av() -> Any:
    import av

    return av
