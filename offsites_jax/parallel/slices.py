"""Gradient reduction over several slices that crosses the data-center network once, with shards only.

Inside a slice chips talk over fast links (ICI); slices talk over the data-center network (DCN). Each slice
takes the gradient of its own rows, reduce-scattered over its chips; the shards are summed across slices; and
each slice gathers what it needs. Every chip sends 1 / (chips of a slice) of the gradient over DCN.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from offsites_jax.parallel.mesh import constrain, platform_of

AXIS = "slices"
WITHIN = ("fsdp", "data")

Tree = Any


def by_slice(
    function: Callable[..., tuple[Tree, Tree]],
    mesh: Mesh,
    num_split: int,
    placed: Tree,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Callable[..., tuple[Tree, Tree]]:
    """Runs `function(*args) -> (gradients, other)` on each slice's rows and sums the gradients over slices.

    Args:
      function: called inside a `shard_map` over the axis "slices" only; the other axes stay automatic. What
        it returns beside the gradients must be equal on all slices already (`total` and `mean` make it so).
      mesh: with an axis "slices".
      num_split: how many of the leading arguments are trees split by rows; the rest are the same everywhere.
      placed: a tree like the gradients, with the sharding of each one's parameter.
      dtype: of the gradients while they cross slices. bfloat16 halves the traffic and rounds each
        slice's share to 8 bits of mantissa.
    """

    def on_slice(*args: Tree) -> tuple[Tree, Tree]:
        gradients, other = function(*args)
        summed = jax.tree.map(lambda leaf, where: cross(leaf, where.spec, mesh, dtype), gradients, placed)
        return summed, other

    def run(*args: Tree) -> tuple[Tree, Tree]:
        split = (PartitionSpec(AXIS),) * num_split
        whole = (PartitionSpec(),) * (len(args) - num_split)
        mapped = jax.shard_map(
            on_slice,
            mesh=mesh,
            in_specs=(*split, *whole),
            out_specs=(PartitionSpec(), PartitionSpec()),
            axis_names={AXIS},
            check_vma=False,
        )
        return mapped(*args)

    return run


def cross(gradient: Array, placed: PartitionSpec, mesh: Mesh, dtype: str) -> Array:
    """One gradient summed over slices: scattered inside each slice first, so that shards cross.

    It is asked for where its parameter lives before it is scattered. Asked only for a scattered gradient, the
    compiler splits the computation of the gradient by its elements instead of the batch, and moves
    activations between chips.
    """
    spec = scattered(gradient.shape, mesh)
    shard = constrain(constrain(gradient, placed), spec).astype(dtype)
    if platform_of(mesh) == "cpu":
        shard = shard.astype(gradient.dtype)  # XLA:CPU aborts on a bfloat16 sum here; rounded already
    return constrain(jax.lax.psum(shard, AXIS).astype(gradient.dtype), spec)


def scattered(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Splits the largest dimension that divides over all data and fsdp chips of a slice, or over fewer."""
    for axes in (WITHIN, WITHIN[:1], WITHIN[1:]):
        parts = 1
        for axis in axes:
            parts *= mesh.shape[axis]
        fitting = [i for i, size in enumerate(shape) if parts > 1 and size % parts == 0]
        if fitting:
            best = max(fitting, key=lambda i: (shape[i], i))
            return PartitionSpec(*(axes if i == best else None for i in range(len(shape))))
    return PartitionSpec()


def total(tree: Tree) -> Tree:
    """Sum over slices, inside `by_slice`."""
    return jax.tree.map(lambda leaf: jax.lax.psum(leaf, AXIS), tree)


def mean(tree: Tree) -> Tree:
    """Mean over slices of floating leaves, inside `by_slice`; others are the same on all slices already."""

    def average(leaf: Array) -> Array:
        return jax.lax.pmean(leaf, AXIS) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(average, tree)


def own_stream(rng: Array) -> Array:
    """A random key of this slice's own, inside `by_slice`."""
    return jax.random.fold_in(rng, jax.lax.axis_index(AXIS))
