"""How good the recordings of a cohort are, and a contact sheet of one speaker's.

A cohort's histograms show bins of six speakers or more. A contact sheet shows single recordings: it is for
those who collect them, and is no part of a report.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from offsites_jax.data.audio.pictures import draw_waveform
from offsites_jax.projects.euphonia.analysis.anonymity import LEAST, within_range
from offsites_jax.projects.euphonia.manifest import Utterance

MEASURES = {  # what it is called, and what its values are multiplied by
    "snr_db": ("signal-to-noise ratio, dB", 1.0),
    "peak_dbfs": ("peak, dB of full scale", 1.0),
    "clipping_ratio": ("clipped samples, %", 100.0),
    "seconds_per_character": ("seconds per character", 1.0),
    "dropout_ms": ("dropouts, ms", 1.0),
    "band_hz": ("95 % of energy below, kHz", 1e-3),
}
_FAULTS = {"starts_cut": "start cut", "ends_cut": "end cut", "empty": "empty"}
_BINS = 14
_GOOD, _BAD = "#0b57a4", "#c5221f"


class Clip(NamedTuple):
    """A recording on a contact sheet.

    Attributes:
      name: above it.
      samples: in -1..1.
      sample_rate: in Hz.
      quality: as `offsites_jax.data.audio.quality` measures it, by name.

    """

    name: str
    samples: Float32[np.ndarray, "samples"]
    sample_rate: int
    quality: Mapping[str, Any]


def quality_rows(utterances: Iterable[Utterance]) -> list[dict[str, Any]]:
    """A row for each measure that recordings of enough speakers have: percentiles over speakers' medians."""
    rows = []
    held = list(utterances)
    for measure, (title, _) in MEASURES.items():
        values, speakers = _values(held, measure)
        medians = [float(np.median(values[speakers == name])) for name in np.unique(speakers)]
        found = within_range(np.array(medians))
        if found:
            names = ("10 %", "25 %", "median", "75 %", "90 %")
            counts = {"recordings": len(values), "speakers": len(medians)}
            rows.append({"measure": title, **counts, **dict(zip(names, found, strict=True))})
    return rows


def quality_figure(utterances: Iterable[Utterance]) -> Figure | None:
    """A histogram of each measure over recordings; bins of fewer than six speakers stay empty."""
    held = list(utterances)
    found = {measure: _histogram(*_values(held, measure)) for measure in MEASURES}
    drawn = {measure: bins for measure, bins in found.items() if bins is not None}
    if not drawn:
        return None
    columns = min(3, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (measure, (shares, edges)) in zip(panels, drawn.items(), strict=False):
        axes.stairs(100 * shares, edges, fill=True, color=_GOOD, alpha=0.55)
        axes.set(xlabel=MEASURES[measure][0], ylabel="% of recordings", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", alpha=0.25)
    for axes in panels[len(drawn) :]:
        axes.set_axis_off()
    return figure


def contact_sheet(clips: Sequence[Clip], columns: int = 4) -> Figure:
    """Recordings side by side, with what is wrong with each in red. One speaker's own: not for sharing.

    Raises:
      ValueError: no recordings.

    """
    if not clips:
        raise ValueError("no recordings for a contact sheet")
    columns = min(columns, len(clips))
    rows = math.ceil(len(clips) / columns)
    figure = Figure(figsize=(2.9 * columns, 1.75 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, clip in zip(panels, clips, strict=False):
        wrong = faults(clip.quality)
        draw_waveform(axes, clip.samples, clip.sample_rate)
        axes.set_ylabel("")
        axes.set_yticks([])
        axes.set_xlim(0, len(clip.samples) / clip.sample_rate)
        axes.tick_params(labelsize=7)
        axes.set_title(clip.name, fontsize=8, loc="left")
        note = ", ".join(wrong) if wrong else _ratio(clip.quality)
        axes.text(
            0.98, 0.03, note, transform=axes.transAxes, ha="right", va="bottom", fontsize=7,
            color=_BAD if wrong else "#505a64", bbox={"facecolor": "white", "alpha": 0.8, "lw": 0, "pad": 1},
        )  # fmt: skip
        for side in axes.spines.values():
            side.set_color(_BAD if wrong else "#d5dae0")
    for axes in panels[len(clips) :]:
        axes.set_axis_off()
    return figure


def faults(quality: Mapping[str, Any], least_snr: float = 10.0) -> list[str]:
    """What is wrong with a recording, in words; nothing where it is good.

    Args:
      quality: measures by name; what is missing is not judged.
      least_snr: signal-to-noise ratio in dB, below which a recording is noisy.

    """
    found = [words for name, words in _FAULTS.items() if quality.get(name)]
    ratio = quality.get("snr_db")
    return [
        *found,
        *(["clipped"] if quality.get("clipping_ratio") else []),
        *(["dropouts"] if quality.get("dropouts") else []),
        *(["noisy"] if ratio is not None and ratio < least_snr else []),
    ]


def _ratio(quality: Mapping[str, Any]) -> str:
    ratio = quality.get("snr_db")
    return "SNR unknown" if ratio is None else f"SNR {ratio:.0f} dB"


def _values(
    utterances: Sequence[Utterance], measure: str
) -> tuple[Float[np.ndarray, "recordings"], np.ndarray]:
    """A measure of each recording that has it, and whose it is."""
    held = [
        (MEASURES[measure][1] * one.quality[measure], one.speaker)
        for one in utterances
        if isinstance(one.quality.get(measure), int | float) and math.isfinite(one.quality[measure])
    ]
    return np.array([value for value, _ in held]), np.array([speaker for _, speaker in held])


def _histogram(values: np.ndarray, speakers: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Shares of recordings by bin, and the bins' edges; None where nothing varies or no bin can be shown."""
    if len(values) < LEAST or values.min() == values.max():
        return None
    low, high = np.percentile(values, (1, 99))
    if low == high:
        low, high = values.min(), values.max()
    edges = np.linspace(low, high, _BINS + 1)
    places = np.digitize(values, edges[1:-1])
    shares = np.zeros(len(edges) - 1)
    for place in range(len(shares)):
        inside = places == place
        if len(np.unique(speakers[inside])) >= LEAST:
            shares[place] = np.mean(inside)
    return (shares, edges) if shares.any() else None
