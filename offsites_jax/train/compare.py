"""A run's figures beside the published ones that its experiment names."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.train.config import Expected
from offsites_jax.train.schema import nearest, parse
from offsites_jax.train.workdir import read_config
from offsites_jax.train.writers import RESERVED, read_metrics

Points = Sequence[tuple[int, float]]

# Float32 figures at the very edge of a tolerance count as inside it.
_SLACK = 1e-6


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One expected figure and what the run made of it.

    Attributes:
      metric: "<split>/<metric>".
      expected: the published figure.
      tolerance: how far off still counts as reproduced.
      source: where it is published.
      reproduced: whether the run's last value is within the tolerance.
      verdict: that in words: "reproduced", "off by -0.012", "not measured".
      last: the run's last value, None where there is no finite one.
      last_step: its step.
      closest: the value of the run that came closest to the published one.
      closest_step: its step.

    """

    metric: str
    expected: float
    tolerance: float
    source: str
    reproduced: bool
    verdict: str
    last: float | None = None
    last_step: int | None = None
    closest: float | None = None
    closest_step: int | None = None


def compare(workdir: epath.PathLike) -> list[Comparison]:
    """One row per figure in the experiment's `expected` section, in its order.

    A figure is reproduced when the last value that was measured is within its tolerance; what the run came
    closest to on its way is told as well.

    Raises:
      UserError: the folder holds no run, or its experiment expects nothing.

    """
    section = read_config(workdir).get("expected") or {}
    if not section:
        raise UserError(f"{workdir}: config.expected is empty; there is no published figure to compare with")
    expected = {name: parse(entry, Expected, f"expected.{name}") for name, entry in section.items()}
    series = _series(workdir)
    return [_comparison(metric, figure, series) for metric, figure in expected.items()]


def render(rows: Sequence[Comparison]) -> str:
    """The rows as a table of text."""
    cells = [("metric", "expected", "last", "closest", "verdict", "source")]
    for row in rows:
        cells.append(
            (
                row.metric,
                f"{row.expected:.6g} ± {row.tolerance:.6g}",
                _value_at(row.last, row.last_step),
                _value_at(row.closest, row.closest_step),
                row.verdict,
                row.source,
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def _series(workdir: epath.PathLike) -> dict[str, list[tuple[int, float]]]:
    """Values by "<split>/<metric>", in the order they were written."""
    series: dict[str, list[tuple[int, float]]] = {}
    for line in read_metrics(workdir):
        for name, value in line.items():
            if name not in RESERVED:
                series.setdefault(f"{line['split']}/{name}", []).append((line["step"], value))
    return series


def _comparison(metric: str, figure: Expected, series: Mapping[str, Points]) -> Comparison:
    hint = nearest(metric, series)
    missing = Comparison(metric, figure.value, figure.tolerance, figure.source, False, f"not measured{hint}")
    if metric not in series:
        return missing
    finite = [(step, value) for step, value in series[metric] if math.isfinite(value)]
    if not finite or not math.isfinite(series[metric][-1][1]):
        return dataclasses.replace(missing, verdict="not finite")
    last_step, last = finite[-1]
    closest_step, closest = min(finite, key=lambda point: abs(point[1] - figure.value))
    off = last - figure.value
    reproduced = abs(off) <= figure.tolerance + _SLACK * abs(figure.value)
    return dataclasses.replace(
        missing,
        reproduced=reproduced,
        verdict="reproduced" if reproduced else f"off by {off:+.3g}",
        last=last,
        last_step=last_step,
        closest=closest,
        closest_step=closest_step,
    )


def _value_at(value: float | None, step: int | None) -> str:
    return "-" if value is None else f"{value:.6g} @ {step}"
