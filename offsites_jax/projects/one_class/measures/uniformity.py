"""How evenly features are spread over the sphere: too evenly is bad for one-class classification.

Two figures of features of length 1, both with the kernel exp(-t ‖x - y‖²): the maximum mean discrepancy to
the uniform law, which "Deep One-class Classification" (arXiv 2011.02578) compares over batch sizes and with
and without distribution augmentation, and the log-mean pairwise potential (arXiv 2005.10242). Under the
uniform law on the unit sphere of d dimensions the kernel has the mean e^(-2t) 0F1(d/2; t²), wherever the
other point is, so nothing needs to be drawn.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array
from matplotlib.figure import Figure
from scipy import special

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.detectors.base import Features, checked, host_unit_rows
from offsites_jax.projects.one_class.detectors.blockwise import (
    SplitRows,
    log_sums,
    one_device,
    sharded_over_rows,
    split_rows,
)

TEMPERATURE = 2.0
"""The t of arXiv 2005.10242."""


@dataclasses.dataclass(frozen=True)
class Uniformity:
    """How uniform a set of features is.

    Attributes:
      mmd: maximum mean discrepancy to the uniform law (all pairs, so that it is a distance); 0 is uniform.
      mmd_squared_unbiased: its square estimated without the pairs of a feature with itself; may be below 0.
      log_potential: log of the mean kernel over pairs of different features; smaller is more uniform.
      uniform_log_potential: the same of the uniform law, which is the least there can be on average.
      samples: how many features.
      temperature: the t of the kernel.

    """

    mmd: float
    mmd_squared_unbiased: float
    log_potential: float
    uniform_log_potential: float
    samples: int
    temperature: float


def uniformity(
    features: Features, *, temperature: float = TEMPERATURE, mesh: Mesh | None = None
) -> Uniformity:
    """The figures of features, which are divided by their length first.

    All pairs are looked at, chunk by chunk on the mesh (default: one device).

    Raises:
      UserError: features that are not sound, fewer than two, or a temperature that is not above 0.

    """
    features = checked(features, "uniformity")
    if len(features) < 2:
        raise UserError("uniformity: it is about pairs; give two features or more")
    if not (math.isfinite(temperature) and temperature > 0):
        raise UserError(f"uniformity: temperature is {temperature}; give a number above 0")
    unit = host_unit_rows(features)
    count, dim = unit.shape
    between = _kernel_sum(unit, temperature, mesh or one_device())
    expected = uniform_kernel_mean(dim, temperature)
    potential = between / (count * (count - 1))
    squared = (between + count) / count**2 - expected
    return Uniformity(
        mmd=math.sqrt(max(squared, 0.0)),
        mmd_squared_unbiased=potential - expected,
        log_potential=math.log(potential) if potential > 0 else -math.inf,
        uniform_log_potential=math.log(expected),
        samples=count,
        temperature=temperature,
    )


def uniform_kernel_mean(dim: int, temperature: float = TEMPERATURE) -> float:
    """E exp(-t ‖x - y‖²) for x anywhere on the unit sphere of `dim` dimensions and y uniform on it."""
    return float(np.exp(-2 * temperature) * special.hyp0f1(dim / 2, temperature**2))


def uniformity_figure(runs: Mapping[str, Mapping[int, Uniformity]]) -> Figure:
    """A line a kind of training, MMD over batch size: smaller is more uniform.

    Args:
      runs: for each kind, such as "with distribution augmentation", its figures by batch size.

    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, by_size in runs.items():
        sizes = sorted(by_size)
        axes.plot(sizes, [by_size[size].mmd for size in sizes], marker="o", label=name)
    axes.set_xscale("log", base=2)
    sizes = sorted({size for by_size in runs.values() for size in by_size})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(xlabel="batch size", ylabel="MMD to the uniform law", title="uniformity on the sphere")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def _kernel_sum(unit: Features, temperature: float, mesh: Mesh) -> float:
    """Σ exp(-t ‖x - y‖²) over ordered pairs of different features."""
    numbers = np.arange(len(unit), dtype=np.int32)
    split = split_rows(unit, None, mesh)
    logs = sharded_over_rows(_potentials, split, np.float32(temperature), (unit, numbers), mesh)
    return float(np.exp(logs.astype(np.float64)).sum())


def _potentials(rows: SplitRows, temperature: Any, queries: Any, axes: tuple[str, ...] = ()) -> Array:
    features, numbers = queries
    return log_sums(features, rows, temperature, axes=axes, skip=numbers)
