"""Log-mel features in NumPy, of whole waveforms and of streams.

A stream gives bit for bit the features of the whole waveform, however it is cut up: every value comes from
elementwise operations, from a transform of one frame, or from sums in a fixed order. Hence triangles are
summed as a sparse product over the few bins of each (a dense product may sum differently for each number of
frames), which is also several times faster.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
import scipy.sparse
from jaxtyping import Float32, Shaped

from offsites_jax.data.audio.config import LogMelConfig
from offsites_jax.data.audio.mel import hann, mel_bank
from offsites_jax.errors import DamagedDataError

Waveform = Shaped[np.ndarray, "samples"]
Frames = Float32[np.ndarray, "frames mels"]
Rows = Float32[np.ndarray, "rows stacked"]

_BLOCK = 128  # frames at a time: their spectra fit into the cache
_LANES = 16  # frames are transformed in whole groups, so that none takes another path through the transform
_LOUDEST = 8.0  # a waveform in -1..1 stays below, even when overdriven; one in steps of 16 bits does not


class StreamState(NamedTuple):
    """What a stream of features remembers.

    Attributes:
      samples: tail of the waveform that later frames begin in.
      frames: the last `stack` - 1 frames, or fewer at the start.
      seen: frames so far.

    """

    samples: Float32[np.ndarray, "samples"]
    frames: Frames
    seen: int


def log_mel(
    waveform: Waveform, config: LogMelConfig | None = None, rng: np.random.Generator | None = None
) -> Frames:
    """Log-mel features of a waveform, one row per step, not stacked.

    Args:
      waveform: floats in -1..1, or int16 samples as they are in a file; at `config.sample_rate`.
      config: see `LogMelConfig`; its defaults when left out.
      rng: where given, noise of `config.dither` is added: for training only.

    Returns:
      float32 [frames, mels]; normalised when the config has a mean.

    Raises:
      DamagedDataError: shorter than one frame, not finite, or floats that are not in -1..1.

    """
    config = config or LogMelConfig()
    samples = _scaled(waveform, config)
    if len(samples) < config.frame:
        raise DamagedDataError(
            f"{len(samples)} samples are shorter than one frame of {config.frame}; leave the recording out"
        )
    if rng is not None and config.dither:
        samples = samples + np.float32(config.dither) * rng.standard_normal(len(samples), np.float32)
    return _frames(samples, config)


def stack_frames(frames: Frames, config: LogMelConfig | None = None) -> Rows:
    """Frames t - stack + 1 to t side by side, oldest first, for t = 0, stride, 2 stride ...

    The first frame stands in for those before it. Rows are ceil(frames / stride).
    """
    config = config or LogMelConfig()
    history = np.repeat(frames[:1], config.stack - 1, axis=0)
    return _stacked(np.concatenate([history, frames]), 0, config)


def features(
    waveform: Waveform, config: LogMelConfig | None = None, rng: np.random.Generator | None = None
) -> Rows:
    """`log_mel`, then `stack_frames`."""
    return stack_frames(log_mel(waveform, config, rng), config)


def start_stream(config: LogMelConfig) -> StreamState:
    """The state before the first sample."""
    return StreamState(np.zeros(0, np.float32), np.zeros((0, config.mels), np.float32), 0)


def stream(state: StreamState, chunk: Waveform, config: LogMelConfig) -> tuple[StreamState, Rows]:
    """Stacked features that a further piece of a waveform completes; of any length, also none.

    All rows of a stream together are `features` of all its samples, bit for bit.

    Raises:
      DamagedDataError: samples that are not finite, or floats that are not in -1..1.

    """
    samples = np.concatenate([state.samples, _scaled(chunk, config)])
    count = config.frame_count(len(samples))
    if not count:
        return state._replace(samples=samples), np.zeros((0, config.dim), np.float32)
    fresh = _frames(samples, config)
    history = state.frames if state.seen else np.repeat(fresh[:1], config.stack - 1, axis=0)
    context = np.concatenate([history, fresh])
    rows = _stacked(context, -state.seen % config.stride, config)
    kept = context[len(context) - (config.stack - 1) :]
    return StreamState(samples[count * config.step :], kept, state.seen + count), rows


def _scaled(waveform: Waveform, config: LogMelConfig) -> Float32[np.ndarray, "samples"]:
    if waveform.ndim != 1:
        raise DamagedDataError(f"a waveform of shape {waveform.shape}; give one channel, [samples]")
    if waveform.dtype == np.int16:
        return waveform.astype(np.float32) * np.float32(config.scale / 32768)
    peak = np.max(np.abs(waveform), initial=0.0)
    if not np.isfinite(peak):
        raise DamagedDataError(
            "the waveform holds samples that are not finite; record it again or leave it out"
        )
    if peak > _LOUDEST:
        raise DamagedDataError(
            f"float samples up to {peak:.0f} are not in -1..1; give int16 or divide by 32768"
        )
    return waveform.astype(np.float32) * np.float32(config.scale)


def _frames(samples: Float32[np.ndarray, "samples"], config: LogMelConfig) -> Frames:
    """Of samples that are scaled already and hold at least one frame."""
    count = config.frame_count(len(samples))
    if config.preemphasis:
        samples = samples[1:] - np.float32(config.preemphasis) * samples[:-1]
    windows = np.lib.stride_tricks.sliding_window_view(samples, config.window)[:: config.step][:count]
    blocks = [_block(windows[start : start + _BLOCK], config) for start in range(0, count, _BLOCK)]
    return np.concatenate(blocks)


def _block(windows: Float32[np.ndarray, "frames window"], config: LogMelConfig) -> Frames:
    count = len(windows)
    padded = np.zeros((-(-count // _LANES) * _LANES, config.fft), np.float32)
    np.multiply(windows, hann(config.window), out=padded[:count, : config.window])
    spectrum = scipy.fft.rfft(padded, axis=1, overwrite_x=True)
    bank = _sparse_bank(config)
    mel = bank.weights @ _magnitude(spectrum, bank.first, bank.last, config)
    result = np.log(np.maximum(mel, np.float32(config.floor)))[:, :count].T
    if config.mean:
        mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
        return (result - mean) / std
    return np.ascontiguousarray(result)


def _magnitude(spectrum: np.ndarray, first: int, last: int, config: LogMelConfig) -> np.ndarray:
    """Of bins first to last - 1, as [bins, frames]: the sparse product wants frames side by side."""
    magnitude = np.abs(spectrum[:, first:last])
    if config.exponent == 2:
        np.square(magnitude, out=magnitude)
    return np.ascontiguousarray(magnitude.T)


class _SparseBank(NamedTuple):
    weights: Any
    first: int
    last: int


@functools.lru_cache(maxsize=32)
def _sparse_bank(config: LogMelConfig) -> _SparseBank:
    """The triangles as a sparse matrix [mels, bins] of the bins from the first to the last in use."""
    bank = mel_bank(config)
    used = np.flatnonzero(bank.any(axis=1))
    first, last = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 1)
    return _SparseBank(scipy.sparse.csr_array(bank[first:last].T), first, last)


def _stacked(context: Frames, offset: int, config: LogMelConfig) -> Rows:
    """Stacks that end at frames offset, offset + stride ... of those after the `stack` - 1 of history."""
    view = np.lib.stride_tricks.sliding_window_view(context, config.stack, axis=0)[offset :: config.stride]
    return np.ascontiguousarray(view.transpose(0, 2, 1)).reshape(len(view), config.dim)
