"""CoAtNet (Dai et al. 2021, arXiv 2106.04803): stages of convolution, then of relative attention.

Stages count from 1, as in the paper, where S0 is the stem. Details the paper is silent about are those of
google-research/maxvit; see `coatnet_variants` for the networks by name.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import traverse_util
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from offsites_jax.errors import UserError
from offsites_jax.models.coatnet_blocks import (
    ACTIVATIONS,
    AttentionBlock,
    AttentionSettings,
    Block,
    Common,
    ConvBlock,
    ConvBlockSettings,
    Norm,
    check_choices,
    normalise,
)
from offsites_jax.models.coatnet_stages import BlockSpec, group_equal, list_blocks, parse_stages
from offsites_jax.models.registry import Variant
from offsites_jax.models.stacked import stacked_name
from offsites_jax.nn.drop import linear_drop_rate
from offsites_jax.nn.norm import BatchNormSettings
from offsites_jax.nn.pooling import Padding, PoolType, conv_padding
from offsites_jax.nn.relative_attention import init
from offsites_jax.nn.relative_tables import Grid, Resize, resize_table


class CoAtNet(nn.Module):
    """Stem, stages, head and classifier. Parameters: ``stem``, ``stage_{1…}/block_{0…}``, ``head``.

    Attributes:
        stages: in the text form of `coatnet_stages`.
        layout: kinds of the stages instead of those in the text: ``"cccc"``, ``"ccct"``, ``"cctt"``,
            ``"cttt"``; empty to leave them.
        stem_widths: channels of the two 3x3 convolutions of the stem.
        stem_bias: whether they have biases.
        patch_size: if not 0, the stem is one convolution over patches of this side, and no stage halves the
            map: with transformer blocks only, the paper's ViT_rel.
        conv: how convolutional blocks are built.
        attention: how transformer blocks are built.
        norm: settings of all batch norms.
        layer_norm_epsilon: of layer norms, and of batch norms in their place.
        padding: ``"same"`` as TensorFlow, or ``"symmetric"`` as PyTorch; differs at even sizes.
        pool_type: of the first blocks of stages: ``"max2"``, ``"avg2"``, ``"max3"`` or ``"avg3"``.
        head_hidden: a dense layer with tanh in front of the classifier, as wide as the features.
        norm_features: normalise the last features before their mean instead of after.
        num_classes: outputs of the classifier; 0 for none.
        dropout_rate: dropout in front of the classifier.
        stochastic_depth_rate: drop rates grow in a line from 0 at the first block towards this.
        table_image_size: height and width of the images that relative biases are for; on images of another
            size they are resized within the network. Empty: the size met at initialisation, and no other.
        scan: run neighbours with equal parameters as a loop over one compiled block; `stacked` converts.
        remat: keep only the input of each block for the gradient and compute the rest again.
        dtype: type to compute in; parameters, statistics, pooled features and logits are float32.

    """

    stages: tuple[str, ...]
    layout: str = ""
    stem_widths: tuple[int, ...] = (64, 64)
    stem_bias: bool = False
    patch_size: int = 0
    conv: ConvBlockSettings = ConvBlockSettings()
    attention: AttentionSettings = AttentionSettings()
    norm: BatchNormSettings = BatchNormSettings(momentum=0.99)
    layer_norm_epsilon: float = 1e-5
    padding: Padding = "same"
    pool_type: PoolType = "max2"
    head_hidden: bool = True
    norm_features: bool = False
    num_classes: int = 1000
    dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    table_image_size: tuple[int, ...] = ()
    scan: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        # A mistake in a configuration shows here, before the first batch does.
        parse_stages(self.stages, self.layout)
        check_choices("model", self.common)
        _check_sizes(self)
        super().__post_init__()

    @property
    def common(self) -> Common:
        """What all blocks share."""
        return Common(self.norm, self.layer_norm_epsilon, self.padding, self.pool_type, self.dtype)

    @property
    def blocks(self) -> tuple[BlockSpec, ...]:
        """All blocks in order of execution."""
        stages = parse_stages(self.stages, self.layout)
        return list_blocks(stages, self.stem_widths[-1], downsample=not self.patch_size)

    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch classes"]:
        """Return logits; without a classifier, the pooled features.

        Args:
            images: normalised pixels, of any number of channels.
            train: use the statistics of the batch (updating ``batch_stats``), and drop out; that draws from
                the rng ``dropout``.

        Raises:
            UserError: if the images are no batch, or of another size than the relative biases.

        """
        found = self.endpoints(images, train=train)
        return found["logits" if self.num_classes else "pooled"]

    @nn.compact
    def endpoints(
        self, images: Float[Array, "batch height width channels"], *, train: bool
    ) -> dict[str, Array]:
        """Return what detectors and embedders want; call by ``apply(..., method="endpoints")``.

        Returns:
            ``reduction_1``: output of the stem, ``reduction_2`` …: outputs of the stages [batch, size / 2^k,
            size / 2^k, channels] (of ViT_rel only ``reduction_4``, for patches of 16); ``features``: the last
            of them, normalised if ``norm_features``; ``pooled`` [batch, channels], float32: what the
            classifier sees; ``logits`` [batch, classes], float32, if there is a classifier.

        """
        if images.ndim != 4:
            raise UserError(
                f"CoAtNet got an array of shape {images.shape}: give images as "
                "[batch, height, width, channels]"
            )
        stem = Stem(self.stem_widths, self.stem_bias, self.patch_size, self.conv, self.common, name="stem")
        x = stem(images, train)
        halvings = int(math.log2(self.patch_size or 2))
        found = {f"reduction_{halvings}": x}
        for number, blocks in _by_stage(self.blocks).items():
            x = Stage(
                blocks=blocks,
                count=len(self.blocks),
                conv=self.conv,
                attention=self.attention,
                common=self.common,
                stochastic_depth_rate=self.stochastic_depth_rate,
                table_grid=self.map_size(number, *self.table_image_size) if self.table_image_size else None,
                scan=self.scan,
                remat=self.remat,
                name=f"stage_{number}",
            )(x, train)
            halvings += not self.patch_size
            found[f"reduction_{halvings}"] = x
        head = Head(
            hidden=self.head_hidden,
            norm_features=self.norm_features,
            kind=self.attention.norm,
            num_classes=self.num_classes,
            dropout_rate=self.dropout_rate,
            common=self.common,
            name="head",
        )
        return found | head(x, train)

    def map_size(self, stage: int, height: int, width: int) -> Grid:
        """Height and width of the maps that leave a stage, for images of a size."""
        factor = self.patch_size or 2 ** (stage + 1)
        return -(-height // factor), -(-width // factor)


class Stem(nn.Module):
    """Two 3x3 convolutions, ``conv_0`` (stride 2), ``norm_0``, ``conv_1``; or ``conv_0`` over patches.

    Attributes:
        widths: output channels of both; the last is that of the patches.
        use_bias: whether convolutions have biases; those over patches do.
        patch_size: side of the patches; 0 for the two convolutions.
        conv: norm and activation between them.
        common: what all parts share.

    """

    widths: tuple[int, ...]
    use_bias: bool
    patch_size: int
    conv: ConvBlockSettings
    common: Common

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Turn pixels into features."""
        conv = functools.partial(nn.Conv, kernel_init=init, dtype=self.common.dtype)
        if self.patch_size:
            window = (self.patch_size,) * 2
            return conv(self.widths[-1], window, window, "SAME", name="conv_0")(images)
        conv = functools.partial(
            conv,
            kernel_size=(3, 3),
            padding=conv_padding(self.common.padding, 3),
            use_bias=self.use_bias,
        )
        x = conv(self.widths[0], strides=2, name="conv_0")(images)
        x = normalise("norm_0", x, train, self.conv.norm, self.common, self.common.norm)
        return conv(self.widths[1], name="conv_1")(ACTIVATIONS[self.conv.activation](x))


class Stage(nn.Module):
    """Blocks in a row: ``block_0``, ``block_1`` …, or, scanned over, ``blocks_1_4`` for four equal ones.

    Attributes:
        blocks: what they are.
        count: number of blocks of the whole network, for the drop rates.
        conv: how convolutional ones are built.
        attention: how transformer ones are built.
        common: what all share.
        stochastic_depth_rate: of the network.
        table_grid: of the stage's tables.
        scan: loop over equal neighbours.
        remat: keep only the inputs of blocks for the gradient.

    """

    blocks: tuple[BlockSpec, ...]
    count: int
    conv: ConvBlockSettings
    attention: AttentionSettings
    common: Common
    stochastic_depth_rate: float = 0.0
    table_grid: Grid | None = None
    scan: bool = False
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch out_height out_width width"]:
        """Apply all blocks."""
        for group in group_equal(self.blocks):
            if self.scan and len(group) > 1:
                x = self._scanned(group, x, train)
            else:
                for spec in group:
                    x = self._block(spec, f"block_{spec.place}")(x, train)
        return x

    def _scanned(self, group: tuple[BlockSpec, ...], x: Array, train: bool) -> Array:
        """All blocks of a group as one, each with its own slice of parameters and its own drop rate."""

        def body(block: Block, x: Array, rate: Array | None) -> tuple[Array, None]:
            return block(x, train, rate), None

        rates = None
        if self.stochastic_depth_rate:
            rates = jnp.array([self._drop_rate(spec) for spec in group], jnp.float32)
        loop = nn.scan(
            body,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            length=len(group),
        )
        name = stacked_name(group[0].place, group[-1].place)
        return loop(self._block(group[0], name, in_loop=True), x, rates)[0]

    def _block(self, spec: BlockSpec, name: str, in_loop: bool = False) -> Block:
        kind: type[Block] = ConvBlock
        settings: dict[str, Any] = {"settings": self.conv}
        if spec.kind == "t":
            kind, settings = AttentionBlock, {"settings": self.attention, "table_grid": self.table_grid}
        if self.remat:
            # `train` is static (self is argument 0); a loop keeps XLA from merging what is computed again.
            kind = nn.remat(kind, static_argnums=(2,), prevent_cse=not in_loop)
        return kind(
            width=spec.width,
            downsample=spec.downsample,
            drop_rate=self._drop_rate(spec),
            common=self.common,
            name=name,
            **settings,
        )

    def _drop_rate(self, spec: BlockSpec) -> float:
        return linear_drop_rate(spec.index, self.count, self.stochastic_depth_rate)


class Head(nn.Module):
    """Mean over the map, ``norm``, perhaps a dense layer with tanh (``hidden``), classifier (``logits``).

    Attributes:
        hidden: whether there is that layer.
        norm_features: normalise before the mean.
        kind: which norm.
        num_classes: outputs of the classifier; 0 for none.
        dropout_rate: in front of it.
        common: what all parts share.

    """

    hidden: bool
    norm_features: bool
    kind: Norm
    num_classes: int
    dropout_rate: float
    common: Common

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"], train: bool) -> dict[str, Array]:
        """Return ``features``, ``pooled`` and, if there is a classifier, ``logits``."""
        # What leaves the network is float32, and small enough to be computed in it.
        wide = dataclasses.replace(self.common, dtype=jnp.float32)
        if self.norm_features:
            x = normalise("norm", x, train, self.kind, self.common)
            pooled = x.mean((1, 2), dtype=jnp.float32)
        else:
            pooled = normalise("norm", x.mean((1, 2), dtype=jnp.float32), train, self.kind, wide)
        if self.hidden:
            pooled = jnp.tanh(nn.Dense(x.shape[-1], kernel_init=init, name="hidden")(pooled))
        found = {"features": x, "pooled": pooled}
        if self.num_classes:
            dropped = nn.Dropout(self.dropout_rate, deterministic=not train)(pooled)
            found["logits"] = nn.Dense(self.num_classes, kernel_init=init, name="logits")(dropped)
        return found


def _by_stage(blocks: Sequence[BlockSpec]) -> dict[int, tuple[BlockSpec, ...]]:
    stages: dict[int, tuple[BlockSpec, ...]] = {}
    for block in blocks:
        stages[block.stage] = (*stages.get(block.stage, ()), block)
    return stages


def _check_sizes(model: CoAtNet) -> None:
    """Raises UserError for numbers that fit no network."""
    for field in ("dropout_rate", "stochastic_depth_rate"):
        if not 0 <= getattr(model, field) < 1:
            raise UserError(f"model.{field} is {getattr(model, field)}: it must be in [0, 1)")
    for field, lengths in (("stem_widths", (2,)), ("table_image_size", (0, 2))):
        value = getattr(model, field)
        if len(value) not in lengths or not all(isinstance(size, int) and size > 0 for size in value):
            raise UserError(f"model.{field} is {value}: it must be two numbers above 0")
    if model.patch_size and model.patch_size.bit_count() != 1:
        raise UserError(f"model.patch_size is {model.patch_size}: it must be a power of 2, or 0")
    head_size = model.attention.head_size
    for block in model.blocks:
        inner = block.width if model.attention.widen == "inputs" else block.input_width
        if block.kind == "t" and (head_size < 1 or inner % head_size):
            raise UserError(
                f"model.attention.head_size is {head_size}: it must divide the {inner} channels of stage "
                f"{block.stage}"
            )


def transfer_resolution(
    model: CoAtNet, tree: Mapping[str, Any], image_size: tuple[int, int], method: Resize = "bilinear"
) -> dict[str, Any]:
    """Make weights fit images of another size: resize the tables of relative biases, keep all else.

    Args:
        model: the network.
        tree: its variables, parameters or averages of them; scanned or not.
        image_size: height and width of the images they are wanted for.
        method: how to interpolate, see `resize_table`.

    """
    leaves = traverse_util.flatten_dict(tree, sep="/")
    for path, table in leaves.items():
        if match := re.search(r"(?:^|/)stage_(\d+)/.*/relative_bias$", path):
            grid = model.map_size(int(match[1]), *image_size)
            flat = resize_table(jnp.reshape(table, (-1, *table.shape[-2:])), grid, method)
            leaves[path] = flat.reshape(*table.shape[:-2], *flat.shape[1:])
    return traverse_util.unflatten_dict(leaves, sep="/")


def variant(name: str) -> Variant:
    """Give the published settings of one of `coatnet_variants`."""
    from offsites_jax.models.coatnet_variants import VARIANTS

    settings, size = VARIANTS[name]
    return Variant(CoAtNet, settings, size, size)
