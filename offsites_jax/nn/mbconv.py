"""Mobile inverted bottlenecks: MBConv, Fused-MBConv and squeeze-and-excite.

As in EfficientNetV2 (Tan & Le 2021, arXiv 2104.00298, figure 2) and the released google/automl:
SiLU, TensorFlow SAME padding, no convolution bias in front of a batch norm. Submodules bear the
names of their role, so that the trees of all EfficientNets read alike.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from offsites_jax.nn.depthwise import DepthwiseConv
from offsites_jax.nn.drop import stochastic_depth
from offsites_jax.nn.norm import BatchNorm, BatchNormSettings

conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Normal with variance 2 / (kernel height * width * output channels), not truncated."""


class ConvNormAct(nn.Module):
    """Convolution without bias (``conv``), batch norm (``bn``), SiLU: the stem and head of a net.

    Attributes:
        width: output channels.
        kernel_size: side of the window.
        stride: along height and width.
        norm: of the batch norm.
        dtype: type to compute in; parameters are float32.

    """

    width: int
    kernel_size: int
    stride: int = 1
    norm: BatchNormSettings = BatchNormSettings()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch out_height out_width {self.width}"]:
        """Convolve, normalise and activate."""
        x = _conv("conv", self.width, self.kernel_size, self.stride, dtype=self.dtype)(x)
        return nn.silu(BatchNorm(self.norm, self.dtype, name="bn")(x, not train))


class SqueezeExcite(nn.Module):
    """Scale channels by a gate computed from their means (Hu et al. 2018, arXiv 1709.01507).

    Attributes:
        reduced_width: channels between the two 1x1 convolutions ``reduce`` and ``expand``.
        dtype: type to compute in; the mean over space is taken in float32.
        activation: between the convolutions.
        kernel_init: of both.

    """

    reduced_width: int
    dtype: DTypeLike = jnp.float32
    activation: Callable[[Array], Array] = nn.silu
    kernel_init: nn.initializers.Initializer = conv_init

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Return ``x`` times its gate, which is in (0, 1)."""
        gate = x.mean((1, 2), keepdims=True, dtype=jnp.float32)
        conv = functools.partial(nn.Conv, kernel_size=(1, 1), kernel_init=self.kernel_init, dtype=self.dtype)
        gate = self.activation(conv(self.reduced_width, name="reduce")(gate))
        gate = conv(x.shape[-1], name="expand")(gate)
        return x * nn.sigmoid(gate)


class InvertedBottleneck(nn.Module):
    """What `MBConv` and `FusedMBConv` have in common.

    Attributes:
        width: output channels.
        kernel_size: side of the window of the one spatial convolution.
        stride: of the spatial convolution.
        expand_ratio: expanded channels per input channel; 1 leaves the expansion out.
        se_ratio: channels of the gate's bottleneck per *input* channel; 0 leaves the gate out.
        drop_rate: probability that an example skips this block while training.
        norm: of all batch norms.
        dtype: type to compute in; parameters are float32.

    """

    width: int
    kernel_size: int = 3
    stride: int = 1
    expand_ratio: int = 4
    se_ratio: float = 0.0
    drop_rate: float = 0.0
    norm: BatchNormSettings = BatchNormSettings()
    dtype: DTypeLike = jnp.float32


class MBConv(InvertedBottleneck):
    """1x1 expansion, depthwise convolution, squeeze-and-excite, linear 1x1 projection.

    The input is added where it has the shape of the output.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch out_height out_width {self.width}"]:
        """Apply the block; training with a ``drop_rate`` draws from the rng ``dropout``."""
        expanded_width = x.shape[-1] * self.expand_ratio
        branch = x
        if self.expand_ratio != 1:
            branch = _conv("expand_conv", expanded_width, 1, dtype=self.dtype)(branch)
            branch = nn.silu(_norm(self, "expand_bn")(branch, not train))
        window, strides = (self.kernel_size,) * 2, (self.stride,) * 2
        branch = DepthwiseConv(window, strides, dtype=self.dtype, name="depthwise_conv")(branch)
        branch = nn.silu(_norm(self, "depthwise_bn")(branch, not train))
        branch = _gate(self, branch, x.shape[-1])
        branch = _conv("project_conv", self.width, 1, dtype=self.dtype)(branch)
        branch = _norm(self, "project_bn")(branch, not train)
        return _join(self, x, branch, train)


class FusedMBConv(InvertedBottleneck):
    """One full convolution in place of MBConv's expansion and depthwise pair.

    With ``expand_ratio`` 1 that convolution, activated, is the whole branch; otherwise the 1x1
    projection after it stays linear.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch out_height out_width {self.width}"]:
        """Apply the block; training with a ``drop_rate`` draws from the rng ``dropout``."""
        expanded_width = x.shape[-1] * self.expand_ratio
        spatial = (self.kernel_size, self.stride)
        if self.expand_ratio == 1:
            branch = _gate(self, x, x.shape[-1])
            branch = _conv("project_conv", self.width, *spatial, dtype=self.dtype)(branch)
            branch = nn.silu(_norm(self, "project_bn")(branch, not train))
        else:
            branch = _conv("expand_conv", expanded_width, *spatial, dtype=self.dtype)(x)
            branch = nn.silu(_norm(self, "expand_bn")(branch, not train))
            branch = _gate(self, branch, x.shape[-1])
            branch = _conv("project_conv", self.width, 1, dtype=self.dtype)(branch)
            branch = _norm(self, "project_bn")(branch, not train)
        return _join(self, x, branch, train)


def _conv(
    name: str,
    width: int,
    kernel_size: int,
    stride: int = 1,
    *,
    dtype: DTypeLike,
) -> nn.Conv:
    return nn.Conv(
        width,
        (kernel_size,) * 2,
        (stride,) * 2,
        "SAME",
        use_bias=False,
        kernel_init=conv_init,
        dtype=dtype,
        name=name,
    )


def _norm(block: InvertedBottleneck, name: str) -> BatchNorm:
    return BatchNorm(block.norm, block.dtype, name=name)


def _gate(block: InvertedBottleneck, x: Array, input_width: int) -> Array:
    if not block.se_ratio:
        return x
    return SqueezeExcite(max(1, int(block.se_ratio * input_width)), block.dtype, name="se")(x)


def _join(block: InvertedBottleneck, shortcut: Array, branch: Array, train: bool) -> Array:
    """Add the shortcut where shapes allow; only then may the branch be dropped."""
    if block.stride != 1 or shortcut.shape[-1] != block.width:
        return branch
    if train and block.drop_rate:
        branch = stochastic_depth(branch, block.make_rng("dropout"), block.drop_rate)
    return shortcut + branch
