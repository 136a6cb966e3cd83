"""Log-mel features in JAX: of batches of waveforms, and of streams in pieces of one shape.

Equal to `offsites_jax.data.audio.log_mel` but for the rounding of float32. Nothing is exchanged between
examples, so any sharding of the batch is kept.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Key

from offsites_jax.data.audio.config import LogMelConfig
from offsites_jax.data.audio.mel import hann, mel_bank

Waveforms = Float32[Array, "batch samples"]
Frames = Float32[Array, "batch frames mels"]
Rows = Float32[Array, "batch rows stacked"]
Lengths = Int[Array, "batch"]


class StreamState(NamedTuple):
    """What a stream in JAX remembers; of one shape from the first piece on.

    Attributes:
      samples: [batch, frame + (stride - 1) step - stride step] tail of the waveform.
      frames: [batch, stack - 1, mels] last frames.
      started: whether there was a piece before; until then copies of the first frame are in `frames`.

    """

    samples: Waveforms
    frames: Frames
    started: Array


def log_mel(waveforms: Waveforms, config: LogMelConfig, keys: Key[Array, "batch"] | None = None) -> Frames:
    """Log-mel features of waveforms in -1..1, one row per step, not stacked.

    Frames that reach beyond the true end of a waveform are made of what is there; `frame_counts` tells how
    many are real.

    Args:
      waveforms: all at `config.sample_rate`, padded at the end.
      config: see `LogMelConfig`.
      keys: one for each example; where given, noise of `config.dither` is added: for training only.

    """
    samples = waveforms.astype(jnp.float32) * config.scale
    if keys is not None and config.dither:
        noise = jax.vmap(lambda key: jax.random.normal(key, samples.shape[1:], jnp.float32))(keys)
        samples = samples + config.dither * noise
    return _frames(samples, config)


def stack_frames(frames: Frames, config: LogMelConfig) -> Rows:
    """As `offsites_jax.data.audio.stack_frames`, for a batch."""
    history = jnp.repeat(frames[:, :1], config.stack - 1, axis=1)
    return _stacked(jnp.concatenate([history, frames], axis=1), config)


def features(waveforms: Waveforms, config: LogMelConfig, keys: Key[Array, "batch"] | None = None) -> Rows:
    """`log_mel`, then `stack_frames`."""
    return stack_frames(log_mel(waveforms, config, keys), config)


def frame_counts(lengths: Lengths, config: LogMelConfig) -> Lengths:
    """Frames that lie wholly inside waveforms of so many samples."""
    return jnp.maximum(0, 1 + (lengths - config.frame) // config.step)


def row_counts(lengths: Lengths, config: LogMelConfig) -> Lengths:
    """Rows of stacked features of waveforms of so many samples."""
    return -(-frame_counts(lengths, config) // config.stride)


def start_stream(samples: Waveforms, config: LogMelConfig) -> StreamState:
    """The state before the first piece.

    Args:
      samples: the first `lead_in(config)` samples, which complete no frame yet.
      config: see `LogMelConfig`.

    """
    if samples.shape[1] != lead_in(config):
        raise ValueError(f"a stream starts with {lead_in(config)} samples, not {samples.shape[1]}")
    batch = samples.shape[0]
    before = jnp.zeros((batch, (config.stride - 1) * config.step), jnp.float32)
    frames = jnp.zeros((batch, config.stack - 1, config.mels), jnp.float32)
    return StreamState(jnp.concatenate([before, samples], axis=1), frames, jnp.zeros((), bool))


def lead_in(config: LogMelConfig) -> int:
    """Samples before the first piece, so that each further `stride` x `step` samples complete one row.

    Raises:
      ValueError: the stride is longer than a frame; such features have no stream in JAX.

    """
    lead = config.frame - config.stride * config.step
    if lead < 0:
        raise ValueError(f"{config.stride} steps of {config.step} are more than a frame of {config.frame}")
    return lead


def stream(state: StreamState, chunk: Waveforms, config: LogMelConfig) -> tuple[StreamState, Rows]:
    """The rows that a further piece completes: one for each `stride` x `step` samples of it.

    Raises:
      ValueError: a piece of another length than a multiple of that.

    """
    hop = config.stride * config.step
    if chunk.shape[1] % hop:
        raise ValueError(f"pieces of a stream are multiples of {hop} samples, not {chunk.shape[1]}")
    samples = jnp.concatenate([state.samples, chunk], axis=1)
    fresh = _frames(samples * config.scale, config)
    # The first piece begins with frames of the nothing before the recording: its first real one stands in.
    first = fresh[:, config.stride - 1 : config.stride]
    is_before = jnp.arange(fresh.shape[1])[:, None] < config.stride - 1
    fresh = jnp.where(~state.started & is_before, first, fresh)
    copies = jnp.repeat(first, config.stack - 1, axis=1)
    context = jnp.concatenate([jnp.where(state.started, state.frames, copies), fresh], axis=1)
    rows = _stacked(context[:, config.stride - 1 :], config)
    kept = context[:, context.shape[1] - (config.stack - 1) :]
    tail = samples[:, samples.shape[1] - state.samples.shape[1] :]
    return StreamState(tail, kept, jnp.ones((), bool)), rows


def _frames(samples: Waveforms, config: LogMelConfig) -> Frames:
    if config.preemphasis:
        samples = samples[:, 1:] - config.preemphasis * samples[:, :-1]
    windowed = _windows(samples, config) * hann(config.window)
    spectrum = jnp.fft.rfft(windowed, config.fft, axis=-1)
    level = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    level = level if config.exponent == 2 else jnp.sqrt(level)
    mel = jnp.matmul(level, mel_bank(config), precision=jax.lax.Precision.HIGHEST)
    result = jnp.log(jnp.maximum(mel, config.floor))
    if config.mean:
        return (result - np.array(config.mean, np.float32)) / np.array(config.std, np.float32)
    return result


def _windows(samples: Waveforms, config: LogMelConfig) -> Float[Array, "batch frames window"]:
    """Overlapping windows, put together from slices of whole steps: a gather would be slow on a TPU."""
    count = 1 + (samples.shape[1] - config.window) // config.step
    if count < 1:
        raise ValueError(
            f"waveforms of {samples.shape[1]} samples are shorter than one frame of {config.frame}"
        )
    steps = -(-config.window // config.step)
    needed = (count + steps - 1) * config.step
    padded = jnp.pad(samples, ((0, 0), (0, max(0, needed - samples.shape[1]))))[:, :needed]
    hops = padded.reshape(samples.shape[0], -1, config.step)
    parts = [hops[:, part : part + count] for part in range(steps)]
    return jnp.concatenate(parts, axis=-1)[..., : config.window]


def _stacked(context: Frames, config: LogMelConfig) -> Rows:
    """Of frames that are preceded by `stack` - 1 of history."""
    count = context.shape[1] - (config.stack - 1)
    parts = [context[:, part : part + count : config.stride] for part in range(config.stack)]
    return jnp.concatenate(parts, axis=-1)
