"""Pictures of a recording."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from offsites_jax.data.audio.config import LogMelConfig
from offsites_jax.data.audio.mel import hertz_to_mel, mel_to_hertz

_POINTS = 2000  # of the drawn waveform: each shows the least and largest of many samples


def waveform_and_log_mel(
    samples: Float[np.ndarray, "samples"],
    frames: Float[np.ndarray, "frames mels"],
    config: LogMelConfig,
    title: str = "",
) -> Figure:
    """The waveform above its log-mel features, over the same seconds.

    Args:
      samples: at `config.sample_rate`.
      frames: `log_mel` of them, not stacked.
      config: of the features, for the axes.
      title: above both.

    """
    figure = Figure(figsize=(10, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    seconds = len(samples) / config.sample_rate
    draw_waveform(upper, samples, config.sample_rate)
    draw_log_mel(lower, frames, config)
    lower.set_xlim(0, seconds)
    lower.set_xlabel("seconds")
    figure.suptitle(title)
    return figure


def draw_waveform(axes: Axes, samples: Float[np.ndarray, "samples"], rate: int) -> None:
    """Fill between the least and largest sample of each of 2,000 pieces."""
    pieces = np.array_split(samples, min(_POINTS, len(samples)))
    ends = np.cumsum([len(piece) for piece in pieces]) / rate
    axes.fill_between(ends, [p.min() for p in pieces], [p.max() for p in pieces], linewidth=0.5)
    axes.set_ylim(-1, 1)
    axes.set_ylabel("amplitude")


def draw_log_mel(axes: Axes, frames: Float[np.ndarray, "frames mels"], config: LogMelConfig) -> None:
    """Features over seconds and frequency, low at the bottom."""
    end = (len(frames) - 1) * config.step / config.sample_rate + config.frame / config.sample_rate
    axes.imshow(frames.T, origin="lower", aspect="auto", extent=(0, end, 0, config.mels), cmap="magma")
    low, high = hertz_to_mel(np.array([config.low_hz, config.high_hz]))
    channels = np.linspace(0, config.mels - 1, 5).round().astype(int)
    peaks = mel_to_hertz(low + (channels + 1) * (high - low) / (config.mels + 1))
    axes.set_yticks(channels + 0.5, [f"{peak:.0f}" for peak in peaks])
    axes.set_ylabel("Hz")
