"""Pictures of an evaluation."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from offsites_jax.projects.chest_xray.accuracy.bootstrap import GRID, Bootstrap
from offsites_jax.projects.chest_xray.accuracy.calibration import Reliability
from offsites_jax.projects.chest_xray.accuracy.operating import Confusion
from offsites_jax.projects.chest_xray.accuracy.reader_study import Reader
from offsites_jax.projects.chest_xray.accuracy.roc import Auc, Curve, Labels, Scores
from offsites_jax.projects.chest_xray.accuracy.subgroups import Group
from offsites_jax.projects.chest_xray.worklist.turnaround import Worklist

ABNORMAL, NORMAL = "#c5221f", "#f8c9d4"  # red and pink
INK, ACCENT = "#1c2126", "#0b57a4"
CELLS = {"TP": "#188038", "FP": "#e37400", "TN": "#5f6b76", "FN": "#c5221f"}
CELL_NAMES = {
    "TP": "abnormal, flagged",
    "FP": "normal, flagged",
    "TN": "normal, not flagged",
    "FN": "abnormal, missed",
}
_POINTS = {"high_sensitivity": ("o", "#188038"), "high_specificity": ("s", "#e37400")}
_OTHER_POINT = ("D", "#7b3fa0")
_READERS = ("#1c2126", "#c2185b", "#00838f", "#7b3fa0", "#6d4c41", "#546e7a")


def roc_figure(
    curve: Curve,
    area: Auc,
    draws: Bootstrap,
    confusions: Mapping[str, Confusion],
    readers: Sequence[Reader] = (),
) -> Figure:
    """The ROC curve with its band over draws of patients, operating points, and readers as crosses."""
    figure = Figure(figsize=(6, 5.8), layout="constrained")
    axes = figure.subplots()
    low, high = draws.interval()
    label = f"model, area {area.value:.3f} ({low:.3f} to {high:.3f})"
    axes.plot([0, 1], [0, 1], color="#9aa3ab", lw=1, ls=":")
    band = f"{draws.confidence:.0%} band, {draws.values.shape[1]:,} draws of patients"
    axes.fill_between(GRID, *draws.band[0], color=ACCENT, alpha=0.18, lw=0, label=band)
    axes.plot(curve.false_positive_rate, curve.true_positive_rate, color=ACCENT, lw=1.8, label=label)
    for name, found in confusions.items():
        marker, colour = _POINTS.get(name, _OTHER_POINT)
        _mark(axes, found, marker, colour, name.replace("_", " "))
    for number, reader in enumerate(readers):
        few = len(readers) <= len(_READERS)
        named = reader.name if few else "readers" if not number else None
        _mark(axes, reader.confusion, "x", _READERS[number] if few else INK, named)
    axes.set(
        xlabel="1 - specificity (normal cases flagged)",
        ylabel="sensitivity (abnormal cases flagged)",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
        aspect="equal",
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=8)
    return figure


def reliability_figure(before: Reliability | None, after: Reliability | None) -> Figure:
    """Abnormal share over mean score with exact intervals, in dots as large as their number of cases."""
    figure = Figure(figsize=(5.6, 6), layout="constrained")
    axes, counts = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    axes.plot([0, 1], [0, 1], color="#9aa3ab", lw=1, ls=":", label="calibrated")
    shown = [("scores as they are", before, "#e37400"), ("after calibration", after, ACCENT)]
    for offset, (name, curve, colour) in zip((-0.004, 0.004), shown, strict=True):
        if curve is None:
            continue
        held = [(part.predicted, part.observed) for part in curve.bins if part.predicted is not None]
        middle = np.array([predicted for predicted, _ in held])
        share = np.array([observed.value for _, observed in held])
        ends = np.array([observed.exact for _, observed in held])
        spread = np.abs(ends.T - share)
        label = f"{name}: error {curve.error:.3f}, Brier {curve.brier:.3f}"
        # No line from bin to bin: where few cases are, it would be all noise.
        axes.errorbar(middle + offset, share, yerr=spread, fmt="none", elinewidth=1, color=colour, alpha=0.5)
        number = np.array([observed.total for _, observed in held])
        area = 12 + 150 * number / number.sum()
        axes.scatter(middle + offset, share, s=area, color=colour, alpha=0.8, label=label, zorder=3)
        edges = [part.low for part in curve.bins] + [1.0]
        totals = [part.observed.total for part in curve.bins]
        counts.stairs(totals, edges, color=colour, lw=1.5)
    axes.set(ylabel="share that is abnormal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    counts.set(xlabel="score", ylabel="cases")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", fontsize=8, markerscale=0.5)
    for part in (axes, counts):
        part.grid(alpha=0.25)
    return figure


def histogram_figure(
    labels: Labels, scores: Scores, thresholds: Mapping[str, float], bins: int = 40
) -> Figure:
    """Scores of normal and of abnormal cases, each as shares of its class, and the thresholds."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    edges = np.histogram_bin_edges(
        scores, bins, (0, 1) if 0 <= scores.min() <= scores.max() <= 1 else None
    ).tolist()
    for kind, colour, edge, name in (
        (~labels, NORMAL, "#d98a9d", "normal"),
        (labels, ABNORMAL, None, "abnormal"),
    ):
        weights = np.full(int(kind.sum()), 1 / max(1, int(kind.sum())))
        axes.hist(
            scores[kind], edges, weights=weights, color=colour, alpha=0.7, ec=edge, lw=0.5,
            label=f"{name}, {int(kind.sum()):,} cases",
        )  # fmt: skip
    for name, threshold in thresholds.items():
        colour = _POINTS.get(name, _OTHER_POINT)[1]
        axes.axvline(threshold, color=colour, ls="--", label=f"{name.replace('_', ' ')}, {threshold:.3g}")
    axes.set(xlabel="score", ylabel="share of its class")
    axes.legend(fontsize=8, loc="upper center")  # scores gather at both ends
    return figure


def worklist_figure(
    found: Worklist, orders: Sequence[str] = ("flagged_first", "by_score", "random")
) -> Figure:
    """One simulated list in each order: a bar for each case, red abnormal and pink normal."""
    figure = Figure(figsize=(9, 0.9 + 0.95 * len(orders)), layout="constrained")
    names = {"flagged_first": "AI: flagged first", "by_score": "AI: by score", "random": "random order"}
    strips = figure.subplots(len(orders), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(strips, orders, strict=True):
        abnormal = found.example[name]
        _strip(axes, abnormal)
        mean = float(np.flatnonzero(abnormal).mean() + 1)
        axes.plot([mean, mean], [-0.12, 1.0], color=INK, lw=1.8, clip_on=False)
        axes.set_title(f"{names[name]}: an abnormal case is read as number {mean:.0f} on average", fontsize=9)
        axes.set_yticks([])
    strips[-1].set_xlabel(
        f"position in a list of {found.batch} ({found.abnormal} abnormal, red); line: mean of red"
    )
    return figure


def improvement_figure(found: Worklist) -> Figure:
    """Share of the mean turnaround of abnormal cases that each simulated list saves."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    orders = (("flagged_first", ABNORMAL), ("by_score", ACCENT))
    everything = np.concatenate([100 * found.orders[name].saved for name, _ in orders])
    edges = np.linspace(everything.min() - 1e-6, everything.max() + 1e-6, 41).tolist()
    for name, colour in orders:
        order = found.orders[name]
        low, high = (100 * end for end in order.band)
        label = f"{name.replace('_', ' ')}: {100 * order.reduction:.1f} % ({low:.1f} to {high:.1f})"
        axes.hist(100 * order.saved, edges, color=colour, alpha=0.55, label=label)
    axes.axvline(100 * found.expected.reduction, color=ABNORMAL, ls="--", label="flagged first, closed form")
    axes.axvline(100 * found.expected.bound, color=INK, ls=":", label="no order saves more on average")
    axes.set(
        xlabel="% shorter mean turnaround of abnormal cases than in random order",
        ylabel=f"of {len(order.saved):,} simulated lists",
    )
    axes.legend(fontsize=8)
    return figure


def subgroup_figure(groups: Sequence[Group], area: Auc) -> Figure:
    """Area of each group with DeLong's interval, beside that of all cases."""
    shown = [group for group in groups if group.auc is not None]
    figure = Figure(figsize=(6.5, 1.2 + 0.32 * max(1, len(shown))), layout="constrained")
    axes = figure.subplots()
    axes.axvline(area.value, color=ACCENT, lw=1)
    axes.axvspan(*area.interval, color=ACCENT, alpha=0.12, lw=0)
    for row, group in enumerate(shown):
        assert group.auc is not None
        axes.plot(group.auc.interval, [row, row], color=INK, lw=1.4)
        axes.plot(group.auc.value, row, "o", color=INK, ms=5)
    axes.set_yticks(
        range(len(shown)), [f"{g.column}: {g.value} ({g.positives}+{g.negatives})" for g in shown]
    )
    axes.set(xlabel="area under the ROC curve; blue: all cases", ylim=(len(shown) - 0.4, -0.6))
    axes.grid(axis="x", alpha=0.25)
    return figure


@dataclasses.dataclass(frozen=True)
class Tile:
    """A radiograph of a gallery.

    Attributes:
      image: grey or RGB pixels.
      caption: below it.

    """

    image: UInt8[np.ndarray, "height width *channels"]
    caption: str


def gallery_figure(tiles: Mapping[str, Sequence[Tile]]) -> Figure:
    """Four rows, of true and false positives and negatives, each image in a frame of the row's colour.

    Args:
      tiles: by `TP`, `FP`, `TN` and `FN`; a row without any says so.

    """
    columns = max([1, *(len(row) for row in tiles.values())])
    figure = Figure(figsize=(0.6 + 1.7 * columns, 2.15 * len(CELLS)), layout="constrained")
    grid = figure.subplots(len(CELLS), columns, squeeze=False)
    for row, (cell, colour) in zip(grid, CELLS.items(), strict=True):
        own = tiles.get(cell, ())
        for axes, tile in zip(row, own, strict=False):
            axes.imshow(tile.image.squeeze(), cmap="gray", vmin=0, vmax=255)
            axes.set_xlabel(tile.caption, fontsize=7)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=colour, linewidth=2.5)
        for axes in row[len(own) :]:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(f"{cell}\n{CELL_NAMES[cell]}", color=colour, fontsize=9)
        if not own:
            row[0].text(0.5, 0.5, "none", ha="center", va="center", transform=row[0].transAxes)
    return figure


def gallery_rows(
    labels: Labels, scores: Scores, threshold: float, most: int = 6
) -> dict[str, Int[np.ndarray, "tiles"]]:
    """Cases for a gallery: the highest scores of the flagged and the lowest of the others."""
    flagged = scores >= threshold
    kinds: dict[str, Bool[np.ndarray, cases]] = {
        "TP": labels & flagged,
        "FP": ~labels & flagged,
        "TN": ~labels & ~flagged,
        "FN": labels & ~flagged,
    }
    signs: dict[str, Float[np.ndarray, cases]] = {"TP": -scores, "FP": -scores, "TN": scores, "FN": scores}
    found = {}
    for cell, kind in kinds.items():
        rows = np.flatnonzero(kind)
        found[cell] = rows[np.argsort(signs[cell][rows], kind="stable")][:most]
    return found


def _mark(axes: Axes, found: Confusion, marker: str, colour: str, label: str | None) -> None:
    """A point of the ROC plane, with exact intervals where there are any."""
    sensitivity, specificity = found.sensitivity, found.specificity
    if (
        sensitivity.value is None
        or specificity.value is None
        or not (sensitivity.exact and specificity.exact)
    ):
        return
    at, height = 1 - specificity.value, sensitivity.value
    axes.plot([1 - end for end in specificity.exact], [height, height], color=colour, lw=0.8, alpha=0.6)
    axes.plot([at, at], sensitivity.exact, color=colour, lw=0.8, alpha=0.6)
    axes.plot(at, height, marker, color=colour, ms=7, mew=2 if marker == "x" else 1, label=label, zorder=3)


def _strip(axes: Axes, abnormal: Bool[np.ndarray, "cases"]) -> None:
    axes.imshow(
        abnormal[None, :].astype(int),
        cmap=ListedColormap([NORMAL, ABNORMAL]),
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        extent=(0.5, len(abnormal) + 0.5, 0, 1),
    )
    axes.autoscale(False)
