"""Depthwise convolution against a plain numpy loop and the grouped convolution."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

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


def test_equals_the_grouped_convolution_of_other_backends_in_value_and_gradient():
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], (2, 9, 8, 4)), jax.random.normal(keys[1], (3, 3, 1, 4))
    pads = [(1, 1), (2, 0)]
    weights = jax.random.normal(keys[2], (2, 5, 4, 4))

    def grouped(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (2, 2),
            pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )

    def outcome(convolve):
        y, pull = jax.vjp(convolve, x, kernel)
        return y, pull(weights)

    chex.assert_trees_all_close(
        outcome(lambda x, kernel: depthwise_conv(x, kernel, (2, 2), pads)),
        outcome(grouped),
        rtol=1e-5,
        atol=1e-5,
    )


def test_other_backends_get_one_grouped_convolution():
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 8, 8, 4), (3, 3, 1, 4))]
    traced = jax.jit(lambda x, kernel: depthwise_conv(x, kernel, (1, 1))).trace(*shapes)
    on_tpu = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert on_tpu.count("stablehlo.convolution") == 1
    assert "multiply" not in on_tpu
    on_cpu = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.convolution" not in on_cpu


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
