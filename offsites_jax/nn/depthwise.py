"""Depthwise convolution that is quick on every backend."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from offsites_jax.nn.varying import equally_varying

Padding = str | Sequence[tuple[int, int]]
Sizes = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]

_LONGEST_RUN = 16


def depthwise_conv(
    x: Float[Array, "batch *space channels"],
    kernel: Float[Array, "*window 1 channels"],
    strides: Sequence[int],
    padding: Padding = "SAME",
) -> Float[Array, "batch *out_space channels"]:
    """Convolve every channel with its own window, over any number of spatial axes.

    TPU and GPU get a grouped convolution. XLA has no fast kernel for one on the CPU; there the
    same sum is written as one product per tap of the window, which fuses into a single loop, and so
    are both gradients. Reverse differentiation only, once; it keeps nothing but ``x`` and ``kernel``.

    Args:
        x: input, channels last.
        kernel: one window per channel, in the layout of a grouped convolution.
        strides: step along each spatial axis.
        padding: ``"SAME"`` (as TensorFlow: the odd row goes after), ``"VALID"``, or explicit
            (before, after) amounts per spatial axis.

    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], kernel.shape[:-2], strides, padding)
    return _convolve(*equally_varying((x, kernel)), tuple(strides), tuple(map(tuple, padding)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, strides: Sizes, padding: Pads) -> Array:
    def by_taps(x: Array, kernel: Array) -> Array:
        return _sum_of_taps(x, kernel, strides, padding)

    def grouped(x: Array, kernel: Array) -> Array:
        return _grouped(x, kernel, strides, padding)

    return lax.platform_dependent(x, kernel, cpu=by_taps, default=grouped)


def _keep_inputs(x: Array, kernel: Array, strides: Sizes, padding: Pads) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, strides, padding), (x, kernel)


def _gradients(
    strides: Sizes, padding: Pads, inputs: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    def by_taps(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        return (
            _input_gradient(x, kernel, gradient, strides, padding),
            _kernel_gradient(x, kernel, gradient, strides, padding),
        )

    def grouped(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        _, pull = jax.vjp(lambda x, kernel: _grouped(x, kernel, strides, padding), x, kernel)
        return pull(gradient)

    return lax.platform_dependent(*inputs, gradient, cpu=by_taps, default=grouped)


_convolve.defvjp(_keep_inputs, _gradients)


def _grouped(x: Array, kernel: Array, strides: Sizes, padding: Pads) -> Array:
    letters = "DHW"[5 - kernel.ndim :]
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=x.shape[-1],
    )


# Each of the following is traced once for all layers of a shape.
@functools.partial(jax.jit, static_argnums=(2, 3))
def _sum_of_taps(x: Array, kernel: Array, strides: Sizes, padding: Pads) -> Array:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0))).astype(wide)
    taps = kernel.astype(wide)
    total = jnp.zeros((), wide)
    for offset, seen in _seen_by_taps(padded, kernel.shape[:-2], strides):
        total = total + seen * taps[(*offset, 0)]
    return total.astype(x.dtype)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _input_gradient(x: Array, kernel: Array, gradient: Array, strides: Sizes, padding: Pads) -> Array:
    """The gradients of outputs, spread as far apart as their windows, convolved with the window reversed."""
    edges = [(0, 0, 0)]
    for size, width, step, (before, _), count in zip(
        x.shape[1:-1], kernel.shape[:-2], strides, padding, gradient.shape[1:-1], strict=True
    ):
        first, span = width - 1 - before, (count - 1) * step + 1
        edges.append((first, size + width - 1 - span - first, step - 1))
    spread = lax.pad(gradient, jnp.zeros((), gradient.dtype), [*edges, (0, 0, 0)])
    reversed_kernel = jnp.flip(kernel, range(kernel.ndim - 2))
    return _sum_of_taps(spread, reversed_kernel, (1,) * len(strides), ((0, 0),) * len(strides))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _kernel_gradient(x: Array, kernel: Array, gradient: Array, strides: Sizes, padding: Pads) -> Array:
    """Sums of products, first over short runs along the last spatial axis, then over all else.

    XLA unrolls a short run, works on many channels at once, and reads the gradient once for all taps
    of a line of the window.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0))).astype(wide)
    gradient = gradient.astype(wide)
    *outer, length, channels = gradient.shape
    run = max(size for size in range(1, _LONGEST_RUN + 1) if length % size == 0)
    products = tuple(
        (seen * gradient).reshape(*outer, length // run, run, channels)
        for _, seen in _seen_by_taps(padded, kernel.shape[:-2], strides)
    )
    line = kernel.shape[-3]
    zeros = (jnp.zeros((), wide),) * line
    sums: list[Array] = []
    for first in range(0, len(products), line):
        sums += lax.reduce(products[first : first + line], zeros, _add_each, (x.ndim - 1,))
    by_tap = jnp.stack([total.sum(range(x.ndim - 1)) for total in sums])
    return by_tap.reshape(kernel.shape).astype(kernel.dtype)


def _add_each(totals: tuple[Array, ...], more: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(map(lax.add, totals, more))


def _seen_by_taps(padded: Array, window: Sizes, strides: Sizes) -> Iterator[tuple[Sizes, Array]]:
    """Each place in the window, and what it meets of the padded input: an array as large as the output."""
    lengths = [
        (size - width) // step + 1
        for size, width, step in zip(padded.shape[1:-1], window, strides, strict=True)
    ]
    for offset in itertools.product(*map(range, window)):
        seen = [
            slice(start, start + (length - 1) * step + 1, step)
            for start, length, step in zip(offset, lengths, strides, strict=True)
        ]
        yield offset, padded[:, *seen]


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
