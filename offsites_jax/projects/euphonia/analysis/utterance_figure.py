"""One utterance as a picture: what was heard, the sound, and where in it the text lies."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int16
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from offsites_jax.data.audio import LogMelConfig
from offsites_jax.data.audio.pictures import draw_log_mel, draw_waveform
from offsites_jax.projects.euphonia.analysis.alignment import Alignment, Pair
from offsites_jax.projects.euphonia.analysis.figures import COLOURS, INK
from offsites_jax.projects.euphonia.decoding.words import Word

RIGHT, WRONG = COLOURS[2], COLOURS[5]
_BLUES = LinearSegmentedColormap.from_list("passed", ["#ffffff", "#a9c9ec", "#0b57a4"])
_MOST_TICKS = 45  # labels that can be read one below another
_CHARACTER = 0.075  # inches
_LEAST = 0.02  # probability of an emission that gets a dot


def utterance_figure(
    samples: Int16[np.ndarray, "samples"],
    frames: Float[np.ndarray, "frames mels"],
    config: LogMelConfig,
    alignment: Alignment,
    heard: Sequence[Word],
    pairs: Sequence[Pair],
    spellings: Sequence[str],
    frame_seconds: float,
) -> Figure:
    """Words that were said and heard, waveform, log-mel features and alignment, over the same seconds.

    Args:
      samples: of the recording.
      frames: log-mel features of it, not stacked.
      config: of the features.
      alignment: of what was said.
      heard: words of the hypothesis.
      pairs: words of both, side by side.
      spellings: of the labels.
      frame_seconds: from one frame of the alignment to the next.

    """
    seconds = len(samples) / config.sample_rate
    height = float(np.clip(0.16 * len(alignment.labels), 2.5, 7))
    width = float(np.clip(3 * seconds, 10, 30))
    figure = Figure(figsize=(width, 4.2 + height), layout="constrained")
    ratios = (0.7, 0.9, 1.8, height)
    texts, wave, mel, lattice = figure.subplots(4, 1, sharex=True, height_ratios=ratios)
    draw_words(texts, alignment.words, heard, pairs, _CHARACTER * seconds / width)
    draw_waveform(wave, samples.astype(np.float32) / 32768, config.sample_rate)
    peak = max(0.02, 1.05 * float(np.abs(samples.astype(np.float32)).max(initial=0)) / 32768)
    wave.set_ylim(-peak, peak)
    draw_log_mel(mel, frames, config)
    draw_alignment(lattice, alignment, spellings, frame_seconds)
    for axes, colour in ((wave, INK), (mel, "white"), (lattice, INK)):
        for word in alignment.words:
            axes.axvline(word.start, color=colour, lw=0.6, alpha=0.4)
    lattice.set_xlim(0, max(seconds, len(alignment.passed) * frame_seconds))
    lattice.set_xlabel("seconds")
    return figure


def draw_words(
    axes: Axes, said: Sequence[Word], heard: Sequence[Word], pairs: Sequence[Pair], character: float
) -> None:
    """Said above heard: a bar where each word is in time, its text from there on; what differs in red.

    Args:
      axes: over seconds.
      said: words of the reference.
      heard: words of the hypothesis.
      pairs: words of both, side by side.
      character: seconds that one is wide; words that would hide another are moved to the right.

    """
    right = [pair for pair in pairs if is_right(pair, said, heard)]
    rows = ((1, said, {pair.said for pair in right}), (0, heard, {pair.heard for pair in right}))
    for row, words, good in rows:
        free = 0.0
        for number, word in enumerate(words):
            colour = RIGHT if number in good else WRONG
            axes.plot([word.start, word.end], [row - 0.3] * 2, color=colour, lw=3, solid_capstyle="butt")
            place = max(word.start, free)
            axes.text(place, row - 0.14, word.text, color=colour, fontsize=9, va="bottom", in_layout=False)
            free = place + (len(word.text) + 1) * character
    axes.set_ylim(-0.6, 1.6)
    axes.set_yticks([1, 0], ["said", "heard"])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def is_right(pair: Pair, said: Sequence[Word], heard: Sequence[Word]) -> bool:
    """Whether what was heard is what was said."""
    if pair.said is None or pair.heard is None:
        return False
    return said[pair.said].text == heard[pair.heard].text


def draw_alignment(axes: Axes, alignment: Alignment, spellings: Sequence[str], frame_seconds: float) -> None:
    """Labels over seconds, the first above: shades where the text has come so far, dots where one is said."""
    count, end = len(alignment.labels), len(alignment.passed) * frame_seconds
    axes.imshow(
        alignment.passed.T, aspect="auto", extent=(0, end, count + 0.5, -0.5), cmap=_BLUES, vmin=0, vmax=1,
        interpolation="nearest",
    )  # fmt: skip
    frames, labels = np.nonzero(alignment.spoken > _LEAST)
    shares = alignment.spoken[frames, labels]
    axes.scatter(
        (frames + 0.5) * frame_seconds,
        labels + 1,
        s=4 + 36 * shares,
        color=COLOURS[0],
        alpha=0.85,
        lw=0,
        zorder=3,
    )
    step = max(1, -(-count // _MOST_TICKS))
    places = range(0, count, step)
    shown = [spellings[alignment.labels[place]].strip() or "␣" for place in places]
    axes.set_yticks([place + 1 for place in places], shown, fontsize=8)
    axes.set_ylabel("label")
