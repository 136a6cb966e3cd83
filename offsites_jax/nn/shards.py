"""What code inside a model can know of the mesh: over which axes devices share a batch."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, PartitionSpec

from offsites_jax.nn.varying import equally_varying

BATCH_AXES = ("slices", "data", "fsdp")
"""Mesh axes over which a batch is split, outermost first."""

Batched = TypeVar("Batched")
Result = TypeVar("Result")


def free_batch_axes() -> tuple[str, ...]:
    """Batch axes of the current mesh over which ``jit`` splits an array; none where no mesh is current."""
    return _batch_axes(manual=False)


def manual_batch_axes() -> tuple[str, ...]:
    """Batch axes an enclosing ``shard_map`` has already taken: there, an array is one shard."""
    return _batch_axes(manual=True)


def num_shards(axes: tuple[str, ...]) -> int:
    """Number of devices along some axes of the current mesh."""
    return math.prod(jax.sharding.get_abstract_mesh().shape[axis] for axis in axes)


def on_each_shard(function: Callable[[Batched, Any], Result], batched: Batched, shared: Any) -> Result:
    """Calls a function on the part of a batch that each device holds.

    Results are those of ``function(batched, shared)``, which must treat each example alike. Gradients of
    ``shared`` are summed over devices once, after all the function did; ``jit`` by itself would sum where
    they arise, which in a loop is once in every turn. A batch that does not divide over the devices is left
    to ``jit``.

    Args:
        function: what to call.
        batched: a tree of arrays, all with a leading axis of examples.
        shared: a tree of arrays that every device has whole.

    """
    axes = free_batch_axes()
    shards = num_shards(axes)
    if shards == 1 or any(len(x) % shards for x in jax.tree.leaves(batched)):
        return function(batched, shared)

    def on_one_shard(batched: Batched, shared: Any) -> Result:
        return function(*equally_varying((batched, shared)))

    split, whole = PartitionSpec(axes), PartitionSpec()
    mapped = jax.shard_map(on_one_shard, in_specs=(split, whole), out_specs=split, axis_names=set(axes))
    return mapped(batched, shared)


def _batch_axes(*, manual: bool) -> tuple[str, ...]:
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    known = (axis for axis in BATCH_AXES if axis in kinds)
    return tuple(axis for axis in known if (kinds[axis] == AxisType.Manual) == manual)
