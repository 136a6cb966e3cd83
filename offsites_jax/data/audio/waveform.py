"""Augmentation of waveforms on the host: reverberation, noise, a telephone line, gain.

Random operations take a `np.random.Generator` and draw from nothing else, so that a pipeline position always
gives the same sound. Nothing here clips: what would exceed 1 is made softer as a whole.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.signal
from jaxtyping import Float32

from offsites_jax.data.audio.noise import room_impulse
from offsites_jax.data.audio.resample import resample
from offsites_jax.errors import UserError

Waveform = Float32[np.ndarray, "samples"]
NoiseSource = Callable[[np.random.Generator, int], Waveform]

_MU = 255.0  # of the companding of G.711 in North America and Japan


@dataclasses.dataclass(frozen=True)
class WaveformPolicy:
    """What happens to a waveform, with which probability, in this order.

    Attributes:
      reverberation: probability of a room.
      decay_seconds: reverberation time, drawn uniformly.
      noise: probability of noise.
      snr_db: power of speech over noise, drawn uniformly.
      telephone: probability of a band limit at 4 kHz, with the levels of a telephone line.
      gain_db: change of level, drawn uniformly; always applied.

    """

    reverberation: float = 0.2
    decay_seconds: tuple[float, float] = (0.15, 0.8)
    noise: float = 0.5
    snr_db: tuple[float, float] = (0.0, 20.0)
    telephone: float = 0.0
    gain_db: tuple[float, float] = (-6.0, 6.0)

    def __post_init__(self) -> None:
        for field in ("reverberation", "noise", "telephone"):
            if not 0 <= getattr(self, field) <= 1:
                raise UserError(
                    f"augmentation: {field} = {getattr(self, field)} is no probability; take 0 to 1"
                )
        for field in ("decay_seconds", "snr_db", "gain_db"):
            low, high = getattr(self, field)
            if low > high:
                raise UserError(
                    f"augmentation: {field} = ({low}, {high}) is no range; the lower end comes first"
                )


def augment(
    speech: Waveform,
    rate: int,
    rng: np.random.Generator,
    policy: WaveformPolicy,
    noise: NoiseSource,
    impulse: NoiseSource | None = None,
) -> Waveform:
    """Draw and apply what the policy says; the length stays.

    The same numbers are drawn whatever takes place, so that changing one probability leaves the rest alone.

    Args:
      speech: in -1..1.
      rate: in Hz.
      rng: Source of randomness.
      policy: see `WaveformPolicy`.
      noise: gives noise of a number of samples, e.g. `noise.pink_noise`.
      impulse: gives an impulse response for a rate; one made up by `noise.room_impulse` when left out.

    """
    reverberates, is_noisy, calls = rng.random(3) < (policy.reverberation, policy.noise, policy.telephone)
    decay, snr_db, gain_db = (
        rng.uniform(*limits) for limits in (policy.decay_seconds, policy.snr_db, policy.gain_db)
    )
    of_room, of_noise = map(np.random.default_rng, rng.integers(2**63, size=2))
    if reverberates:
        room = impulse(of_room, rate) if impulse else room_impulse(of_room, rate, decay)
        speech = reverberate(speech, room)
    if is_noisy:
        speech = mix_at_snr(speech, noise(of_noise, len(speech)), snr_db)
    if calls:
        speech = telephone(speech, rate)
    return gain(speech, gain_db)


def mix_at_snr(speech: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """Speech plus noise scaled so that their mean powers are `snr_db` apart; softer where it would clip.

    Speech or noise that is silent gives the speech alone.

    Raises:
      ValueError: different lengths.

    """
    if speech.shape != noise.shape:
        raise ValueError(f"noise of shape {noise.shape} for speech of shape {speech.shape}")
    powers = [np.mean(np.square(part), dtype=np.float64) for part in (speech, noise)]
    if min(powers) == 0:
        return speech
    factor = np.sqrt(powers[0] / powers[1] * 10 ** (-snr_db / 10))
    return without_clipping(speech + np.float32(factor) * noise)


def reverberate(speech: Waveform, impulse: Waveform) -> Waveform:
    """Speech in a room, as long, as loud, and in time with what it was: the direct sound is not delayed."""
    direct = int(np.argmax(np.abs(impulse)))
    wet = scipy.signal.fftconvolve(speech, impulse)[direct : direct + len(speech)]
    before, after = (np.sum(np.square(part), dtype=np.float64) for part in (speech, wet))
    if after == 0:
        return speech
    return without_clipping((wet * np.sqrt(before / after)).astype(np.float32))


def gain(speech: Waveform, gain_db: float) -> Waveform:
    """Louder or softer, by no more than leaves it unclipped."""
    return without_clipping(speech * np.float32(10 ** (gain_db / 20)))


def without_clipping(speech: Waveform) -> Waveform:
    """Scaled to a peak of 1 where it was above."""
    peak = np.max(np.abs(speech), initial=0.0)
    return speech / peak if peak > 1 else speech


def band_limit(speech: Waveform, rate: int, limit_rate: int = 8000) -> Waveform:
    """What is left after a stay at a lower sample rate; the length stays."""
    if limit_rate >= rate:
        return speech
    return resample(resample(speech, rate, limit_rate), limit_rate, rate)[: len(speech)]


def telephone(speech: Waveform, rate: int) -> Waveform:
    """Through a line of 8 kHz with 256 mu-law levels (the companding of G.711); the length stays."""
    narrow = np.clip(resample(speech, rate, 8000), -1, 1)
    squeezed = np.sign(narrow) * np.log1p(_MU * np.abs(narrow)) / np.log1p(_MU)
    levels = np.rint(squeezed * 127) / 127
    heard = np.sign(levels) * np.expm1(np.abs(levels) * np.log1p(_MU)) / _MU
    return without_clipping(resample(heard.astype(np.float32), 8000, rate)[: len(speech)])
