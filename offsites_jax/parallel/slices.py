"""Gradient reduction over several slices that crosses the data-center network once, with shards only.

Inside a slice chips talk over fast links (ICI); slices talk over the data-center network (DCN). Each slice
takes the gradient of its own rows, reduce-scattered over its chips; the shards are summed across slices; and
each slice gathers what it needs. Every chip sends 1 / (chips of a slice) of the gradient over DCN, in few
messages: hundreds of small ones would mostly wait.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from offsites_jax.parallel.mesh import constrain, platform_of

AXIS = "slices"
WITHIN = ("fsdp", "data")
MESSAGE_BYTES = 2**24  # of one chip; larger ones gain nothing, and later ones can leave before all are ready

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
        return cross(gradients, placed, mesh, dtype), other

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


def cross(gradients: Tree, placed: Tree, mesh: Mesh, dtype: str) -> Tree:
    """Gradients summed over slices: scattered inside each slice first, so that shards cross.

    Each is asked for where its parameter lives before it is scattered. Asked only for a scattered gradient,
    the compiler splits the computation of the gradient by its elements instead of the batch, and moves
    activations between chips.
    """
    leaves, structure = jax.tree.flatten(gradients)
    specs = [where.spec for where in jax.tree.leaves(placed)]
    rows = [to_rows(constrain(leaf, spec), mesh) for leaf, spec in zip(leaves, specs, strict=True)]
    summed: list[Array] = []
    for message in messages([row.size * row.dtype.itemsize // row.shape[0] for row in rows]):
        summed += _sum_over_slices([rows[index] for index in message], mesh, dtype)
    back = [from_rows(row, leaf.shape, mesh) for row, leaf in zip(summed, leaves, strict=True)]
    return jax.tree.unflatten(structure, back)


def to_rows(leaf: Array, mesh: Mesh) -> Array:
    """An array as [chips of a slice, part], each chip holding its row; zeros fill the last."""
    chips = _chips(mesh)
    axis = divisible_axis(leaf.shape, chips)
    if axis is None:
        flat = jnp.pad(leaf.reshape(-1), (0, -leaf.size % chips))
        return constrain(flat.reshape(chips, -1), PartitionSpec(WITHIN))
    scattered = constrain(leaf, _split(axis, leaf.ndim))
    return jnp.moveaxis(scattered, axis, 0).reshape(chips, -1)


def from_rows(rows: Array, shape: tuple[int, ...], mesh: Mesh) -> Array:
    """What `to_rows` was given, of this shape."""
    axis = divisible_axis(shape, _chips(mesh))
    if axis is None:
        return constrain(rows, PartitionSpec()).reshape(-1)[: math.prod(shape)].reshape(shape)
    moved = rows.reshape(shape[axis], *(size for i, size in enumerate(shape) if i != axis))
    return constrain(jnp.moveaxis(moved, 0, axis), _split(axis, len(shape)))


def divisible_axis(shape: tuple[int, ...], chips: int) -> int | None:
    """The largest dimension that divides over the chips, the last of equals; None where none does."""
    fitting = [i for i, size in enumerate(shape) if size and size % chips == 0]
    return max(fitting, key=lambda i: (shape[i], i), default=None)


def messages(sizes: Sequence[int]) -> list[list[int]]:
    """Neighbours that travel together, by index: at most `MESSAGE_BYTES`, unless one alone has more."""
    found: list[list[int]] = []
    held = 0
    for index, size in enumerate(sizes):
        if not found or held + size > MESSAGE_BYTES:
            found.append([])
            held = 0
        found[-1].append(index)
        held += size
    return found


def _sum_over_slices(rows: Sequence[Array], mesh: Mesh, dtype: str) -> list[Array]:
    together = jnp.concatenate(rows, axis=1)
    message = constrain(together, PartitionSpec(WITHIN)).astype(dtype)
    if platform_of(mesh) == "cpu":
        message = message.astype(together.dtype)  # XLA:CPU aborts on a bfloat16 sum here; rounded already
    summed = jax.lax.psum(message, AXIS).astype(together.dtype)
    ends = list(itertools.accumulate(row.shape[1] for row in rows))
    return jnp.split(constrain(summed, PartitionSpec(WITHIN)), ends[:-1], axis=1)


def _split(axis: int, rank: int) -> PartitionSpec:
    return PartitionSpec(*(WITHIN if i == axis else None for i in range(rank)))


def _chips(mesh: Mesh) -> int:
    """Of one slice, over which a batch is split."""
    return math.prod(mesh.shape[axis] for axis in WITHIN)


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
