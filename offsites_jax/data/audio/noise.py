"""Noise for mixing where no collection of noise is at hand: pink noise, babble, and rooms that never were."""

from collections.abc import Sequence

import numpy as np
import scipy.fft
from jaxtyping import Float32

Waveform = Float32[np.ndarray, "samples"]

_LEVEL = 0.1  # root mean square of what is made here


def pink_noise(rng: np.random.Generator, samples: int) -> Waveform:
    """Noise whose power falls by 3 dB an octave, at a root mean square of 0.1."""
    size = scipy.fft.next_fast_len(samples, real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(size, np.float32))
    bins = np.arange(len(spectrum), dtype=np.float32)
    bins[0] = 1.0
    spectrum /= np.sqrt(bins)
    spectrum[0] = 0.0
    return _level(scipy.fft.irfft(spectrum, size)[:samples])


def babble(rng: np.random.Generator, clips: Sequence[Waveform], samples: int, voices: int = 6) -> Waveform:
    """Several people at once: clips drawn with replacement, each from a random place on and over again.

    All voices are equally loud; root mean square 0.1. Take clips of the training split only.

    Raises:
      ValueError: no clips, or one that is silent.

    """
    if not clips:
        raise ValueError("babble needs at least one clip of speech")
    total = np.zeros(samples, np.float32)
    for number in rng.integers(len(clips), size=voices):
        clip = clips[number]
        total += _level(cut_or_repeat(clip, samples, int(rng.integers(len(clip)))))
    return _level(total)


def cut_or_repeat(clip: Waveform, samples: int, start: int) -> Waveform:
    """`samples` values of the clip from `start` on, beginning anew at its end."""
    return np.take(clip, np.arange(start, start + samples), mode="wrap")


def room_impulse(
    rng: np.random.Generator, rate: int, decay_seconds: float, direct_db: float = 6.0
) -> Waveform:
    """An impulse response: the direct sound, then noise that falls by 60 dB within `decay_seconds`.

    Args:
      rng: Source of randomness.
      rate: in Hz.
      decay_seconds: reverberation time, T60.
      direct_db: energy of the direct sound over that of all that follows.

    """
    length = max(2, round(decay_seconds * rate))
    time = np.arange(1, length, dtype=np.float32) / length
    tail = rng.standard_normal(length - 1, np.float32) * 10 ** (-3 * time)
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.sum(np.square(tail)))
    return np.concatenate([np.ones(1, np.float32), tail.astype(np.float32)])


def _level(noise: Waveform) -> Waveform:
    power = np.mean(np.square(noise), dtype=np.float64)
    if power == 0:
        raise ValueError("a silent clip cannot be brought to a level; leave it out")
    return (noise * (_LEVEL / np.sqrt(power))).astype(np.float32)
