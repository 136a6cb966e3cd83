"""ResNet (He et al. 2016, arXiv 1512.03385), for photographs and for small images.

Bottlenecks stride in their 3x3 convolution. That place of the stride, called v1.5, is what the baselines of
EfficientNetV2 and all current weights use. Padding is PyTorch's, symmetric, as in those weights.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from offsites_jax.errors import UserError
from offsites_jax.models.registry import Variant
from offsites_jax.nn.mbconv import conv_init
from offsites_jax.nn.norm import BatchNorm, BatchNormSettings

BlockName = Literal["bottleneck", "basic"]
StemName = Literal["large", "small"]
InitName = Literal["normal", "truncated_normal"]

SMALL_SIDE = 64
"""Largest side in pixels of the images that the small stem was published for."""

_EXPANSION = 4  # output channels of a bottleneck per channel of its 3x3 convolution
_INITS: Mapping[str, nn.initializers.Initializer] = {
    "normal": conv_init,
    "truncated_normal": nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal"),
}


class ResNet(nn.Module):
    """Stem, four stages of blocks, classifier: ``stem``, ``stage_{1…4}/block_{0…}``, ``classifier``.

    Attributes:
        depths: blocks of each stage.
        width: channels of the 3x3 convolutions of the first stage; doubled by each other.
        block: ``"bottleneck"`` of three convolutions, or ``"basic"`` of two 3x3.
        stem: ``"large"``: 7x7 with stride 2, then a max-pool with stride 2. ``"small"``: 3x3, no stride.
        stem_width: channels of the stem, whatever ``width`` is.
        kernel_init: normal with variance 2 / (kernel size * output channels), or the same cut at two
            standard deviations and widened to that variance, as Keras draws it.
        num_classes: outputs of the classifier; 0 for none.
        dropout_rate: dropout in front of the classifier.
        norm: settings of all batch norms.
        dtype: type to compute in; parameters, statistics and logits are float32.
        remat: keep only the input of each block for the gradient and compute the rest again.

    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    block: BlockName = "bottleneck"
    stem: StemName = "large"
    stem_width: int = 64
    kernel_init: InitName = "normal"
    num_classes: int = 1000
    dropout_rate: float = 0.0
    norm: BatchNormSettings = BatchNormSettings(momentum=0.9, epsilon=1e-5)
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        if not self.depths or any(not isinstance(depth, int) or depth < 1 for depth in self.depths):
            raise UserError(f"model.depths is {self.depths}: each stage needs at least one block")
        for field, choices in (("block", BlockName), ("stem", StemName), ("kernel_init", InitName)):
            if getattr(self, field) not in get_args(choices):
                known = " or ".join(get_args(choices))
                raise UserError(f"model.{field} is {getattr(self, field)!r}: it must be {known}")
        for field in ("width", "stem_width"):
            if getattr(self, field) < 1:
                raise UserError(f"model.{field} is {getattr(self, field)}: it must be at least 1")
        if not 0 <= self.dropout_rate < 1:
            raise UserError(f"model.dropout_rate is {self.dropout_rate}: it must be in [0, 1)")
        super().__post_init__()

    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch classes"]:
        """Return logits; without a classifier, the pooled features.

        Args:
            images: normalised pixels, of any size and number of channels.
            train: use the statistics of the batch (updating ``batch_stats``), and drop out.

        """
        found = self.endpoints(images, train=train)
        return found["logits" if self.num_classes else "pooled"]

    @nn.compact
    def endpoints(
        self, images: Float[Array, "batch height width channels"], *, train: bool
    ) -> dict[str, Array]:
        """Return what detectors and embedders want; call by ``apply(..., method="endpoints")``.

        Returns:
            ``reduction_1`` … ``reduction_5``: the last activations [batch, size / 2^k, size / 2^k, channels]
            at each halving of the image: those of the stem before its pooling, then of each stage. With the
            small stem ``reduction_0`` … ``reduction_3``, those of the stages. ``features``: the last of them;
            ``pooled`` [batch, channels]: its mean, float32; ``logits`` [batch, classes], float32, if there is
            a classifier.

        """
        if images.ndim != 4:
            raise UserError(
                f"ResNet got an array of shape {images.shape}: give images as "
                "[batch, height, width, channels]"
            )
        init = _INITS[self.kernel_init]
        kernel_size, stride = (7, 2) if self.stem == "large" else (3, 1)
        x = Stem(self.stem_width, kernel_size, stride, self.norm, self.dtype, init, name="stem")(
            images, train
        )
        found, halvings = {}, 0
        if self.stem == "large":
            found["reduction_1"], halvings = x, 2
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for index, depth in enumerate(self.depths):
            x = Stage(
                depth=depth,
                width=self.width * 2**index,
                stride=2 if index else 1,
                norm=self.norm,
                dtype=self.dtype,
                block=self.block,
                kernel_init=init,
                remat=self.remat,
                name=f"stage_{index + 1}",
            )(x, train)
            found[f"reduction_{halvings + index}"] = x
        found["features"] = x
        found["pooled"] = x.mean((1, 2), dtype=jnp.float32)
        if self.num_classes:
            dropped = nn.Dropout(self.dropout_rate, deterministic=not train)(found["pooled"])
            found["logits"] = nn.Dense(self.num_classes, name="classifier")(dropped)
        return found


class Stem(nn.Module):
    """One convolution (``conv``), batch norm (``bn``), ReLU."""

    width: int
    kernel_size: int
    stride: int
    norm: BatchNormSettings
    dtype: DTypeLike
    kernel_init: nn.initializers.Initializer = conv_init

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch out_height out_width {self.width}"]:
        """Turn pixels into features."""
        x = _conv(self, "conv", self.width, self.kernel_size, self.stride)(images)
        return nn.relu(_norm(self, "bn", x, train))


class Stage(nn.Module):
    """Blocks in a row; the first strides, and projects its shortcut where the shape changes.

    Attributes:
        depth: number of blocks.
        width: channels of their 3x3 convolutions.
        stride: of the first block.
        norm: of all batch norms.
        dtype: type to compute in.
        block: ``"bottleneck"`` or ``"basic"``.
        kernel_init: of all convolutions.
        remat: keep only the inputs of blocks for the gradient.

    """

    depth: int
    width: int
    stride: int
    norm: BatchNormSettings
    dtype: DTypeLike
    block: BlockName = "bottleneck"
    kernel_init: nn.initializers.Initializer = conv_init
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Apply all blocks."""
        block: type[ResidualBlock] = Bottleneck if self.block == "bottleneck" else BasicBlock
        if self.remat:
            block = nn.remat(block, static_argnums=(2,))  # `train`; self is 0
        for place in range(self.depth):
            stride = 1 if place else self.stride
            name = f"block_{place}"
            x = block(self.width, stride, self.norm, self.dtype, self.kernel_init, name=name)(x, train)
        return x


class ResidualBlock(nn.Module):
    """What `Bottleneck` and `BasicBlock` have in common.

    Attributes:
        width: channels of the 3x3 convolutions.
        stride: of the first of them.
        norm: of the batch norms.
        dtype: type to compute in.
        kernel_init: of all convolutions.

    """

    width: int
    stride: int
    norm: BatchNormSettings
    dtype: DTypeLike
    kernel_init: nn.initializers.Initializer = conv_init


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolution (``conv_1`` … ``conv_3``), each with a batch norm, beside a shortcut.

    Four times ``width`` channels leave.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Apply the block."""
        branch = _conv(self, "conv_1", self.width, 1)(x)
        branch = nn.relu(_norm(self, "bn_1", branch, train))
        branch = _conv(self, "conv_2", self.width, 3, self.stride)(branch)
        branch = nn.relu(_norm(self, "bn_2", branch, train))
        branch = _conv(self, "conv_3", _EXPANSION * self.width, 1)(branch)
        branch = _norm(self, "bn_3", branch, train)
        return nn.relu(_shortcut(self, x, branch, train) + branch)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions (``conv_1``, ``conv_2``), each with a batch norm, beside a shortcut."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch out_height out_width {self.width}"]:
        """Apply the block."""
        branch = _conv(self, "conv_1", self.width, 3, self.stride)(x)
        branch = nn.relu(_norm(self, "bn_1", branch, train))
        branch = _conv(self, "conv_2", self.width, 3)(branch)
        branch = _norm(self, "bn_2", branch, train)
        return nn.relu(_shortcut(self, x, branch, train) + branch)


def _shortcut(block: ResidualBlock, x: Array, branch: Array, train: bool) -> Array:
    """The input, or where the branch has another shape its strided 1x1 projection."""
    if x.shape == branch.shape:
        return x
    projected = _conv(block, "shortcut_conv", branch.shape[-1], 1, block.stride)(x)
    return _norm(block, "shortcut_bn", projected, train)


def _conv(module: Stem | ResidualBlock, name: str, width: int, kernel_size: int, stride: int = 1) -> nn.Conv:
    return nn.Conv(
        width,
        (kernel_size,) * 2,
        stride,
        ((kernel_size // 2,) * 2,) * 2,
        use_bias=False,
        kernel_init=module.kernel_init,
        dtype=module.dtype,
        name=name,
    )


def _norm(module: Stem | ResidualBlock, name: str, x: Array, train: bool) -> Array:
    return BatchNorm(module.norm, module.dtype, name=name)(x, not train)


def _settings(block: BlockName, *depths: int) -> Mapping[str, object]:
    return {"block": block, "depths": depths}


VARIANTS: Mapping[str, Mapping[str, object]] = {
    "resnet_10": _settings("basic", 1, 1, 1, 1),
    "resnet_18": _settings("basic", 2, 2, 2, 2),
    "resnet_34": _settings("basic", 3, 4, 6, 3),
    "resnet_50": _settings("bottleneck", 3, 4, 6, 3),
    "resnet_101": _settings("bottleneck", 3, 4, 23, 3),
    "resnet_152": _settings("bottleneck", 3, 8, 36, 3),
}
"""Kind of block and depths by name."""


def variant(name: str) -> Variant:
    """Give the published settings of ``resnet_{10,18,34,50,101,152}``."""
    return Variant(ResNet, VARIANTS[name], 224, 224)


def stem_for(image_size: int) -> StemName:
    """The stem for square images of that side in pixels: small up to `SMALL_SIDE`."""
    return "small" if image_size <= SMALL_SIDE else "large"
