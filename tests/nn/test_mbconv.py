"""Inverted bottlenecks: trees, the gate and the padding by hand, residuals and drops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.nn.mbconv import ConvNormAct, FusedMBConv, MBConv, SqueezeExcite, conv_init
from offsites_jax.nn.norm import BatchNormSettings

IMAGES = (2, 6, 6, 8)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def shapes_of(block, input_shape):
    variables = jax.eval_shape(lambda x: block.init(jax.random.key(0), x, False), jnp.zeros(input_shape))
    return {
        "/".join(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
        if path[-1].key == "kernel"
    }


def test_mbconv_tree():
    block = MBConv(width=12, kernel_size=5, expand_ratio=6, se_ratio=0.25)
    assert shapes_of(block, IMAGES) == {
        "expand_conv/kernel": (1, 1, 8, 48),
        "depthwise_conv/kernel": (5, 5, 1, 48),
        "se/reduce/kernel": (1, 1, 48, 2),  # a quarter of the input's width, not of the expanded
        "se/expand/kernel": (1, 1, 2, 48),
        "project_conv/kernel": (1, 1, 48, 12),
    }
    assert set(shapes_of(MBConv(width=12, expand_ratio=1), IMAGES)) == {
        "depthwise_conv/kernel",
        "project_conv/kernel",
    }


def test_fused_mbconv_tree():
    assert shapes_of(FusedMBConv(width=12), IMAGES) == {
        "expand_conv/kernel": (3, 3, 8, 32),
        "project_conv/kernel": (1, 1, 32, 12),
    }
    assert shapes_of(FusedMBConv(width=12, expand_ratio=1), IMAGES) == {"project_conv/kernel": (3, 3, 8, 12)}


def test_squeeze_excite_by_hand():
    x = jax.random.normal(jax.random.key(0), IMAGES)
    layer = SqueezeExcite(reduced_width=3)
    params = layer.init(jax.random.key(1), x)["params"]
    params["reduce"]["bias"] = jnp.array([0.5, -0.5, 1.0])
    params["expand"]["bias"] = jnp.linspace(-1, 1, 8)
    pooled = np.float64(x).mean((1, 2))
    hidden = pooled @ np.float64(params["reduce"]["kernel"][0, 0]) + params["reduce"]["bias"]
    hidden = hidden * sigmoid(hidden)
    gate = hidden @ np.float64(params["expand"]["kernel"][0, 0]) + params["expand"]["bias"]
    expected = np.float64(x) * sigmoid(gate)[:, None, None]
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("size", "before"), [(6, 0), (7, 1)])
def test_strided_convolution_pads_as_tensorflow(size, before):
    # With all weights 1 an output counts the pixels its window sees: SAME puts the odd row after.
    layer = ConvNormAct(width=1, kernel_size=3, stride=2, norm=BatchNormSettings(epsilon=1e-9))
    x = jnp.ones((1, size, size, 1))
    variables = layer.init(jax.random.key(0), x, False)
    variables["params"]["conv"]["kernel"] = jnp.ones((3, 3, 1, 1))
    seen = [sum(0 <= 2 * out - before + tap < size for tap in range(3)) for out in range(-(-size // 2))]
    counts = np.outer(seen, seen).astype(float)
    y = layer.apply(variables, x, False)[0, ..., 0]
    np.testing.assert_allclose(y, counts * sigmoid(counts), rtol=1e-6)


def test_projection_is_linear_and_a_single_fused_convolution_is_activated():
    x = jax.random.normal(jax.random.key(0), IMAGES)
    lowest_silu = -0.2785
    for block, is_activated in (
        (MBConv(width=12), False),
        (FusedMBConv(width=12), False),
        (FusedMBConv(width=12, expand_ratio=1), True),
    ):
        y, _ = jax.jit(block.init_with_output, static_argnums=2)(jax.random.key(1), x, True)
        assert (float(y.min()) > lowest_silu) == is_activated


@pytest.mark.parametrize("kind", [MBConv, FusedMBConv])
def test_input_is_added_only_where_shapes_are_equal(kind):
    x = jax.random.normal(jax.random.key(0), IMAGES)
    for width, stride, is_residual in ((8, 1, True), (12, 1, False), (8, 2, False)):
        block = kind(width=width, stride=stride)
        variables = jax.jit(block.init, static_argnums=2)(jax.random.key(1), x, False)
        norm = variables["params"]["project_bn"]
        norm["scale"] = jnp.zeros_like(norm["scale"])  # the branch is 0
        y = block.apply(variables, x, False)
        expected = x if is_residual else jnp.zeros_like(y)
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("kind", [MBConv, FusedMBConv])
def test_branch_is_dropped_by_example_in_training_only(kind):
    x = jax.random.normal(jax.random.key(0), (64, 4, 4, 8))
    plain, dropping = kind(width=8), kind(width=8, drop_rate=0.5)
    variables = jax.jit(plain.init, static_argnums=2)(jax.random.key(1), x, False)
    np.testing.assert_array_equal(dropping.apply(variables, x, False), plain.apply(variables, x, False))

    whole, _ = plain.apply(variables, x, True, mutable="batch_stats")
    y, _ = dropping.apply(variables, x, True, mutable="batch_stats", rngs={"dropout": jax.random.key(2)})
    kept = np.any(np.asarray(y != x), (1, 2, 3))
    assert 16 < kept.sum() < 48
    np.testing.assert_allclose(y[kept], (x + 2 * (whole - x))[kept], rtol=1e-4, atol=1e-4)


def test_convolutions_start_with_variance_two_over_fan_out():
    kernel = conv_init(jax.random.key(0), (3, 3, 64, 128), jnp.float32)
    deviation = np.sqrt(2 / (9 * 128))
    assert abs(float(kernel.std()) / deviation - 1) < 0.02
    assert float(jnp.abs(kernel).max()) > 4 * deviation  # not truncated
