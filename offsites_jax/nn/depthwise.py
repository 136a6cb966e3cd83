"""Depthwise convolution that is quick on every backend."""

import functools
import itertools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Padding = str | Sequence[tuple[int, int]]


def depthwise_conv(
    x: Float[Array, "batch *space channels"],
    kernel: Float[Array, "*window 1 channels"],
    strides: Sequence[int],
    padding: Padding = "SAME",
) -> Float[Array, "batch *out_space channels"]:
    """Convolve every channel with its own window, over any number of spatial axes.

    TPU and GPU get a grouped convolution. XLA has no fast kernel for one on the CPU; there the
    same sum is written as one product per tap of the window, which fuses into a single loop.

    Args:
        x: input, channels last.
        kernel: one window per channel, in the layout of a grouped convolution.
        strides: step along each spatial axis.
        padding: ``"SAME"`` (as TensorFlow: the odd row goes after), ``"VALID"``, or explicit
            (before, after) amounts per spatial axis.

    """
    window = kernel.shape[:-2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], window, strides, padding)

    def grouped(x: Array, kernel: Array) -> Array:
        letters = "DHW"[3 - len(window) :]
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
            feature_group_count=x.shape[-1],
        )

    def by_taps(x: Array, kernel: Array) -> Array:
        return _sum_of_taps(x, kernel, tuple(strides), tuple(padding))

    return lax.platform_dependent(x, kernel, cpu=by_taps, default=grouped)


@functools.partial(jax.jit, static_argnums=(2, 3))  # traced once for all layers of a shape
def _sum_of_taps(
    x: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> Array:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0))).astype(wide)
    taps = kernel.astype(wide)
    window = kernel.shape[:-2]
    lengths = [
        (size - width) // step + 1
        for size, width, step in zip(padded.shape[1:-1], window, strides, strict=True)
    ]
    total = jnp.zeros((), wide)
    for offset in itertools.product(*map(range, window)):
        seen = [
            slice(start, start + (length - 1) * step + 1, step)
            for start, length, step in zip(offset, lengths, strides, strict=True)
        ]
        total = total + padded[:, *seen] * taps[(*offset, 0)]
    return total.astype(x.dtype)


def depthwise_init(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Normal with variance 2 / window: a depthwise kernel has one output per input (fan-out 1)."""
    return math.sqrt(2 / math.prod(shape[:-2])) * jax.random.normal(key, shape, dtype)


class DepthwiseConv(nn.Module):
    """Depthwise convolution with parameters ``kernel`` [*window, 1, channels] and maybe ``bias``.

    Attributes:
        window: size of the kernel along each spatial axis.
        strides: step along each spatial axis; ``None`` is 1 everywhere.
        padding: as in `depthwise_conv`.
        use_bias: whether to add a bias per channel.
        dtype: type to compute in; parameters are float32.

    """

    window: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    padding: Padding = "SAME"
    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = depthwise_init
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch *space channels"]) -> Float[Array, "batch *out_space channels"]:
        """Convolve each channel of ``x`` with its own window."""
        width = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (*self.window, 1, width), jnp.float32)
        strides = self.strides or (1,) * len(self.window)
        y = depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), strides, self.padding)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
            y = y + bias.astype(self.dtype)
        return y
