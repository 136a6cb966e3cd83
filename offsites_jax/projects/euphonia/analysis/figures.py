"""Pictures of a cohort. Every mark stands for six speakers or more."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from offsites_jax.projects.euphonia.analysis.anonymity import (
    group_neighbours,
    within_range,
)
from offsites_jax.projects.euphonia.analysis.groups import MEDIUM, SMALL
from offsites_jax.projects.euphonia.analysis.rates import rates
from offsites_jax.projects.euphonia.analysis.study import Study, speaker_snr
from offsites_jax.projects.euphonia.analysis.tables import Rows, distribution, size_rows

INK, QUIET = "#1c2126", "#9aa3ab"
COLOURS = ("#e37400", "#0b57a4", "#188038", "#7b3fa0", "#00838f", "#c5221f")
_HIDDEN = "#eceff2"
_BLUES = LinearSegmentedColormap.from_list("counts", ["#e3edf8", "#0b57a4"])


def distribution_figure(study: Study) -> Figure | None:
    """How many speakers there are of each severity and etiology."""
    counts, levels, etiologies, hidden = distribution(study)
    if hidden.all():
        return None
    figure = Figure(figsize=(2.6 + 1.1 * len(etiologies), 1.6 + 0.55 * len(levels)), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor(_HIDDEN)
    seen = np.ma.masked_array(counts, hidden)
    axes.imshow(seen, cmap=_BLUES, aspect="auto", vmin=0, vmax=max(1, int(seen.max())))
    for row, column in np.ndindex(*counts.shape):
        dark = not hidden[row, column] and counts[row, column] > 0.55 * seen.max()
        text = "hidden" if hidden[row, column] else str(counts[row, column])
        size, colour = (8, "#6b7680") if hidden[row, column] else (11, "white" if dark else INK)
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    axes.set_xticks(range(len(etiologies)), etiologies, rotation=25, ha="right")
    axes.set_yticks(range(len(levels)), levels)
    axes.set_xticks(np.arange(0.5, len(etiologies) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(levels) - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.set_ylabel("severity")
    return figure


def box_figure(study: Study) -> Figure | None:
    """Word error rates by severity, a box for each recogniser."""
    severity, groups = study.levels(study.speakers)
    by_system = {system: rates(study.counts(system)) for system in study.scored}
    values = {
        system: [np.array([found[name] for name in found if severity[name] == group]) for group in groups]
        for system, found in by_system.items()
    }
    drawn = {system: [within_range(part) for part in parts] for system, parts in values.items()}
    if not any(box for boxes in drawn.values() for box in boxes):
        return None
    figure = Figure(figsize=(2.2 + 1.5 * len(groups), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(drawn)
    for number, boxes in enumerate(drawn.values()):
        offset = (number - (len(drawn) - 1) / 2) * width
        _boxes(axes, boxes, np.arange(len(groups)) + offset, 0.85 * width, COLOURS[number % len(COLOURS)])
    shades = [Patch(color=COLOURS[n % len(COLOURS)], alpha=0.45, label=name) for n, name in enumerate(drawn)]
    axes.legend(handles=shades, loc="upper left", fontsize=9)
    sizes = [sum(1 for found in severity.values() if found == group) for group in groups]
    labels = [f"{group}\n{size} speakers" for group, size in zip(groups, sizes, strict=True)]
    axes.set_xticks(range(len(groups)), labels)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="severity", ylabel="word error rate")
    axes.grid(axis="y", alpha=0.25)
    return figure


def effect_figure(study: Study) -> Figure | None:
    """Effect sizes of every factor in High and in SurpHigh against Low; filled where significant."""
    shown = [(one, one.d) for one in study.effects if one.d is not None]
    if not shown:
        return None
    largest: dict[str, float] = {}
    for one, d in shown:
        largest[one.factor] = max(largest.get(one.factor, 0.0), abs(d))
    factors = sorted(largest, key=lambda factor: largest[factor])
    figure = Figure(figsize=(7.2, 1.5 + 0.26 * len(factors)), layout="constrained")
    axes = figure.subplots()
    for limit in (SMALL, MEDIUM):
        axes.axvline(limit, color=QUIET, lw=0.8, ls=":")
        axes.axvline(-limit, color=QUIET, lw=0.8, ls=":")
    axes.axvline(0, color=INK, lw=0.8)
    for name, colour, shift in (("High", COLOURS[5], 0.14), ("SurpHigh", COLOURS[1], -0.14)):
        own = [(one, d) for one, d in shown if one.group == name]
        for one, d in own:
            place = factors.index(one.factor) + shift
            fill = colour if one.significant else "white"
            axes.plot([0, d], [place, place], color=colour, lw=0.8, alpha=0.5)
            axes.plot(d, place, "o", ms=6, mfc=fill, mec=colour, mew=1.4)
        if own:
            axes.plot([], [], "o", ms=6, color=colour, label=f"{name} against Low")
    axes.plot([], [], "o", ms=6, mfc="white", mec=INK, label=f"Holm p of {study.options.alpha:g} or more")
    axes.set_yticks(range(len(factors)), [factor.replace("_", " ") for factor in factors], fontsize=9)
    axes.set_ylim(-0.8, len(factors) - 0.2)
    axes.set_xlabel("Cohen's d (right: more of it where recognition is worse)")
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(axis="y", alpha=0.2)
    return figure


def human_figure(study: Study) -> Figure | None:
    """Personal recogniser minus people, by severity: below zero the recogniser is better."""
    if study.human is None:
        return None
    deltas = {one.speaker: one.delta for one in study.human.speakers}
    merged, groups = study.levels(deltas)
    parts = [np.array([deltas[name] for name in deltas if merged[name] == group]) for group in groups]
    boxes = [within_range(part) for part in parts]
    if not any(boxes):
        return None
    figure = Figure(figsize=(2.2 + 1.2 * len(groups), 4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=INK, lw=0.8)
    _boxes(axes, boxes, np.arange(len(groups)), 0.5, COLOURS[1])
    labels = [f"{group}\n{len(part)} speakers" for group, part in zip(groups, parts, strict=True)]
    axes.set_xticks(range(len(groups)), labels)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="severity", ylabel="word error rate, personal - human")
    axes.grid(axis="y", alpha=0.25)
    return figure


def snr_figure(study: Study) -> Figure | None:
    """Word error rate over signal-to-noise ratio; each dot is the median of six speakers or more."""
    ratios = {name: float(np.median(found)) for name, found in speaker_snr(study.utterances.values()).items()}
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    drawn = False
    for number, system in enumerate(study.scored):
        found = rates(study.counts(system))
        names = sorted(found.keys() & ratios.keys())
        x, y = np.array([ratios[n] for n in names]), np.array([found[n] for n in names])
        groups = group_neighbours(x.tolist())
        colour = COLOURS[number % len(COLOURS)]
        for group in groups:
            axes.scatter(np.median(x[group]), np.median(y[group]), s=12 * len(group), color=colour, alpha=0.7)
        if groups:
            axes.scatter([], [], color=colour, alpha=0.7, label=system)
            drawn = True
    if not drawn:
        return None
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="signal-to-noise ratio, dB", ylabel="word error rate")
    axes.legend(fontsize=9)
    axes.grid(alpha=0.25)
    return figure


def learning_figure(study: Study) -> Figure | None:
    """Word error rate and share of successes over the number of training utterances."""
    return size_figure(size_rows(study), study.options.target)


def size_figure(rows: Rows, target: float) -> Figure | None:
    """The same of the rows of `data_size_table`."""
    if not rows:
        return None
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    places = np.arange(len(rows))
    column = {
        name: np.array([row[name] for row in rows], float) for name in ("median WER", "q1", "q3", "success")
    }
    upper.fill_between(
        places, column["q1"], column["q3"], color=COLOURS[1], alpha=0.18, lw=0, label="quartiles"
    )
    upper.plot(places, column["median WER"], "o-", color=COLOURS[1], label="median over speakers")
    upper.axhline(target, color=COLOURS[0], lw=1, ls="--", label="target")
    upper.set_ylim(bottom=0)
    upper.set_ylabel("word error rate")
    upper.legend(fontsize=9)
    lower.bar(places, np.nan_to_num(column["success"]), width=0.55, color=COLOURS[1], alpha=0.6)
    for place in places[np.isnan(column["success"])]:
        lower.text(place, 0.03, "hidden", ha="center", fontsize=8, color="#6b7680")
    lower.set_ylim(0, 1)
    lower.set(ylabel="speakers at target", xlabel="training utterances")
    lower.set_xticks(places, [f"{row['utterances']}\n{row['speakers']} speakers" for row in rows])
    for axes in (upper, lower):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(axis="y", alpha=0.25)
    return figure


def _boxes(
    axes: Axes,
    boxes: Sequence[tuple[float, float, float, float, float] | None],
    places: np.ndarray,
    width: float,
    colour: str,
) -> None:
    """Boxes from the 25th to the 75th percentile, whiskers to the 10th and 90th, no single points."""
    held = [(box, place) for box, place in zip(boxes, places, strict=True) if box is not None]
    if not held:
        return
    stats = [
        {"whislo": low, "q1": first, "med": middle, "q3": third, "whishi": high, "fliers": []}
        for (low, first, middle, third, high), _ in held
    ]
    drawn = axes.bxp(
        stats, positions=[place for _, place in held], widths=width, showfliers=False, patch_artist=True,
        manage_ticks=False,
    )  # fmt: skip
    for box in drawn["boxes"]:
        box.set(facecolor=colour, alpha=0.45, edgecolor=colour)
    for line in (*drawn["whiskers"], *drawn["caps"]):
        line.set(color=colour)
    for line in drawn["medians"]:
        line.set(color=INK, linewidth=1.6)
