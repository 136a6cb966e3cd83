"""The table of a protocol: a row a class, then means over classes, each with its spread over seeds."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from etils import epath

from offsites_jax.projects.one_class.protocol.cells import Result
from offsites_jax.projects.one_class.stored import write_file
from offsites_jax.train.media import encode_json, encode_table

MEAN = "mean"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
      name: a class, a group of classes, or mean.
      metric: which figure.
      values: by seed; of a group, the unweighted mean over its classes, where all of them have the figure.
      published: the figure to compare with, where there is one.

    """

    name: str
    metric: str
    values: dict[int, float]
    published: float | None = None

    @property
    def mean(self) -> float | None:
        """Over the seeds; None where there is no figure."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """Standard deviation over the seeds (divided by their number less 1); None below two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def standard_error(self) -> float | None:
        """Of the mean: the standard deviation over the root of the number of seeds."""
        return None if self.std is None else self.std / len(self.values) ** 0.5


def table(
    results: Sequence[Result],
    groups: Mapping[str, Sequence[str]] | None = None,
    published: Mapping[str, float] | None = None,
) -> list[Row]:
    """Rows by metric: the classes in order of appearance, the groups, and the mean over all classes.

    Args:
      results: of the cells; failed ones have no figures.
      groups: classes by name of the group, such as MVTec AD's textures.
      published: figures to compare with, by `<class or group>/<metric>`.

    """
    categories = list(dict.fromkeys(result.category for result in results))
    metrics = list(dict.fromkeys(metric for result in results for metric in result.figures))
    seeds = list(dict.fromkeys(result.seed for result in results))
    parts = {name: [name] for name in categories} | dict(groups or {}) | {MEAN: categories}
    rows = []
    for metric in metrics:
        found = {
            (result.category, result.seed): value
            for result in results
            if (value := result.figures.get(metric)) is not None
        }
        for name, members in parts.items():
            values = {
                seed: statistics.fmean(found[member, seed] for member in members)
                for seed in seeds
                if all((member, seed) in found for member in members)
            }
            rows.append(Row(name, metric, values, (published or {}).get(f"{name}/{metric}")))
    return rows


def to_markdown(rows: Sequence[Row]) -> str:
    """One table a metric, with what its spread is, and which seeds are missing where."""
    return "\n".join(_markdown(metric, rows) for metric in dict.fromkeys(row.metric for row in rows))


def write_tables(folder: epath.PathLike, results: Sequence[Result], rows: Sequence[Row]) -> None:
    """Writes `table.md`, `table.csv` and `table.json`; the last has the results of all cells too."""
    root = epath.Path(folder)
    failed = [result for result in results if result.status == "failed"]
    failures = [f"- {result.category}, seed {result.seed}: {result.error}\n" for result in failed]
    notes = "\nFailed cells, without figures:\n\n" + "".join(failures) if failed else ""
    write_file(root / "table.md", (to_markdown(rows) + notes).encode())
    write_file(root / "table.csv", encode_table([_cells(row) for row in rows]).content)
    everything = {
        "rows": [{**_cells(row), "values": row.values} for row in rows],
        "cells": [dataclasses.asdict(result) for result in results],
    }
    write_file(root / "table.json", encode_json(everything).content)


def _markdown(metric: str, rows: Sequence[Row]) -> str:
    rows = [row for row in rows if row.metric == metric]
    lines = [
        f"**{metric}**: mean over seeds, standard deviation (n - 1) and standard error of the mean",
        "",
        "| | mean | std | s.e. | seeds | published |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        shown = (row.mean, row.std, row.standard_error, len(row.values), row.published)
        name = row.name.replace("|", "\\|")
        lines.append(f"| {name} | {' | '.join('-' if x is None else f'{x:.4g}' for x in shown)} |")
    return "\n".join([*lines, ""])


def _cells(row: Row) -> dict[str, float | int | str | None]:
    return {
        "metric": row.metric,
        "name": row.name,
        "mean": row.mean,
        "std": row.std,
        "standard_error": row.standard_error,
        "seeds": len(row.values),
        "published": row.published,
    }
