"""Self-attention over a map of features with biases by relative position (arXiv 2106.04803, eq. 3)."""

import functools
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from offsites_jax.errors import UserError
from offsites_jax.nn.attention import Heads, attend
from offsites_jax.nn.relative_tables import (
    Grid,
    grid_of,
    log_coordinates,
    pair_biases,
    resize_table,
    table_shape,
)
from offsites_jax.nn.shards import on_each_shard

Relative = Literal["table", "mlp", "none"]

Biases = dict[str, Array]
"""A ``"table"`` [heads, dy, dx], a number for each of the ``"pairs"`` [heads, queries, keys], or nothing."""

init = nn.initializers.normal(0.02)
"""Of all kernels and tables, as in google-research/maxvit."""

_MLP_DROPOUT = 0.125  # of the networks that timm calls rmlp


class TableMlp(nn.Module):
    """Computes a table from the logarithms of differences of positions, so that any size of map will do.

    As the networks called ``rmlp`` in huggingface/pytorch-image-models: two dense layers, ReLU between.

    Attributes:
        num_heads: heads to make a table for.
        width: of the hidden layer.

    """

    num_heads: int
    width: int

    @nn.compact
    def __call__(self, grid: Grid, train: bool) -> Float[Array, "heads dy dx"]:
        """Make the table for maps of a size; training drops units by the rng ``dropout``."""
        hidden = nn.relu(nn.Dense(self.width, kernel_init=init, name="fc1")(log_coordinates(grid)))
        hidden = nn.Dropout(_MLP_DROPOUT, deterministic=not train)(hidden)
        return nn.Dense(self.num_heads, kernel_init=init, name="fc2")(hidden).transpose(2, 0, 1)


class RelativeAttention(nn.Module):
    """Multi-head attention among all pixels of a map.

    Softmax and biases are float32 whatever the type. Parameters ``query``, ``key``, ``value`` [channels,
    heads, head size], ``out`` [heads, head size, width], each with a bias, and ``relative_bias`` [heads,
    2 height - 1, 2 width - 1], or the layers of ``rel_mlp``.

    Attributes:
        width: output channels.
        num_heads: heads.
        head_size: channels of a head.
        relative: where the biases come from: a ``"table"``, an ``"mlp"`` that computes one, or ``"none"``.
        mlp_width: hidden units of that MLP.
        table_grid: size of the maps the table is for; resized within the network to the size it meets.
            ``None``: the size met when the layer is initialised, and no other.
        heads_at_once: on TPU, see `attend`.
        dtype: type to compute in; parameters are float32.

    """

    width: int
    num_heads: int
    head_size: int = 32
    relative: Relative = "table"
    mlp_width: int = 512
    table_grid: Grid | None = None
    heads_at_once: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width {self.width}"]:
        """Attend from every pixel to every pixel.

        Raises:
            UserError: if the table is for maps of another size.

        """
        batch, *grid, channels = x.shape
        pixels = x.reshape(batch, -1, channels)
        query, key, value = (self._dense(name, (self.num_heads, self.head_size))(pixels) for name in _INPUTS)
        biases = self.biases((grid[0], grid[1]), train)
        attended = on_each_shard(
            functools.partial(_attend, heads_at_once=self.heads_at_once), (query, key, value), biases
        )
        y = nn.DenseGeneral(self.width, axis=(-2, -1), kernel_init=init, dtype=self.dtype, name="out")(
            attended
        )
        return y.reshape(batch, *grid, self.width)

    def _dense(self, name: str, features: tuple[int, int]) -> nn.DenseGeneral:
        return nn.DenseGeneral(features, kernel_init=init, dtype=self.dtype, name=name)

    def biases(self, grid: Grid, train: bool) -> Biases:
        """What to add to the products of queries and keys; a part of the call, with no meaning outside."""
        if self.relative == "none":
            return {}
        if self.relative == "mlp":
            return {"table": TableMlp(self.num_heads, self.mlp_width, name="rel_mlp")(grid, train)}
        made_for = self.table_grid or grid
        self._check_table(made_for)
        shape = (self.num_heads, *table_shape(made_for))
        return {"table": resize_table(self.param("relative_bias", init, shape, jnp.float32), grid)}

    def _check_table(self, grid: Grid) -> None:
        if not self.has_variable("params", "relative_bias"):
            return
        known = grid_of(self.get_variable("params", "relative_bias"))
        if known != grid:
            raise UserError(
                f"{'/'.join(self.path)}/relative_bias is for maps of {known[0]}x{known[1]}, the images make "
                f"maps of {grid[0]}x{grid[1]}: set model.overrides.table_image_size to the size of images "
                "the weights are for, or transfer the weights (offsites import --image-size)"
            )


_INPUTS = ("query", "key", "value")


def _attend(inputs: tuple[Heads, Heads, Heads], biases: Biases, *, heads_at_once: int) -> Heads:
    # A table is spread out here, on each device: what devices sum is then a gradient of its small size.
    pairs = pair_biases(biases["table"]) if "table" in biases else biases.get("pairs")
    return attend(*inputs, None if pairs is None else pairs[None], heads_at_once=heads_at_once)
