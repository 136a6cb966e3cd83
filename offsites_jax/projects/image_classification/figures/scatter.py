"""Accuracy over parameters, multiply-adds and time: one's own runs, and published networks."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from offsites_jax.projects.image_classification.figures.published import COATNET, Published, family
from offsites_jax.projects.image_classification.runs import CORES, Run

Point = tuple[float, float]


def scatter_figure(runs: Sequence[Run], published: Sequence[Published] = ()) -> Figure:
    """A point for each run; published ones are pale, and hollow where a figure was not checked.

    Time is seconds of train steps on the machine that trained. Beside published points it is hours as if on
    32 devices, and runs that did not record on how many they were are left out there.
    """
    figure = Figure(figsize=(16 if published else 13, 5.5 if published else 4.2), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    own: tuple[tuple[str, Callable[[Run], float | None]], ...] = (
        ("parameters, millions", lambda run: run.params / 1e6),
        ("multiply-adds of a prediction, millions", lambda run: run.macs / 1e6),
        (f"hours of training as if on {CORES} devices", _shared_hours)
        if published
        else ("train steps, seconds on the machine that trained", lambda run: run.step_seconds),
    )
    theirs: tuple[Callable[[Published], float | None], ...] = (
        lambda point: point.params,
        lambda point: point.macs and 1e3 * point.macs,
        lambda point: point.hours,
    )
    for number, (axes, (label, cost), their_cost) in enumerate(zip(panels, own, theirs, strict=True)):
        _draw_published(axes, published, their_cost, by_pixels=number == 1, unsure=number == 2)
        for index, run in enumerate(runs):
            x = cost(run)
            if x is not None:
                edge = "black" if published else "none"
                axes.scatter(
                    x, run.accuracy, c=f"C{index % 10}", edgecolors=edge, s=60, zorder=3, label=run.name
                )
        axes.set(xlabel=label)
        axes.margins(0.15)
        axes.grid(alpha=0.3)
        _scale(axes, log=bool(published))
    metrics = sorted({run.metric for run in runs} | ({"ImageNet top-1"} if published else set()))
    panels[0].set_ylabel(" and ".join(metrics))
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", fontsize=8)
    return figure


def _draw_published(
    axes: Axes,
    published: Sequence[Published],
    cost: Callable[[Published], float | None],
    *,
    by_pixels: bool,
    unsure: bool,
) -> None:
    """Points of a family in one colour.

    `by_pixels` names each with the size of its images, else a network is named once, where it is best;
    `unsure` draws those whose hours are from memory as rings.
    """
    families = list(dict.fromkeys(map(family, published)))
    best = {(point.name, point.data): point for point in sorted(published, key=lambda p: p.accuracy)}
    for point in published:
        x = cost(point)
        if x is None:
            continue
        recalled = unsure and point.hours_recalled
        colour = f"C{families.index(family(point)) % 10}"
        axes.scatter(
            x,
            point.accuracy,
            marker="s",
            s=28,
            alpha=0.6,
            facecolors="none" if recalled else colour,
            edgecolors=colour,
            label=family(point) + (" (hours from memory)" if recalled else ""),
        )
        if by_pixels or best[point.name, point.data] == point:
            size = f" {point.pixels}" if by_pixels and point.pixels else ""
            right = point.source == COATNET  # the two families often meet at one place
            axes.annotate(
                f"{point.name.removeprefix('CoAtNet-')}{size}",
                (x, point.accuracy),
                xytext=(4 if right else -4, -2),
                textcoords="offset points",
                ha="left" if right else "right",
                fontsize=6,
                color="0.35",
            )


def _scale(axes: Axes, *, log: bool) -> None:
    """Few plain numbers along the axis."""
    if not log:
        axes.locator_params(axis="x", nbins=5)
        return
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1,) if high > 100 * low else (1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.12g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _shared_hours(run: Run) -> float | None:
    if not run.devices:
        return None
    return (run.step_seconds + run.wait_seconds) * run.devices / CORES / 3600
