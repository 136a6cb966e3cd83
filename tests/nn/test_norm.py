"""Batch norm against flax, numpy, and itself on other meshes."""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.errors import UserError
from offsites_jax.nn.norm import BatchNorm, BatchNormSettings

MESHES = [(8, 1), (4, 2)]
SHAPE = (32, 3, 5, 6)


def make_mesh(shape):
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def inputs():
    x = 2 * jax.random.normal(jax.random.key(0), SHAPE) + jnp.arange(6.0)
    weights = jax.random.normal(jax.random.key(1), SHAPE)
    variables = {
        "params": {"scale": jnp.linspace(0.5, 2, 6), "bias": jnp.linspace(-1, 1, 6)},
        "batch_stats": {"mean": jnp.linspace(0, 1, 6), "var": jnp.linspace(1, 3, 6)},
    }
    return variables, x, weights


def train_outputs(norm):
    """Make a function of (variables, x, weights) that gives output, new statistics, gradients."""

    def loss(params, x, stats, weights):
        y, new = norm.apply({"params": params, **stats}, x, False, mutable="batch_stats")
        return jnp.sum(y * weights), (y, new["batch_stats"])

    def run(variables, x, weights):
        stats = {"batch_stats": variables["batch_stats"]}
        (_, aux), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(
            variables["params"], x, stats, weights
        )
        return aux, grads

    return run


def on_mesh(shape, function, variables, x, weights):
    mesh = make_mesh(shape)
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    whole = NamedSharding(mesh, PartitionSpec())
    with jax.set_mesh(mesh):
        return jax.jit(function, in_shardings=(whole, split, split))(variables, x, weights)


def collectives(function, mesh, variables, x):
    """Lines of the compiled program that talk to other devices."""
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    whole = NamedSharding(mesh, PartitionSpec())
    with jax.set_mesh(mesh):
        jitted = jax.jit(function, in_shardings=(whole, split))
        text = jitted.lower(variables, x).compile().as_text()
    names = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    return re.findall(rf"= .* (?:{names})(?:-start)?\(.*", text)


@pytest.mark.parametrize("train", [True, False])
def test_global_is_flax_batch_norm(train):
    variables, x, weights = inputs()
    ours = BatchNorm(BatchNormSettings(momentum=0.8, epsilon=1e-4))
    flax_norm = nn.BatchNorm(momentum=0.8, epsilon=1e-4)
    assert jax.tree.structure(ours.init(jax.random.key(0), x, True)) == jax.tree.structure(
        flax_norm.init(jax.random.key(0), x, True)
    )
    if train:
        expected = train_outputs(flax_norm)(variables, x, weights)
        chex.assert_trees_all_close(
            train_outputs(ours)(variables, x, weights), expected, rtol=2e-5, atol=2e-5
        )
    else:
        chex.assert_trees_all_close(
            ours.apply(variables, x, True), flax_norm.apply(variables, x, True), rtol=1e-6
        )


@pytest.mark.parametrize("shape", MESHES)
def test_global_does_not_depend_on_the_mesh(shape):
    variables, x, weights = inputs()
    run = train_outputs(BatchNorm())
    expected = jax.jit(run)(variables, x, weights)
    chex.assert_trees_all_close(on_mesh(shape, run, variables, x, weights), expected, rtol=2e-5, atol=2e-5)


def test_group_normalises_each_group_by_itself():
    variables, x, _ = inputs()
    settings = BatchNormSettings(momentum=0.8, epsilon=1e-4, statistics="group", group_size=8)
    y, new = BatchNorm(settings).apply(variables, x, False, mutable="batch_stats")
    params, stats = jax.tree.map(np.float64, (variables["params"], variables["batch_stats"]))
    groups = np.float64(x).reshape(4, -1, 6)
    mean, var = groups.mean(1), groups.var(1)
    expected = (groups - mean[:, None]) / np.sqrt(var[:, None] + 1e-4)
    expected = (expected * params["scale"] + params["bias"]).reshape(SHAPE)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for name, moment in (("mean", mean), ("var", var)):
        np.testing.assert_allclose(
            new["batch_stats"][name], 0.8 * stats[name] + 0.2 * moment.mean(0), rtol=1e-5
        )


@pytest.mark.parametrize("shape", MESHES)
def test_device_equals_group_of_what_a_device_holds(shape):
    variables, x, weights = inputs()
    group = train_outputs(BatchNorm(BatchNormSettings(statistics="group", group_size=4)))
    device = train_outputs(BatchNorm(BatchNormSettings(statistics="device")))
    expected = jax.jit(group)(variables, x, weights)
    close = {"rtol": 2e-5, "atol": 2e-5}
    chex.assert_trees_all_close(on_mesh(shape, device, variables, x, weights), expected, **close)
    chex.assert_trees_all_close(on_mesh(shape, group, variables, x, weights), expected, **close)


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("statistics", ["global", "group", "device"])
def test_local_statistics_need_no_collectives(shape, statistics):
    variables, x, _ = inputs()
    mesh = make_mesh(shape)
    norm = BatchNorm(BatchNormSettings(statistics=statistics, group_size=4))

    def forward(variables, x):
        return norm.apply(variables, x, False, mutable="batch_stats")

    def normalised(variables, x):
        return forward(variables, x)[0]

    def gradient(variables, x):
        return jax.grad(lambda x: jnp.sum(normalised(variables, x) ** 3))(x)

    if statistics == "global":  # shows that the search below would find a collective
        assert collectives(normalised, mesh, variables, x)
        assert collectives(gradient, mesh, variables, x)
        return
    assert not collectives(normalised, mesh, variables, x)
    assert not collectives(gradient, mesh, variables, x)
    (running,) = collectives(forward, mesh, variables, x)
    assert "all-reduce" in running
    assert "f32[2,6]" in running


def test_device_without_a_mesh_is_global():
    variables, x, weights = inputs()
    device = train_outputs(BatchNorm(BatchNormSettings(statistics="device")))
    chex.assert_trees_all_close(
        device(variables, x, weights), train_outputs(BatchNorm())(variables, x, weights), rtol=1e-6
    )


@pytest.mark.parametrize("axes", [("data",), ("data", "fsdp")])
@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (BatchNormSettings(), BatchNormSettings()),
        (
            BatchNormSettings(statistics="device"),
            BatchNormSettings(statistics="group", group_size=4),
        ),
        (
            BatchNormSettings(statistics="group", group_size=2),
            BatchNormSettings(statistics="group", group_size=2),
        ),
    ],
)
def test_inside_a_shard_map_over_batch_axes(axes, inside, outside):
    variables, x, _ = inputs()
    split = PartitionSpec(axes)

    def apply(settings, variables, x):
        return BatchNorm(settings).apply(variables, x, False, mutable="batch_stats")

    with jax.set_mesh(make_mesh((4, 2))):
        mapped = jax.shard_map(
            lambda variables, x: apply(inside, variables, x),
            in_specs=(PartitionSpec(), split),
            out_specs=(split, PartitionSpec()),
            axis_names=set(axes),
        )
        found = jax.jit(mapped)(variables, x)
    chex.assert_trees_all_close(found, apply(outside, variables, x), rtol=1e-5, atol=1e-5)


def test_bfloat16_input_has_float32_statistics():
    variables, x, _ = inputs()
    x = (x + 5).astype(jnp.bfloat16)
    norm = BatchNorm(BatchNormSettings(momentum=0))
    y, new = norm.apply(variables, x, False, mutable="batch_stats")
    assert y.dtype == jnp.bfloat16
    exact = np.float64(x)
    stats = new["batch_stats"]
    assert stats["mean"].dtype == stats["var"].dtype == jnp.float32
    np.testing.assert_allclose(stats["mean"], exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(stats["var"], exact.var((0, 1, 2)), rtol=1e-4)


def test_initialises_on_any_number_of_examples():
    settings = BatchNormSettings(statistics="group", group_size=8)
    variables = BatchNorm(settings).init(jax.random.key(0), jnp.ones((1, 4)), False)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(4))


def test_a_batch_that_does_not_divide_is_the_users_error():
    variables, x, _ = inputs()
    grouped = BatchNorm(BatchNormSettings(statistics="group", group_size=5))
    with pytest.raises(UserError, match=r"batch of 32 .* norm.group_size=5.* multiple of 5"):
        grouped.apply(variables, x, False, mutable="batch_stats")
    local = BatchNorm(BatchNormSettings(statistics="device"))
    with (
        jax.set_mesh(make_mesh((8, 1))),
        pytest.raises(UserError, match=r"batch of 12 .* 8 devices .* multiple of 8"),
    ):
        local.apply(variables, x[:12], False, mutable="batch_stats")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"statistics": "local"}, "norm.statistics is 'local': choose one of global, group"),
        ({"statistics": "group"}, "norm.group_size is 0"),
        ({"momentum": 1.0}, "norm.momentum is 1.0"),
        ({"epsilon": 0.0}, "norm.epsilon is 0.0"),
    ],
)
def test_settings_out_of_range_are_the_users_error(setting, message):
    with pytest.raises(UserError, match=re.escape(message)):
        BatchNormSettings(**setting)


def test_frozen_statistics_normalise_training_and_stay():
    norm = BatchNorm(BatchNormSettings(statistics="frozen"))
    x = jax.random.normal(jax.random.key(0), (8, 4, 3)) * 3 + 1
    variables = norm.init(jax.random.key(1), x, use_running_average=False)
    kept = {"mean": jnp.asarray([0.5, -1.0, 2.0]), "var": jnp.asarray([1.0, 4.0, 0.25])}
    y, changed = norm.apply(
        {**variables, "batch_stats": kept}, x, use_running_average=False, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(y, (x - kept["mean"]) / np.sqrt(kept["var"] + 1e-3), rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_equal(changed["batch_stats"], kept)
