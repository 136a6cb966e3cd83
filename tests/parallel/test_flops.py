"""FLOP counts against closed forms, and the peaks of chips by name."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from offsites_jax.parallel.flops import count_flops, peak_flops
from offsites_jax.parallel.mesh import MeshSettings, create_mesh

N, LAYERS = 16, 6
PRODUCT = 2 * N**3


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_products_with_batch_and_several_contracted_dimensions():
    def attention(q, k):
        return jnp.einsum("bqhd,bkhd->bhqk", q, k)

    assert count_flops(attention, array(2, 5, 3, 4), array(2, 7, 3, 4)) == 2 * 2 * 3 * 5 * 7 * 4
    assert count_flops(jnp.tensordot, array(3, 4, 5), array(4, 5, 6)) == 2 * 3 * 4 * 5 * 6


def convolve(stride, padding, groups, dilation=1):
    def function(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
        )  # fmt: skip

    return function


@pytest.mark.parametrize(
    ("size", "out", "taps", "stride", "padding", "groups", "dilation"),
    [
        (8, 8, 3, 1, "SAME", 1, 1),
        (8, 4, 3, 2, "SAME", 1, 1),
        (8, 6, 3, 1, "VALID", 1, 1),
        (8, 2, 4, 4, "VALID", 1, 1),  # patches
        (8, 8, 3, 1, "SAME", 4, 1),
        (8, 4, 5, 2, "SAME", 8, 1),  # depthwise
        (8, 8, 3, 1, "SAME", 1, 2),
    ],
)
def test_convolution_and_both_its_gradients_cost_the_same(size, out, taps, stride, padding, groups, dilation):
    conv = convolve(stride, padding, groups, dilation)
    x, kernel = array(2, size, size, 8), array(taps, taps, 8 // groups, 16)
    forward = 2 * (2 * out * out * 16) * (taps * taps * 8 // groups)
    assert count_flops(conv, x, kernel) == forward

    def loss(x, kernel):
        return conv(x, kernel).sum()

    assert count_flops(jax.grad(loss, 1), x, kernel) == 2 * forward
    assert count_flops(jax.grad(loss, (0, 1)), x, kernel) == 3 * forward


def test_transposed_convolution_counts_no_inserted_zeros():
    def upsample(x, kernel):
        return lax.conv_transpose(x, kernel, (2, 2), "SAME")

    flops = count_flops(upsample, array(1, 4, 4, 3), array(4, 4, 3, 5))
    assert flops == 2 * (4 * 4) * (4 * 4) * 3 * 5


def stack(remat):
    layer = lambda x, w: jnp.tanh(x @ w)  # noqa: E731
    layer = jax.checkpoint(layer, prevent_cse=False) if remat else layer

    def loss(weights, x):
        x, _ = lax.scan(lambda x, w: (layer(x, w), None), x, weights)
        return (x**2).sum()

    return loss


def test_scanned_layers_count_each_pass():
    weights, x = array(LAYERS, N, N), array(N, N)
    assert count_flops(stack(remat=False), weights, x) == LAYERS * PRODUCT
    assert count_flops(jax.grad(stack(remat=False)), weights, x) == 3 * LAYERS * PRODUCT
    assert count_flops(jax.grad(stack(remat=True)), weights, x) == 4 * LAYERS * PRODUCT


def test_unrolled_layers_save_the_gradient_of_the_first_input():
    def loss(weights, x):
        for w in weights:
            x = jnp.tanh(x @ w)
        return x.sum()

    weights, x = [array(N, N)] * LAYERS, array(N, N)
    assert count_flops(jax.grad(loss), weights, x) == (3 * LAYERS - 1) * PRODUCT


def test_loops_and_branches():
    def function(x):
        x = lax.fori_loop(0, 5, lambda _, x: x @ x, x)  # static bounds: 5
        x = lax.while_loop(lambda x: x[0, 0] < 3, lambda x: x @ x, x)  # unknown: 1
        x = lax.switch(1, [lambda x: x, lambda x: x @ x @ x, lambda x: x @ x], x)  # dearest: 2
        return lax.cond(x[0, 0] > 0, lambda x: x, lambda x: x @ x, x)  # dearest: 1

    traced_index = lambda i, x: lax.switch(i, [lambda x: x, lambda x: x @ x @ x], x)  # noqa: E731
    assert count_flops(function, array(N, N)) == 9 * PRODUCT
    index = jax.ShapeDtypeStruct((), jnp.int32)
    assert count_flops(traced_index, index, array(N, N)) == 2 * PRODUCT


def test_where_platforms_differ_the_default_counts():
    def function(x):
        return lax.platform_dependent(x, tpu=lambda x: x @ x @ x @ x, default=lambda x: x @ x)

    assert count_flops(function, array(N, N)) == PRODUCT
    assert count_flops(jax.grad(lambda x: jnp.sum(function(x))), array(N, N)) == 3 * PRODUCT


def test_nested_functions_are_entered():
    @jax.custom_vjp
    def product(x, w):
        return x @ w

    product.defvjp(lambda x, w: (x @ w, (x, w)), lambda res, g: (g @ res[1].T, res[0].T @ g))
    inner = jax.jit(jax.vmap(product, in_axes=(0, None)))
    assert count_flops(inner, array(3, N, N), array(N, N)) == 3 * PRODUCT
    gradient = jax.grad(lambda x, w: product(x, w).sum(), (0, 1))
    assert count_flops(gradient, array(N, N), array(N, N)) == 3 * PRODUCT


def test_shard_map_counts_all_devices():
    mesh = create_mesh(MeshSettings(fsdp=2, tensor=2))
    split = jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=(P("data"), P()),
                          out_specs=P("data"), axis_names={"data"})  # fmt: skip
    assert count_flops(split, array(N, N), array(N, N)) == PRODUCT
    # Copies that every device computes for itself are work done.
    copied = jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=P(), out_specs=P())
    assert count_flops(copied, array(N, N), array(N, N)) == 8 * PRODUCT


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v2", 22.5e12),  # two devices a chip
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU7x", 1153.5e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None),
        ("Tesla T4", None),
        ("cpu", None),
    ],
)
def test_peaks_by_device_kind(kind, peak):
    assert peak_flops(kind) == peak
