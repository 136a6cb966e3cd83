"""Relative position biases: from a small table to one number for every pair of pixels.

A table has an entry for each difference of positions, [heads, 2 height - 1, 2 width - 1], query minus
key, as in CoAtNet (Dai et al. 2021, arXiv 2106.04803, appendix A.1).
"""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from offsites_jax.errors import UserError

Grid = tuple[int, int]
"""Height and width of a map of features."""

Resize = Literal["bilinear", "bicubic", "geometric"]


def table_shape(grid: Grid) -> tuple[int, int]:
    """Number of vertical and horizontal differences between two positions of a grid."""
    return 2 * grid[0] - 1, 2 * grid[1] - 1


def grid_of(table: Float[Array, "heads dy dx"]) -> Grid:
    """The grid a table was made for."""
    return (table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2


def pair_biases(table: Float[Array, "heads dy dx"]) -> Float[Array, "heads queries keys"]:
    """The bias of every pair of positions, both in reading order.

    A TPU multiplies by small one-hot matrices, where a gather would be slow; both ways give the same bits.
    """
    return lax.platform_dependent(table, tpu=pair_biases_by_products, default=pair_biases_by_gather)


def pair_biases_by_gather(table: Float[Array, "heads dy dx"]) -> Float[Array, "heads queries keys"]:
    """`pair_biases` as one indexed read."""
    rows, columns = (_differences(size) for size in grid_of(table))
    found = table[:, rows[:, None, :, None], columns[None, :, None, :]]
    return _by_pairs(found)


def pair_biases_by_products(table: Float[Array, "heads dy dx"]) -> Float[Array, "heads queries keys"]:
    """`pair_biases` as two products, rows first; the work grows with pixels times (height + width)."""
    picked = [jax.nn.one_hot(_differences(size), 2 * size - 1, dtype=table.dtype) for size in grid_of(table)]
    # At full precision a product with ones and zeros only picks values, and rounds none of them.
    by_rows = jnp.einsum("hrc,ikr->hikc", table, picked[0], precision=lax.Precision.HIGHEST)
    found = jnp.einsum("hikc,jlc->hijkl", by_rows, picked[1], precision=lax.Precision.HIGHEST)
    return _by_pairs(found)


def _differences(size: int) -> np.ndarray:
    """Entry of the table for each (query, key) along one axis."""
    positions = np.arange(size)
    return positions[:, None] - positions[None, :] + size - 1


def _by_pairs(found: Float[Array, "heads y x key_y key_x"]) -> Float[Array, "heads queries keys"]:
    heads, height, width = found.shape[:3]
    return found.reshape(heads, height * width, height * width)


def log_coordinates(grid: Grid) -> np.ndarray:
    """sign(d) log(1 + |d|) of all differences of positions, [2 height - 1, 2 width - 1, (dy, dx)].

    What the networks called ``rmlp`` in huggingface/pytorch-image-models compute their tables from.
    """
    axes = [np.arange(1 - size, size, dtype=np.float32) for size in grid]
    differences = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    return np.sign(differences) * np.log1p(np.abs(differences))


def resize_table(
    table: Float[Array, "heads dy dx"], grid: Grid, method: Resize = "bilinear"
) -> Float[Array, "heads new_dy new_dx"]:
    """Interpolate a table for maps of another size, to fine-tune at another resolution.

    Args:
        table: the table that was trained.
        grid: height and width of the maps it is wanted for.
        method: ``"bilinear"``, half-pixel centres and no anti-aliasing, as CoAtNet (google-research/maxvit);
            ``"bicubic"`` likewise with Keys' kernel (a = -1/2); or ``"geometric"``, linear between entries
            spread further apart the larger the difference, as huggingface/pytorch-image-models reads
            checkpoints (after BEiT).

    Raises:
        UserError: if there is no such method.

    """
    if method not in get_args(Resize):
        raise UserError(f"method is {method!r}: choose one of {', '.join(get_args(Resize))}")
    if table.shape[1:] == table_shape(grid):
        return table
    if method == "geometric":
        rows, columns = (
            _geometric_weights(old, new) for old, new in zip(table.shape[1:], table_shape(grid), strict=True)
        )
        return jnp.einsum("hrc,ir,jc->hij", table, rows, columns, precision=lax.Precision.HIGHEST)
    shape = (table.shape[0], *table_shape(grid))
    return jax.image.resize(table, shape, method, antialias=False, precision=lax.Precision.HIGHEST)


def _geometric_weights(old: int, new: int) -> np.ndarray:
    """Share of each old entry in each new one, [new, old]."""
    if old == new:
        return np.eye(new, dtype=np.float32)
    half = old // 2
    steps = _common_ratio(half, new // 2) ** np.arange(half)
    known = np.concatenate([-np.cumsum(steps)[::-1], [0.0], np.cumsum(steps)])
    wanted = np.arange(new) - new // 2
    # np.interp holds the outermost values, which is what the original does beyond its last entry.
    weights = [np.interp(wanted, known, row) for row in np.eye(old)]
    return np.stack(weights, axis=1).astype(np.float32)


def _common_ratio(count: int, reach: int) -> float:
    """Ratio of ``count`` growing steps, the first of them 1, that together reach as far as wanted."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if math.fsum(middle**k for k in range(count)) > reach else (middle, high)
    return middle
