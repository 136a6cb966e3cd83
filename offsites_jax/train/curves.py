"""The picture of a run: losses, scores and learning rate over the steps."""

from collections import defaultdict

import jax
from etils import epath
from matplotlib.figure import Figure

from offsites_jax.data.atomic import write_atomically
from offsites_jax.train.media import encode_figure
from offsites_jax.train.writers import read_metrics

Series = dict[str, list[tuple[int, float]]]

# What each panel shows, by the last part of a metric's name.
PANELS = (
    ("loss", ("loss", "cross_entropy")),
    ("score", ("accuracy",)),
    ("learning rate", ("learning_rate",)),
)


def draw_curves(workdir: epath.PathLike) -> epath.Path:
    """Writes `workdir/artifacts/curves.png` from `metrics.jsonl` and returns its path."""
    file = epath.Path(workdir) / "artifacts" / "curves.png"
    if jax.process_index() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, encode_figure(curves_figure(read_series(workdir))).content)
    return file


def read_series(workdir: epath.PathLike) -> Series:
    """Values over steps by "<split>/<metric>"."""
    series: Series = defaultdict(list)
    for line in read_metrics(workdir):
        for name, value in line.items():
            if isinstance(value, int | float) and name not in ("step", "time"):
                series[f"{line['split']}/{name}"].append((line["step"], value))
    return dict(series)


def curves_figure(series: Series) -> Figure:
    """One panel per kind of metric; panels without data are left out."""
    panels = [(title, chosen(series, endings)) for title, endings in PANELS]
    panels = [(title, lines) for title, lines in panels if lines]
    figure = Figure(figsize=(4.6 * max(len(panels), 1), 3.4), layout="constrained")
    for axes, (title, lines) in zip(
        figure.subplots(1, max(len(panels), 1), squeeze=False)[0], panels, strict=False
    ):
        for name, points in lines.items():
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, label=name, marker="o" if len(points) < 30 else None, markersize=3)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def chosen(series: Series, endings: tuple[str, ...]) -> Series:
    """The series whose metric is one of `endings`, objective prefixes aside."""
    return {name: points for name, points in series.items() if name.split("/")[-1] in endings}
