"""Models side by side: arrays with a leading axis of members, split like a batch, each model on one device.

A member is computed as a model alone would be, and sees no mesh: its batch norms take the statistics of its
own batch, its contrastive losses their negatives there, and nothing of it crosses to another device.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float

from offsites_jax.parallel.mesh import BATCH_AXES

Tree = Any
Value = TypeVar("Value")


def each_member(
    function: Callable[[Tree, Tree], Tree], common: Tree, members: Tree, at_a_time: int = 0
) -> Tree:
    """`function(common, member)` of every member, on the device that holds it.

    Args:
      function: of one member, whose arrays have no axis of members. Gradients are best taken inside of it.
      common: arrays that are the same for all members; every device holds them whole.
      members: a tree of arrays with a leading axis of members, as many for each device.
      at_a_time: how many of its members a device takes at once; 0 for all. At once they run as one program
        with wider operators, in turn they need the memory of one. A device with one member does neither.

    Returns:
      What `function` returned, with a leading axis of members, split like them.

    """
    mesh = jax.sharding.get_abstract_mesh()
    on_one_device = functools.partial(_members_of_a_device, function, at_a_time=at_a_time)
    if not set(BATCH_AXES) <= set(mesh.axis_names):
        return on_one_device(common, members)
    split, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
    mapped = jax.shard_map(on_one_device, in_specs=(whole, split), out_specs=split, check_vma=False)
    return mapped(common, members)


def _members_of_a_device(
    function: Callable[[Tree, Tree], Tree], common: Tree, members: Tree, *, at_a_time: int
) -> Tree:
    one = functools.partial(function, common)
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
        if len(jax.tree.leaves(members)[0]) == 1:
            found = one(jax.tree.map(lambda leaf: leaf[0], members))
            return jax.tree.map(lambda leaf: leaf[None], found)
        if not at_a_time:
            return jax.vmap(one)(members)
        # In batches of 1 convolutions would have groups, which nothing computes as fast as plain ones.
        return jax.lax.map(one, members, batch_size=None if at_a_time == 1 else at_a_time)


@jax.custom_vjp
def with_gradient(value: Float[Array, ""], params: Tree, gradient: Tree) -> Float[Array, ""]:
    """`value`, with a gradient with respect to `params` that is known already.

    For members, whose gradients come out of `each_member`: differentiated through a loop over members, all
    that their forward passes made would have to be kept, or made again.
    """
    del params, gradient
    return value


def _forward(value: Array, params: Tree, gradient: Tree) -> tuple[Array, Tree]:
    del params
    return value, gradient


def _backward(gradient: Tree, cotangent: Array) -> tuple[None, Tree, None]:
    return None, jax.tree.map(lambda leaf: (cotangent * leaf).astype(leaf.dtype), gradient), None


with_gradient.defvjp(_forward, _backward)
