"""What a CoAtNet has learnt of positions: its tables of relative biases as maps."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util
from jaxtyping import Float
from matplotlib.figure import Figure

from offsites_jax.errors import UserError
from offsites_jax.models.stacked import unstack_blocks
from offsites_jax.train.saved import Step, restore_variables

TABLE = "relative_bias"
MOST_ROWS, MOST_COLUMNS = 16, 12

Tables = dict[str, Float[np.ndarray, "heads dy dx"]]


def read_tables(workdir: epath.PathLike, step: Step = "latest", params: str = "ema") -> Tables:
    """The tables of a checkpoint by the name of their block, such as ``stage_3/block_0``.

    Raises:
      UserError: no checkpoint, or its network has no tables.

    """
    variables = restore_variables(workdir, step=step, params=params).variables
    tables = find_tables(variables["params"])
    if not tables:
        raise UserError(f"{workdir}: the network has no relative biases; give the run of a CoAtNet with some")
    return tables


def find_tables(params: Mapping[str, Any]) -> Tables:
    """The tables in a tree of parameters, blocks in order; those of scanned blocks are taken apart."""
    leaves = traverse_util.flatten_dict(unstack_blocks(params), sep="/")
    found = {
        block_of(path): np.asarray(leaf) for path, leaf in leaves.items() if path.rpartition("/")[2] == TABLE
    }
    return {name: found[name] for name in in_order(found)}


def block_of(path: str) -> str:
    """The name of the block that a leaf belongs to, such as ``stage_3/block_0``."""
    return "/".join(part for part in path.split("/") if part.startswith(("stage_", "block_")))


def in_order(names: Iterable[str]) -> list[str]:
    """Blocks in the order of the network."""
    return sorted(names, key=_numbers)


def bias_figure(tables: Tables) -> Figure:
    """A row for each block, a map for each head: red where a pixel looks, blue where it looks away.

    A table counts query minus key; the maps are turned, so that right and below in the picture are right of
    and below the pixel that looks. Every map has a scale of its own, written above.
    """
    rows = dict(list(tables.items())[:MOST_ROWS])
    columns = min(MOST_COLUMNS, max(len(table) for table in rows.values()))
    figure = Figure(figsize=(1.35 * columns + 0.9, 1.6 * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    for line, (name, table) in zip(grid, rows.items(), strict=True):
        for head, axes in enumerate(line[: len(table)]):
            seen = seen_from_the_middle(table[head])
            reach = float(np.abs(seen).max()) or 1.0
            height, width = (size // 2 + 0.5 for size in seen.shape)
            axes.axis("on")
            axes.imshow(seen, cmap="RdBu_r", vmin=-reach, vmax=reach, extent=(-width, width, height, -height))
            axes.set_title(f"head {head}, ±{reach:.2g}", fontsize=7)
            axes.tick_params(labelsize=6)
            axes.yaxis.get_major_locator().set_params(integer=True)
        line[0].set_ylabel(name.replace("/", "\n"), fontsize=8)
    return figure


def seen_from_the_middle(table: Float[np.ndarray, "dy dx"]) -> Float[np.ndarray, "dy dx"]:
    """The bias of keys by where they lie: entry (i, j) is of the key (i, j) minus the middle away."""
    return table[::-1, ::-1]


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(part.rpartition("_")[2]) for part in name.split("/"))
