"""The two kinds of block CoAtNet is made of (Dai et al. 2021, arXiv 2106.04803, section 3).

What the paper leaves open follows its authors' later code, google-research/maxvit; the other choices are
those of the networks that huggingface/pytorch-image-models (timm) trained.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, get_args, get_type_hints

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from offsites_jax.errors import UserError
from offsites_jax.nn.depthwise import DepthwiseConv
from offsites_jax.nn.drop import stochastic_depth
from offsites_jax.nn.mbconv import SqueezeExcite
from offsites_jax.nn.norm import BatchNorm, BatchNormSettings
from offsites_jax.nn.pooling import Padding, PoolType, conv_padding, halve
from offsites_jax.nn.relative_attention import Relative, RelativeAttention, init
from offsites_jax.nn.relative_tables import Grid

Activation = Literal["gelu_tanh", "gelu", "silu", "relu"]
Norm = Literal["batch", "layer"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "gelu": functools.partial(nn.gelu, approximate=False),
    "silu": nn.silu,
    "relu": nn.relu,
}


@dataclasses.dataclass(frozen=True)
class ConvBlockSettings:
    """How the convolutional blocks are built.

    Attributes:
        downsample: where the first block of a stage strides: in its 1x1 expansion (``"conv1x1"``, eq. 5), in
            its depthwise convolution (``"dw"``, the paper's strided DConv), or by a 2x2 mean before both.
        norm: batch norm or layer norm, in all three places.
        activation: after the expansion and the depthwise convolution, and in the stem.
        expand_ratio: expanded channels per channel that ``expand_from`` names.
        expand_from: ``"output"`` or ``"input"`` width of the block.
        se_ratio: channels of the gate's bottleneck per output channel; with ``expand_from="input"``, per
            expanded channel.
        se_activation: inside the gate.
        se_early: put the gate before the depthwise norm instead of after its activation.
        pre_norm_activation: also activate after the first norm.
        output_bias: whether the shortcut's and the last 1x1 convolution have biases.

    """

    downsample: Literal["conv1x1", "dw", "pool"] = "conv1x1"
    norm: Norm = "batch"
    activation: Activation = "gelu_tanh"
    expand_ratio: float = 4.0
    expand_from: Literal["output", "input"] = "output"
    se_ratio: float = 0.25
    se_activation: Activation = "silu"
    se_early: bool = False
    pre_norm_activation: bool = False
    output_bias: bool = True

    def __post_init__(self) -> None:
        check_choices("model.conv", self)


@dataclasses.dataclass(frozen=True)
class AttentionSettings:
    """How the transformer blocks are built.

    Attributes:
        relative: biases by relative position: a ``"table"`` in each layer, an ``"mlp"``, or ``"none"``.
        head_size: channels of a head.
        widen: whether a block that changes the width does so in ``"inputs"`` (query, key and value) or in the
            ``"output"`` projection.
        norm: layer norm or batch norm.
        activation: inside the feed-forward part.
        expand_ratio: its hidden units per channel.
        shortcut_bias: whether the shortcut's 1x1 convolution has biases.
        layer_scale: initial value of a factor per channel on both branches; 0 for no such factor.
        mlp_width: hidden units of the MLP that makes tables.
        heads_at_once: on TPU, how many heads attend at a time, so that their products stay on the chip; 0 for
            all, as is best where heads are split over the mesh. Changes no value.

    """

    relative: Relative = "table"
    head_size: int = 32
    widen: Literal["inputs", "output"] = "inputs"
    norm: Norm = "layer"
    activation: Activation = "gelu_tanh"
    expand_ratio: float = 4.0
    shortcut_bias: bool = True
    layer_scale: float = 0.0
    mlp_width: int = 512
    heads_at_once: int = 2

    def __post_init__(self) -> None:
        check_choices("model.attention", self)


def check_choices(where: str, settings: Any) -> None:
    """Raises UserError if a field that is a choice has a value it does not offer."""
    for name, hint in get_type_hints(type(settings)).items():
        choices, value = get_args(hint), getattr(settings, name)
        if choices and isinstance(choices[0], str) and value not in choices:
            raise UserError(f"{where}.{name} is {value!r}: choose one of {', '.join(choices)}")


@dataclasses.dataclass(frozen=True)
class Common:
    """What all parts of a network share.

    Attributes:
        norm: of batch norms.
        layer_norm_epsilon: of layer norms, and of batch norms in their place in transformer blocks.
        padding: of the 3x3 windows.
        pool_type: of the pooling that halves a map.
        dtype: type to compute in.

    """

    norm: BatchNormSettings = BatchNormSettings(momentum=0.99)
    layer_norm_epsilon: float = 1e-5
    padding: Padding = "same"
    pool_type: PoolType = "max2"
    dtype: DTypeLike = jnp.float32


class Block(nn.Module):
    """What both kinds of block have in common.

    Attributes:
        width: output channels.
        downsample: whether to halve the map.
        drop_rate: probability that an example skips a branch of this block while training.
        common: what all blocks share.

    """

    width: int
    downsample: bool = False
    drop_rate: float = 0.0
    common: Common = Common()

    def shortcut(self, x: Array, use_bias: bool) -> Array:
        """The input, pooled and projected as far as the output differs from it."""
        if self.downsample:
            x = halve(x, self.common.pool_type, self.common.padding)
        return x if x.shape[-1] == self.width else self.project("shortcut_proj", self.width, use_bias)(x)

    def project(self, name: str, width: int, use_bias: bool, stride: int = 1) -> nn.Conv:
        """A 1x1 convolution."""
        return nn.Conv(
            width,
            (1, 1),
            (stride,) * 2,
            use_bias=use_bias,
            kernel_init=init,
            dtype=self.common.dtype,
            name=name,
        )

    def drop(self, branch: Array, train: bool, rate: Array | None) -> Array:
        """The branch, dropped for some of the examples by the rng ``dropout``."""
        if not train or (rate is None and not self.drop_rate):
            return branch
        return stochastic_depth(
            branch,
            self.make_rng("dropout"),
            self.drop_rate if rate is None else rate,  # type: ignore[arg-type]
        )


class ConvBlock(Block):
    """MBConv with its norm in front: 1x1 expansion, depthwise 3x3, gate, 1x1 projection without norm.

    Attributes:
        settings: how it is built.

    """

    settings: ConvBlockSettings = ConvBlockSettings()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool, rate: Array | None = None
    ) -> Float[Array, "batch out_height out_width {self.width}"]:
        """Apply the block; ``rate`` replaces the ``drop_rate`` where blocks are scanned over."""
        settings, common = self.settings, self.common
        activate = ACTIVATIONS[settings.activation]
        strides = {settings.downsample: 2 if self.downsample else 1}
        base = self.width if settings.expand_from == "output" else x.shape[-1]
        expanded = int(settings.expand_ratio * base)

        branch = self._norm("pre_norm", x, train)
        if settings.pre_norm_activation:
            branch = activate(branch)
        if strides.get("pool") == 2:
            branch = halve(branch, "avg2")
        branch = self.project("expand_conv", expanded, False, strides.get("conv1x1", 1))(branch)
        branch = activate(self._norm("expand_norm", branch, train))
        branch = DepthwiseConv(
            (3, 3),
            (strides.get("dw", 1),) * 2,
            conv_padding(common.padding, 3),
            kernel_init=init,
            dtype=common.dtype,
            name="depthwise_conv",
        )(branch)
        gated = self.width if settings.expand_from == "output" else expanded
        gate = SqueezeExcite(
            int(settings.se_ratio * gated),
            common.dtype,
            ACTIVATIONS[settings.se_activation],
            kernel_init=init,
            name="se",
        )
        if settings.se_early:
            branch = activate(self._norm("depthwise_norm", gate(branch), train))
        else:
            branch = gate(activate(self._norm("depthwise_norm", branch, train)))
        branch = self.project("shrink_conv", self.width, settings.output_bias)(branch)
        return self.shortcut(x, settings.output_bias) + self.drop(branch, train, rate)

    def _norm(self, name: str, x: Array, train: bool) -> Array:
        return normalise(name, x, train, self.settings.norm, self.common, self.common.norm)


class AttentionBlock(Block):
    """Relative attention and a feed-forward part, each on a branch with its norm in front.

    Attributes:
        settings: how it is built.
        table_grid: size of the maps that tables are for; ``None`` for those met at initialisation.

    """

    settings: AttentionSettings = AttentionSettings()
    table_grid: Grid | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool, rate: Array | None = None
    ) -> Float[Array, "batch out_height out_width {self.width}"]:
        """Apply the block; ``rate`` replaces the ``drop_rate`` where blocks are scanned over."""
        settings, common = self.settings, self.common
        branch = self._norm("attn_norm", x, train)
        if self.downsample:
            branch = halve(branch, common.pool_type, common.padding)
        inner = self.width if settings.widen == "inputs" else x.shape[-1]
        branch = RelativeAttention(
            width=self.width,
            num_heads=inner // settings.head_size,
            head_size=settings.head_size,
            relative=settings.relative,
            mlp_width=settings.mlp_width,
            table_grid=self.table_grid,
            heads_at_once=settings.heads_at_once,
            dtype=common.dtype,
            name="attn",
        )(branch, train)
        branch = self._scale("attn_scale", branch)
        x = self.shortcut(x, settings.shortcut_bias) + self.drop(branch, train, rate)

        branch = FeedForward(settings.expand_ratio, settings.activation, common.dtype, name="ffn")(
            self._norm("ffn_norm", x, train)
        )
        return x + self.drop(self._scale("ffn_scale", branch), train, rate)

    def _norm(self, name: str, x: Array, train: bool) -> Array:
        return normalise(name, x, train, self.settings.norm, self.common)

    def _scale(self, name: str, branch: Array) -> Array:
        if not self.settings.layer_scale:
            return branch
        start = nn.initializers.constant(self.settings.layer_scale)
        return branch * self.param(name, start, (self.width,), jnp.float32).astype(branch.dtype)


class FeedForward(nn.Module):
    """Two dense layers over channels, ``expand`` and ``shrink``."""

    expand_ratio: float
    activation: Activation
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "*rest channels"]) -> Float[Array, "*rest channels"]:
        """Transform each pixel by itself."""
        dense = functools.partial(nn.Dense, kernel_init=init, dtype=self.dtype)
        hidden = dense(int(self.expand_ratio * x.shape[-1]), name="expand")(x)
        return dense(x.shape[-1], name="shrink")(ACTIVATIONS[self.activation](hidden))


def normalise(
    name: str,
    x: Array,
    train: bool,
    kind: Norm,
    common: Common,
    batch_norm: BatchNormSettings | None = None,
) -> Array:
    """Normalise over channels (layer norm) or over the batch; call inside a compact method.

    Args:
        name: of the norm in the tree.
        x: features, channels last.
        train: whether batch norms take the statistics of the batch.
        kind: which norm.
        common: epsilons and the type of the result.
        batch_norm: its settings, where they are not the common ones with the epsilon of layer norms.

    """
    if kind == "layer":
        layer = nn.LayerNorm(common.layer_norm_epsilon, dtype=common.dtype, name=name)
        return layer(x)
    settings = batch_norm or dataclasses.replace(common.norm, epsilon=common.layer_norm_epsilon)
    return BatchNorm(settings, common.dtype, name=name)(x, not train)
