"""Measures of a recording: whether it is worth training on, and what went wrong with it.

Levels are relative to full scale, -1..1. Powers are taken about the median: a constant offset does not count.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

Waveform = Float32[np.ndarray, "samples"]

_FULL_SCALE = 0.999
_CLIPPED_RUN = 3  # samples at full scale in a row
_QUIET_SHARE, _QUIET_SECONDS = 0.2, 0.2
_SPEECH_DB, _CUT_DB = 6.0, 15.0  # above the noise
_EDGE_SECONDS = 0.05
_DROPOUT_SECONDS = 0.01
_EMPTY_SECONDS = 0.3
_ROUNDING_POWER = 2.0**-30 / 12  # of 16-bit samples: below it nothing can be told from silence


@dataclasses.dataclass(frozen=True)
class Quality:
    """What `measure` finds.

    Attributes:
      seconds: length.
      sample_rate: in Hz.
      peak_dbfs: largest sample; -inf for digital silence.
      clipping_ratio: share of samples in runs of three or more at full scale.
      dc_offset: mean of the samples.
      snr_db: power of speech over that of the quietest fifth, None where no part is quiet enough to tell.
      speech_seconds: frames that are 6 dB above the noise.
      seconds_per_character: length over that of the prompt, None without one.
      dropouts: runs of 10 ms and more of one and the same value, within the speech.
      dropout_ms: their length together.
      starts_cut: there is speech already in the first 50 ms.
      ends_cut: there is speech still in the last 50 ms.
      empty: less than 0.3 s of speech.
      band_hz: 95 % of the energy lies below.

    """

    seconds: float
    sample_rate: int
    peak_dbfs: float
    clipping_ratio: float
    dc_offset: float
    snr_db: float | None
    speech_seconds: float
    seconds_per_character: float | None
    dropouts: int
    dropout_ms: float
    starts_cut: bool
    ends_cut: bool
    empty: bool
    band_hz: float


def measure(samples: Waveform, sample_rate: int, prompt: str | None = None) -> Quality:
    """All measures of a recording of at least 20 ms, one channel in -1..1.

    Raises:
      ValueError: fewer samples than one frame of 20 ms.

    """
    frames = _Frames(size=sample_rate // 50, step=sample_rate // 100)
    if len(samples) < frames.size:
        raise ValueError(f"{len(samples)} samples are less than 20 ms at {sample_rate} Hz")
    # Not the mean: over loud speech it misses zero by more than the noise between words is strong.
    centred = samples - np.median(samples)
    powers = frame_powers(centred, frames.size, frames.step)
    noise = noise_power(powers)
    is_speech = powers > _above(noise, _SPEECH_DB)
    span = _speech_span(is_speech, frames, len(samples))
    runs = dropouts(samples, span, round(_DROPOUT_SECONDS * sample_rate))
    peak = float(np.max(np.abs(samples)))
    edge = max(1, round(_EDGE_SECONDS * sample_rate / frames.step) - 1)  # frames that lie within 50 ms
    loud = powers > _above(noise, _CUT_DB)
    seconds = len(samples) / sample_rate
    speech_seconds = float(np.count_nonzero(is_speech)) * frames.step / sample_rate
    return Quality(
        seconds=seconds,
        sample_rate=sample_rate,
        peak_dbfs=float(20 * np.log10(peak)) if peak else -np.inf,
        clipping_ratio=clipping_ratio(samples),
        dc_offset=float(np.mean(samples, dtype=np.float64)),
        snr_db=_snr_db(powers, noise, is_speech),
        speech_seconds=speech_seconds,
        seconds_per_character=seconds / len(prompt) if prompt else None,
        dropouts=len(runs),
        dropout_ms=1000.0 * float(np.sum(runs)) / sample_rate,
        starts_cut=bool(loud[:edge].any()),
        ends_cut=bool(loud[-edge:].any()),
        empty=speech_seconds < _EMPTY_SECONDS,
        band_hz=band_limit_hz(centred, sample_rate),
    )


class _Frames(NamedTuple):
    size: int
    step: int


def frame_powers(samples: Waveform, size: int, step: int) -> Float[np.ndarray, "frames"]:
    """Mean square of each frame."""
    total = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    starts = np.arange(0, len(samples) - size + 1, step)
    return np.maximum(total[starts + size] - total[starts], 0) / size


def noise_power(powers: Float[np.ndarray, "frames"]) -> float:
    """Mean power of the quietest fifth of frames of 10 ms step, at least 0.2 s of them."""
    count = max(round(_QUIET_SHARE * len(powers)), round(_QUIET_SECONDS * 100))
    quietest = np.sort(powers)[:count]
    return max(float(np.mean(quietest)), _ROUNDING_POWER)


def clipping_ratio(samples: Waveform) -> float:
    """Share of samples in runs of three and more at full scale."""
    _, lengths = _runs(np.abs(samples) >= _FULL_SCALE)
    return float(np.sum(lengths[lengths >= _CLIPPED_RUN])) / len(samples)


def dropouts(samples: Waveform, span: tuple[int, int], shortest: int) -> np.ndarray:
    """Lengths, in samples, of runs of one value of at least `shortest` samples inside a span."""
    inside = samples[slice(*span)]
    _, lengths = _runs(inside[1:] == inside[:-1])
    return (lengths + 1)[lengths + 1 >= shortest]


def band_limit_hz(samples: Waveform, sample_rate: int, share: float = 0.95) -> float:
    """Frequency below which that share of the energy lies; 0 for silence."""
    energy = np.cumsum(np.square(np.abs(np.fft.rfft(samples.astype(np.float64)))))
    if energy[-1] == 0:
        return 0.0
    return float(np.searchsorted(energy, share * energy[-1])) * sample_rate / len(samples)


def _snr_db(powers: np.ndarray, noise: float, is_speech: Bool[np.ndarray, "frames"]) -> float | None:
    """None without speech, or where so little is quiet that the noise would be measured on speech."""
    if not is_speech.any() or np.count_nonzero(~is_speech) < round(_QUIET_SECONDS * 100):
        return None
    return float(10 * np.log10((np.mean(powers[is_speech]) - noise) / noise))


def _above(power: float, decibels: float) -> float:
    return power * 10 ** (decibels / 10)


def _speech_span(is_speech: Bool[np.ndarray, "frames"], frames: _Frames, length: int) -> tuple[int, int]:
    """Samples from the first to the last frame of speech."""
    places = np.flatnonzero(is_speech)
    if not places.size:
        return 0, 0
    return int(places[0]) * frames.step, min(length, int(places[-1]) * frames.step + frames.size)


def _runs(mask: Bool[np.ndarray, "values"]) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges[::2], edges[1::2] - edges[::2]
