"""Triangular filters over the mel scale, 1127 ln(1 + f / 700)."""

import functools
import warnings

import numpy as np
from jaxtyping import Float, Float32

from offsites_jax.data.audio.config import LogMelConfig


def hertz_to_mel(hertz: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Frequencies on the mel scale."""
    return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)


def mel_to_hertz(mel: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Inverse of `hertz_to_mel`."""
    return 700.0 * np.expm1(np.asarray(mel, np.float64) / 1127.0)


@functools.lru_cache(maxsize=32)
def mel_bank(config: LogMelConfig) -> Float32[np.ndarray, "bins mels"]:
    """Weight of each bin of the spectrum in each channel; peaks are 1, areas are not made equal.

    Warns of channels that no bin falls into: they are constant, a longer `fft` or fewer `mels` avoids them.
    """
    bins = np.arange(config.fft // 2 + 1) * (config.sample_rate / config.fft)
    low, high = hertz_to_mel(np.array([config.low_hz, config.high_hz]))
    edges = np.linspace(low, high, config.mels + 2)
    place = hertz_to_mel(bins)
    if config.triangles == "hertz":
        edges, place = mel_to_hertz(edges), bins
    rising = (place[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - place[:, None]) / (edges[2:] - edges[1:-1])
    bank = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    bank[0] = 0.0  # the constant part of a waveform is no sound
    empty = np.flatnonzero(bank.sum(axis=0) == 0)
    if empty.size:
        channels = ", ".join(map(str, empty))
        warnings.warn(
            f"mel channels {channels} hold no bin of a {config.fft}-point spectrum; raise fft or lower mels",
            stacklevel=2,
        )
    bank.setflags(write=False)
    return bank


@functools.lru_cache(maxsize=32)
def hann(window: int) -> Float32[np.ndarray, "window"]:
    """Periodic Hann window: 0.5 - 0.5 cos(2 pi i / window)."""
    values = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)
    values.setflags(write=False)
    return values
