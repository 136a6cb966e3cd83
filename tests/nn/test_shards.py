"""Functions of one device's part of a batch against the same on the whole batch."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.nn.relative_attention import RelativeAttention
from offsites_jax.nn.shards import free_batch_axes, manual_batch_axes, on_each_shard

AXES = ("slices", "data", "fsdp", "tensor")
MESHES = [(1, 8, 1, 1), (2, 2, 1, 2), (1, 2, 4, 1)]
WHOLE = PartitionSpec()


def make_mesh(shape):
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 4)


def turns(x, factors):
    """Multiply by each factor in turn, in a loop as heads of attention are."""
    return jnp.moveaxis(jax.lax.map(lambda factor: jnp.sin(x * factor), factors), 0, 1)


def loss(factors, x):
    return jnp.sum(jnp.square(on_each_shard(turns, x, factors)))


def plain_loss(factors, x):
    return jnp.sum(jnp.square(turns(x, factors)))


def all_reduces(function, mesh, shared, x):
    """Shapes that an all-reduce of the compiled program sums, over all of them."""
    split, whole = NamedSharding(mesh, PartitionSpec(AXES[:3])), NamedSharding(mesh, WHOLE)
    with jax.set_mesh(mesh):
        text = jax.jit(function, in_shardings=(whole, split)).lower(shared, x).compile().as_text()
    found = re.findall(r"= (.*) all-reduce(?:-start)?\(", text)
    return [shape for result in found for shape in re.findall(r"\w+\[([\d,]*)\]", result)]


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("batch", [16, 13])
def test_values_and_gradients_are_those_of_the_whole_batch(shape, batch):
    x = jax.random.normal(jax.random.key(0), (batch, 3))
    factors = jax.random.normal(jax.random.key(1), (5, 3))
    expected = jax.value_and_grad(plain_loss, (0, 1))(factors, x)
    with jax.set_mesh(make_mesh(shape)):
        found = jax.jit(jax.value_and_grad(loss, (0, 1)))(factors, x)
    chex.assert_trees_all_close(found, expected, rtol=1e-5)


def test_what_a_loop_shares_is_summed_over_devices_once():
    x, factors = jnp.ones((16, 3)), jnp.ones((5, 3))
    mesh = make_mesh(MESHES[0])
    assert all_reduces(jax.grad(plain_loss), mesh, factors, x) == ["3"], "in every turn of the loop"
    assert all_reduces(jax.grad(loss), mesh, factors, x) == ["5,3"]


def test_axes_are_free_until_a_shard_map_takes_them():
    seen = []

    def look(x):
        seen.append((free_batch_axes(), manual_batch_axes()))
        return x

    look(0)
    with jax.set_mesh(make_mesh(MESHES[1])):
        jax.jit(look)(0)
        taken = jax.shard_map(look, in_specs=WHOLE, out_specs=WHOLE, axis_names={"slices"})
        jax.jit(taken)(0)
    assert seen == [((), ()), (AXES[:3], ()), (("data", "fsdp"), ("slices",))]


def test_gradients_taken_within_a_shard_map_are_of_its_part():
    x = jax.random.normal(jax.random.key(0), (16, 3))
    factors = jax.random.normal(jax.random.key(1), (5, 3))

    def outer(factors, x):
        return jax.lax.psum(jax.value_and_grad(loss)(factors, x), "slices")

    with jax.set_mesh(make_mesh(MESHES[1])):
        mapped = jax.shard_map(
            outer,
            in_specs=(WHOLE, PartitionSpec("slices")),
            out_specs=WHOLE,
            axis_names={"slices"},
            check_vma=False,
        )
        found = jax.jit(mapped)(factors, x)
    chex.assert_trees_all_close(found, jax.value_and_grad(plain_loss)(factors, x), rtol=1e-5)


@pytest.mark.parametrize("relative", ["table", "mlp", "none"])
def test_attention_sums_gradients_of_tables_and_not_of_pairs(relative):
    layer = RelativeAttention(width=16, num_heads=4, head_size=4, relative=relative, mlp_width=8)
    x = jax.random.normal(jax.random.key(0), (8, 4, 5, 12))
    variables = layer.init(jax.random.key(1), x)

    def loss(variables, x):
        return jnp.sum(jnp.square(layer.apply(variables, x)))

    mesh = make_mesh(MESHES[0])
    shapes = all_reduces(jax.grad(loss), mesh, variables, x)
    assert max(np.prod([int(n) for n in shape.split(",") if n]) for shape in shapes) < 4 * 20 * 20
    with jax.set_mesh(mesh):
        found = jax.jit(jax.value_and_grad(loss))(variables, x)
    expected = jax.jit(jax.value_and_grad(loss))(variables, x)
    chex.assert_trees_all_close(found, expected, rtol=2e-5, atol=2e-5)
