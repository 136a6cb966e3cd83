"""Depthwise convolution against a plain numpy loop and the grouped convolution."""

import functools
import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from offsites_jax.nn.depthwise import DepthwiseConv, depthwise_conv, depthwise_init


def tensorflow_same(size, window, stride):
    """Output size, and padding before and after, as TensorFlow documents SAME."""
    out = -(-size // stride)
    total = max((out - 1) * stride + window - size, 0)
    return out, (total // 2, total - total // 2)


def by_loops(x, kernel, stride):
    window = kernel.shape[0]
    (rows, pad_rows), (columns, pad_columns) = (
        tensorflow_same(size, window, stride) for size in x.shape[1:3]
    )
    padded = np.pad(x, ((0, 0), pad_rows, pad_columns, (0, 0)))
    y = np.zeros((x.shape[0], rows, columns, x.shape[3]))
    for row, column in itertools.product(range(rows), range(columns)):
        top, left = row * stride, column * stride
        seen = padded[:, top : top + window, left : left + window]
        y[:, row, column] = (seen * kernel[..., 0, :]).sum((1, 2))
    return y


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("size", [(8, 7), (5, 10)])
def test_same_padding_is_tensorflows(size, window, stride):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, *size, 3)), rng.standard_normal((window, window, 1, 3))
    y = depthwise_conv(jnp.float32(x), jnp.float32(kernel), (stride, stride))
    np.testing.assert_allclose(y, by_loops(x, kernel, stride), rtol=1e-5, atol=1e-5)


def grouped(x, kernel, strides, pads):
    letters = "DHW"[5 - kernel.ndim :]
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        pads,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=x.shape[-1],
    )


def outcome(convolve, x, kernel):
    """Output, and the gradients of a sum with random weights."""
    y, pull = jax.vjp(convolve, x, kernel)
    return y, pull(jax.random.normal(jax.random.key(7), y.shape, y.dtype))


@pytest.mark.parametrize(
    ("shape", "window", "strides", "pads"),
    [
        ((2, 9, 8, 4), (3, 3), (2, 2), [(1, 1), (2, 0)]),
        ((2, 6, 34, 3), (5, 3), (1, 1), "SAME"),  # lines longer than a run of the sum
        ((2, 9, 9, 3), (3, 3), (3, 2), "VALID"),  # the last row and column take no part
        ((2, 8, 8, 3), (2, 2), (3, 3), [(3, 0), (0, 4)]),  # windows that see nothing but padding
        ((2, 12, 3), (5,), (1,), "SAME"),
        ((2, 5, 6, 6, 3), (3, 3, 3), (2, 2, 1), "SAME"),
    ],
)
def test_equals_the_grouped_convolution_of_other_backends_in_value_and_gradient(shape, window, strides, pads):
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = jax.random.normal(jax.random.key(1), (*window, 1, shape[-1]))
    chex.assert_trees_all_close(
        outcome(lambda x, kernel: depthwise_conv(x, kernel, strides, pads), x, kernel),
        outcome(lambda x, kernel: grouped(x, kernel, strides, pads), x, kernel),
        rtol=1e-5,
        atol=2e-5,
    )


def test_gradients_of_shards_add_up_to_those_of_the_batch():
    x = jax.random.normal(jax.random.key(0), (8, 6, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 3))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def loss(x, kernel):
        return jnp.square(depthwise_conv(x, kernel, (2, 2))).sum()

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec("data"), PartitionSpec()),
        out_specs=(PartitionSpec("data"), PartitionSpec()),
    )
    def on_shards(x, kernel):
        return jax.grad(lambda x, kernel: lax.psum(loss(x, kernel), "data"), (0, 1))(x, kernel)

    chex.assert_trees_all_close(on_shards(x, kernel), jax.grad(loss, (0, 1))(x, kernel), rtol=1e-4, atol=1e-4)


def test_bfloat16_is_summed_in_float32():
    x, kernel = jnp.ones((16, 32, 32, 1), jnp.bfloat16), jnp.ones((3, 3, 1, 1), jnp.bfloat16)
    y, pull = jax.vjp(lambda x, kernel: depthwise_conv(x, kernel, (1, 1)), x, kernel)
    to_x, to_kernel = pull(jnp.ones_like(y))
    assert to_x.dtype == to_kernel.dtype == jnp.bfloat16
    assert float(to_kernel[1, 1, 0, 0]) == 16 * 32 * 32  # a bfloat16 sum of ones ends at 256


def test_nothing_but_the_inputs_is_kept_for_the_gradient():
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 1, 4))
    _, pull = jax.vjp(lambda x, kernel: depthwise_conv(x, kernel, (1, 1)), x, kernel)
    assert sorted(kept.shape for kept in jax.tree.leaves(pull)) == [(2, 8, 8, 4), (3, 3, 1, 4)]


def test_other_backends_get_one_grouped_convolution():
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 8, 8, 4), (3, 3, 1, 4))]
    traced = jax.jit(lambda x, kernel: depthwise_conv(x, kernel, (1, 1))).trace(*shapes)
    on_tpu = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert on_tpu.count("stablehlo.convolution") == 1
    assert "multiply" not in on_tpu
    on_cpu = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.convolution" not in on_cpu


def test_other_backends_get_the_gradients_of_a_grouped_convolution():
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 8, 8, 4), (3, 3, 1, 4))]

    def convolutions(convolve):
        def loss(x, kernel):
            return jnp.square(convolve(x, kernel)).sum()

        lowered = jax.jit(jax.grad(loss, (0, 1))).trace(*shapes).lower(lowering_platforms=("tpu",))
        return sorted(re.findall(r"stablehlo.convolution.*(?= loc|$)", lowered.as_text(), re.MULTILINE))

    mine = convolutions(lambda x, kernel: depthwise_conv(x, kernel, (2, 2), [(0, 1), (0, 1)]))
    plain = convolutions(lambda x, kernel: grouped(x, kernel, (2, 2), [(0, 1), (0, 1)]))
    strip = functools.partial(re.sub, r"%\w+", "%")
    assert {strip(c) for c in mine} == {strip(c) for c in plain}
    assert len(plain) == 3


def test_one_spatial_axis_with_bias():
    layer = DepthwiseConv((5,), padding="VALID", use_bias=True)
    x = jax.random.normal(jax.random.key(0), (1, 12, 2))
    params = {
        "kernel": jax.random.normal(jax.random.key(1), (5, 1, 2)),
        "bias": jnp.array([1.0, -2.0]),
    }
    y = layer.apply({"params": params}, x)
    for channel in range(2):
        expected = np.correlate(x[0, :, channel], params["kernel"][:, 0, channel], "valid")
        np.testing.assert_allclose(y[0, :, channel], expected + params["bias"][channel], rtol=1e-5)


def test_initial_values_have_variance_two_over_window():
    kernel = depthwise_init(jax.random.key(0), (5, 5, 1, 2000))
    assert abs(float(kernel.std()) - np.sqrt(2 / 25)) < 0.002
    assert float(jnp.abs(kernel).max()) > 4 * np.sqrt(2 / 25)  # not truncated
