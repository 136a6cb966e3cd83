"""The parameter table of a model: what there is, how it is split over the mesh, and how it is spread."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

_HEADER = ("parameter", "shape", "sharding", "count", "mean", "std")
_LEFT = 3  # columns of text, which are aligned to the left; numbers go to the right


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter.

    Attributes:
      name: path, joined by "/".
      shape: its size along each axis.
      dtype: name of its number type.
      spec: the mesh axes that each of its axes is split over; empty where it is whole on every device.
      count: numbers in it.
      device_bytes: memory that it takes on one device.
      mean: mean of its values; None where only the shape is known.
      std: standard deviation of its values; None where only the shape is known.

    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    spec: str
    count: int
    device_bytes: int
    mean: float | None
    std: float | None


def overview(params: PyTree) -> list[Row]:
    """One row per parameter, in the order of the tree.

    Means and deviations are taken in one compiled function, over sharded arrays as they lie; with several
    processes, all have to call.

    Args:
      params: tree of arrays, or of their shapes, for which mean and std stay None.

    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    moments = _moments([leaf for _, leaf in leaves])
    return [_row(path, leaf, *pair) for (path, leaf), pair in zip(leaves, moments, strict=True)]


def render(params: PyTree) -> str:
    """The table as text: modules with their totals, their parameters, and the sum of all."""
    rows = overview(params)
    cells: list[tuple[str, ...]] = [_HEADER]
    for module, members in itertools.groupby(rows, key=lambda row: row.name.split("/")[0]):
        cells += _module_cells(module, list(members))
    count, size = sum(row.count for row in rows), sum(row.device_bytes for row in rows)
    total = f"{count:,} parameters, {size / 2**20:,.1f} MiB on each device"
    return "\n".join([*_aligned(cells), total])


def _row(path: tuple, leaf: Array, mean: float | None, std: float | None) -> Row:
    sharding = getattr(leaf, "sharding", None)
    local = sharding.shard_shape(leaf.shape) if sharding else leaf.shape
    return Row(
        name=jax.tree_util.keystr(path, simple=True, separator="/"),
        shape=tuple(leaf.shape),
        dtype=str(leaf.dtype),
        spec=_spec(sharding),
        count=math.prod(leaf.shape),
        device_bytes=math.prod(local) * leaf.dtype.itemsize,
        mean=mean,
        std=std,
    )


def _spec(sharding: jax.sharding.Sharding | None) -> str:
    """Mesh axes by axis of the array, as in "fsdp, -, data+tensor"."""
    spec = sharding.spec if isinstance(sharding, NamedSharding) else PartitionSpec()
    names = ["+".join(axis) if isinstance(axis, tuple) else axis or "-" for axis in spec]
    return ", ".join(names) if set(names) - {"-", ""} else ""


def _moments(leaves: Sequence[Array]) -> list[tuple[float | None, float | None]]:
    """Mean and standard deviation of each array."""
    if not leaves or any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return [(None, None)] * len(leaves)
    sharding = getattr(leaves[0], "sharding", None)
    everywhere = (
        NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else None
    )
    pairs = jax.jit(_stacked_moments, out_shardings=everywhere)(leaves)
    return [(float(mean), float(std)) for mean, std in np.asarray(pairs)]


def _stacked_moments(leaves: Sequence[Array]) -> Float[Array, "leaves 2"]:
    def moments(leaf: Array) -> Float[Array, "2"]:
        values = leaf.astype(jnp.float32)
        return jnp.stack([values.mean(), values.std()])

    return jnp.stack([moments(leaf) for leaf in leaves])


def _module_cells(module: str, rows: Sequence[Row]) -> list[tuple[str, ...]]:
    if rows[0].name == module:
        return [_cells(row, module) for row in rows]
    total = f"{sum(row.count for row in rows):,}"
    inner = [_cells(row, f"  {row.name.removeprefix(f'{module}/')}") for row in rows]
    return [(module, "", "", total, "", ""), *inner]


def _cells(row: Row, name: str) -> tuple[str, ...]:
    moments = ["" if value is None else f"{value:.3g}" for value in (row.mean, row.std)]
    return (name, "x".join(map(str, row.shape)), row.spec, f"{row.count:,}", *moments)


def _aligned(cells: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        left = [cell.ljust(width) for cell, width in zip(line[:_LEFT], widths, strict=False)]
        right = [cell.rjust(width) for cell, width in zip(line[_LEFT:], widths[_LEFT:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    return lines
