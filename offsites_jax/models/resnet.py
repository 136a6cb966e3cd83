"""ResNet (He et al. 2016, arXiv 1512.03385) with bottlenecks that stride in their 3x3 convolution.

That place of the stride, called v1.5, is what the baselines of EfficientNetV2 and all current weights use.
Padding is PyTorch's, symmetric, as in those weights.
"""

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from offsites_jax.errors import UserError
from offsites_jax.models.registry import Variant
from offsites_jax.nn.mbconv import conv_init
from offsites_jax.nn.norm import BatchNorm, BatchNormSettings

_EXPANSION = 4  # output channels of a bottleneck per channel of its 3x3 convolution


class ResNet(nn.Module):
    """Stem, four stages of bottlenecks, classifier: ``stem``, ``stage_{1…4}/block_{0…}``, ``classifier``.

    Attributes:
        depths: blocks of each stage.
        width: channels of the stem, and of the 3x3 convolutions of the first stage; doubled by each other.
        num_classes: outputs of the classifier; 0 for none.
        dropout_rate: dropout in front of the classifier.
        norm: settings of all batch norms.
        dtype: type to compute in; parameters, statistics and logits are float32.
        remat: keep only the input of each block for the gradient and compute the rest again.

    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    num_classes: int = 1000
    dropout_rate: float = 0.0
    norm: BatchNormSettings = BatchNormSettings(momentum=0.9, epsilon=1e-5)
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        if not self.depths or any(not isinstance(depth, int) or depth < 1 for depth in self.depths):
            raise UserError(f"model.depths is {self.depths}: each stage needs at least one block")
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
            ``reduction_1``: output of the stem before its pooling; ``reduction_2`` …: outputs of the stages
            [batch, size / 2^k, size / 2^k, channels]; ``features``: the last of them; ``pooled`` [batch,
            channels]: its mean, float32; ``logits`` [batch, classes], float32, if there is a classifier.

        """
        if images.ndim != 4:
            raise UserError(
                f"ResNet got an array of shape {images.shape}: give images as "
                "[batch, height, width, channels]"
            )
        x = Stem(self.width, self.norm, self.dtype, name="stem")(images, train)
        found = {"reduction_1": x}
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for index, depth in enumerate(self.depths):
            x = Stage(
                depth=depth,
                width=self.width * 2**index,
                stride=2 if index else 1,
                norm=self.norm,
                dtype=self.dtype,
                remat=self.remat,
                name=f"stage_{index + 1}",
            )(x, train)
            found[f"reduction_{index + 2}"] = x
        found["features"] = x
        found["pooled"] = x.mean((1, 2), dtype=jnp.float32)
        if self.num_classes:
            dropped = nn.Dropout(self.dropout_rate, deterministic=not train)(found["pooled"])
            found["logits"] = nn.Dense(self.num_classes, name="classifier")(dropped)
        return found


class Stem(nn.Module):
    """Convolution of 7x7 with stride 2 (``conv``), batch norm (``bn``), ReLU."""

    width: int
    norm: BatchNormSettings
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch half_height half_width {self.width}"]:
        """Turn pixels into features."""
        conv = functools.partial(nn.Conv, use_bias=False, kernel_init=conv_init, dtype=self.dtype)
        x = conv(self.width, (7, 7), 2, ((3, 3), (3, 3)), name="conv")(images)
        return nn.relu(BatchNorm(self.norm, self.dtype, name="bn")(x, not train))


class Stage(nn.Module):
    """Bottlenecks in a row; the first strides and projects its shortcut.

    Attributes:
        depth: number of blocks.
        width: channels of their 3x3 convolutions.
        stride: of the first block.
        norm: of all batch norms.
        dtype: type to compute in.
        remat: keep only the inputs of blocks for the gradient.

    """

    depth: int
    width: int
    stride: int
    norm: BatchNormSettings
    dtype: DTypeLike
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Apply all blocks."""
        block = nn.remat(Bottleneck, static_argnums=(2,)) if self.remat else Bottleneck  # `train`; self is 0
        for place in range(self.depth):
            stride = 1 if place else self.stride
            x = block(self.width, stride, self.norm, self.dtype, name=f"block_{place}")(x, train)
        return x


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution (``conv_1`` … ``conv_3``), each with a batch norm, beside a shortcut.

    Attributes:
        width: channels of the 3x3 convolution; four times as many leave.
        stride: of that convolution.
        norm: of the batch norms.
        dtype: type to compute in.

    """

    width: int
    stride: int
    norm: BatchNormSettings
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Apply the block."""
        conv = functools.partial(nn.Conv, use_bias=False, kernel_init=conv_init, dtype=self.dtype)

        def norm(name: str, x: Array) -> Array:
            return BatchNorm(self.norm, self.dtype, name=name)(x, not train)

        branch = nn.relu(norm("bn_1", conv(self.width, (1, 1), name="conv_1")(x)))
        branch = conv(self.width, (3, 3), self.stride, ((1, 1), (1, 1)), name="conv_2")(branch)
        branch = conv(_EXPANSION * self.width, (1, 1), name="conv_3")(nn.relu(norm("bn_2", branch)))
        branch = norm("bn_3", branch)
        if x.shape != branch.shape:
            shortcut = conv(_EXPANSION * self.width, (1, 1), self.stride, name="shortcut_conv")(x)
            x = norm("shortcut_bn", shortcut)
        return nn.relu(x + branch)


VARIANTS: Mapping[str, tuple[int, ...]] = {"resnet_50": (3, 4, 6, 3), "resnet_152": (3, 8, 36, 3)}
"""Depths by name."""


def variant(name: str) -> Variant:
    """Give the published settings of ``resnet_50`` or ``resnet_152``."""
    return Variant(ResNet, {"depths": VARIANTS[name]}, 224, 224)
