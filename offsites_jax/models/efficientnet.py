"""EfficientNetV2 (arXiv 2104.00298, table 4) and EfficientNet (arXiv 1905.11946), all sizes.

Widths, depths and sizes are those of the released google/automl, which the published checkpoints
follow: the last stage of V2-S has 256 channels and its head 1280.
"""

import math
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from offsites_jax.errors import UserError
from offsites_jax.models.efficientnet_stages import (
    StageSpec,
    flatten_stages,
    parse_stages,
    round_width,
    scale_stages,
)
from offsites_jax.models.registry import Variant
from offsites_jax.nn.drop import linear_drop_rate
from offsites_jax.nn.mbconv import ConvNormAct, FusedMBConv, MBConv
from offsites_jax.nn.norm import BatchNormSettings


class EfficientNet(nn.Module):
    """Stem, inverted bottlenecks numbered from 0, head, classifier: both EfficientNet families.

    Attributes:
        blocks: the stages before scaling, as `StageSpec` or in text form. The stem has as many
            channels as the first stage takes.
        width: multiplier of all widths, the head's too.
        depth: multiplier of the repeats of each stage.
        round_limit: when a scaled width is rounded up, see `round_width`.
        head_width: channels of the last 1x1 convolution, before ``width`` multiplies them.
        num_classes: outputs of the classifier; 0 for none.
        dropout_rate: dropout in front of the classifier.
        stochastic_depth_rate: drop rates grow in a line from 0 at the first block towards this.
        norm: settings of all batch norms.
        dtype: type to compute in; parameters, statistics and logits are float32.
        remat: keep only the input of each block for the gradient and compute the rest again.

    """

    blocks: tuple[StageSpec | str, ...]
    width: float = 1.0
    depth: float = 1.0
    round_limit: float = 0.0
    head_width: int = 1280
    num_classes: int = 1000
    dropout_rate: float = 0.2
    stochastic_depth_rate: float = 0.2
    norm: BatchNormSettings = BatchNormSettings()
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        # A mistake in a configuration shows here, before the first batch does.
        parse_stages(self.blocks)
        for field in ("dropout_rate", "stochastic_depth_rate"):
            if not 0 <= getattr(self, field) < 1:
                raise UserError(f"model.{field} is {getattr(self, field)}: it must be in [0, 1)")
        super().__post_init__()

    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch classes"]:
        """Return logits; without a classifier, the pooled features.

        Args:
            images: normalised pixels, of any size and number of channels.
            train: use the statistics of the batch (updating ``batch_stats``), and drop out; that
                draws from the rng ``dropout``.

        """
        found = self.endpoints(images, train=train)
        return found["logits" if self.num_classes else "pooled"]

    @nn.compact
    def endpoints(
        self, images: Float[Array, "batch height width channels"], *, train: bool
    ) -> dict[str, Array]:
        """Return what detectors and embedders want; call by ``apply(..., method="endpoints")``.

        Returns:
            ``reduction_1`` … ``reduction_5``: the last activations [batch, size / 2^k, size / 2^k,
            channels] at each halving of the image (as many as the blocks make); ``features``:
            output of the head's convolution; ``pooled`` [batch, head width]: its mean, float32;
            ``logits`` [batch, classes], float32, if there is a classifier.

        """
        if images.ndim != 4:
            raise UserError(
                f"EfficientNet got an array of shape {images.shape}: give images as "
                "[batch, height, width, channels]"
            )
        stages = parse_stages(self.blocks)
        blocks = flatten_stages(scale_stages(stages, self.width, self.depth, self.round_limit))
        stem_width = blocks[0].input_width
        x = ConvNormAct(stem_width, 3, 2, self.norm, self.dtype, name="stem")(images, train)

        found: dict[str, Array] = {}
        for index, spec in enumerate(blocks):
            x = self._block(spec, index, len(blocks))(x, train)
            if index + 1 == len(blocks) or blocks[index + 1].stride > 1:
                found[f"reduction_{len(found) + 1}"] = x

        head_width = round_width(self.head_width, self.width, self.round_limit)
        x = ConvNormAct(head_width, 1, 1, self.norm, self.dtype, name="head")(x, train)
        found["features"] = x
        found["pooled"] = x.mean((1, 2), dtype=jnp.float32)
        if self.num_classes:
            dropped = nn.Dropout(self.dropout_rate, deterministic=not train)(found["pooled"])
            found["logits"] = nn.Dense(self.num_classes, kernel_init=_classifier_init, name="classifier")(
                dropped
            )
        return found

    def _block(self, spec: StageSpec, index: int, count: int) -> nn.Module:
        block = FusedMBConv if spec.fused else MBConv
        if self.remat:
            block = nn.remat(block, static_argnums=(2,))  # `train`, counting self as 0
        return block(
            width=spec.output_width,
            kernel_size=spec.kernel_size,
            stride=spec.stride,
            expand_ratio=spec.expand_ratio,
            se_ratio=spec.se_ratio,
            drop_rate=linear_drop_rate(index, count, self.stochastic_depth_rate),
            norm=self.norm,
            dtype=self.dtype,
            name=f"blocks_{index}",
        )


def _classifier_init(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Uniform within ±1/√outputs, as google/automl; Flax knows no initialiser by fan-out alone."""
    limit = 1 / math.sqrt(shape[1])
    return jax.random.uniform(key, shape, dtype, -limit, limit)


def variant(name: str) -> Variant:
    """Give the published settings of ``efficientnet_{b0…b8,l2}`` or ``efficientnet_v2_{…}``."""
    return VARIANTS[name]


_V2_BASE = (
    "r1_k3_s1_e1_i32_o16_c1",
    "r2_k3_s2_e4_i16_o32_c1",
    "r2_k3_s2_e4_i32_o48_c1",
    "r3_k3_s2_e4_i48_o96_se0.25",
    "r5_k3_s1_e6_i96_o112_se0.25",
    "r8_k3_s2_e6_i112_o192_se0.25",
)
_V2_S = (
    "r2_k3_s1_e1_i24_o24_c1",
    "r4_k3_s2_e4_i24_o48_c1",
    "r4_k3_s2_e4_i48_o64_c1",
    "r6_k3_s2_e4_i64_o128_se0.25",
    "r9_k3_s1_e6_i128_o160_se0.25",
    "r15_k3_s2_e6_i160_o256_se0.25",
)
_V2_M = (
    "r3_k3_s1_e1_i24_o24_c1",
    "r5_k3_s2_e4_i24_o48_c1",
    "r5_k3_s2_e4_i48_o80_c1",
    "r7_k3_s2_e4_i80_o160_se0.25",
    "r14_k3_s1_e6_i160_o176_se0.25",
    "r18_k3_s2_e6_i176_o304_se0.25",
    "r5_k3_s1_e6_i304_o512_se0.25",
)
_V2_L = (
    "r4_k3_s1_e1_i32_o32_c1",
    "r7_k3_s2_e4_i32_o64_c1",
    "r7_k3_s2_e4_i64_o96_c1",
    "r10_k3_s2_e4_i96_o192_se0.25",
    "r19_k3_s1_e6_i192_o224_se0.25",
    "r25_k3_s2_e6_i224_o384_se0.25",
    "r7_k3_s1_e6_i384_o640_se0.25",
)
_V2_XL = (
    "r4_k3_s1_e1_i32_o32_c1",
    "r8_k3_s2_e4_i32_o64_c1",
    "r8_k3_s2_e4_i64_o96_c1",
    "r16_k3_s2_e4_i96_o192_se0.25",
    "r24_k3_s1_e6_i192_o256_se0.25",
    "r32_k3_s2_e6_i256_o512_se0.25",
    "r8_k3_s1_e6_i512_o640_se0.25",
)
_V1_BASE = (
    "r1_k3_s1_e1_i32_o16_se0.25",
    "r2_k3_s2_e6_i16_o24_se0.25",
    "r2_k5_s2_e6_i24_o40_se0.25",
    "r3_k3_s2_e6_i40_o80_se0.25",
    "r3_k5_s1_e6_i80_o112_se0.25",
    "r4_k5_s2_e6_i112_o192_se0.25",
    "r1_k3_s1_e6_i192_o320_se0.25",
)


def _v2(
    blocks: Sequence[str],
    sizes: tuple[int, int],
    dropout_rate: float,
    width: float = 1.0,
    depth: float = 1.0,
) -> Variant:
    """Describe one EfficientNetV2; ``sizes`` are those of training and evaluation, in pixels."""
    settings = {
        "blocks": tuple(blocks),
        "width": width,
        "depth": depth,
        "dropout_rate": dropout_rate,
        "norm": BatchNormSettings(momentum=0.9),
    }
    return Variant(EfficientNet, settings, *sizes)


def _v1(width: float, depth: float, eval_size: int, dropout_rate: float) -> Variant:
    """Describe one EfficientNet of the first generation; it trains at 4/5 of the size, by 16s."""
    settings = {
        "blocks": _V1_BASE,
        "width": width,
        "depth": depth,
        "round_limit": 0.9,
        "dropout_rate": dropout_rate,
        "norm": BatchNormSettings(momentum=0.99),
    }
    return Variant(EfficientNet, settings, int(0.8 * eval_size) // 16 * 16, eval_size)


VARIANTS: Mapping[str, Variant] = {
    "efficientnet_v2_b0": _v2(_V2_BASE, (192, 224), 0.2),
    "efficientnet_v2_b1": _v2(_V2_BASE, (192, 240), 0.2, 1.0, 1.1),
    "efficientnet_v2_b2": _v2(_V2_BASE, (208, 260), 0.3, 1.1, 1.2),
    "efficientnet_v2_b3": _v2(_V2_BASE, (240, 300), 0.3, 1.2, 1.4),
    "efficientnet_v2_s": _v2(_V2_S, (300, 384), 0.2),
    "efficientnet_v2_m": _v2(_V2_M, (384, 480), 0.3),
    "efficientnet_v2_l": _v2(_V2_L, (384, 480), 0.4),
    "efficientnet_v2_xl": _v2(_V2_XL, (384, 512), 0.4),
    "efficientnet_b0": _v1(1.0, 1.0, 224, 0.2),
    "efficientnet_b1": _v1(1.0, 1.1, 240, 0.2),
    "efficientnet_b2": _v1(1.1, 1.2, 260, 0.3),
    "efficientnet_b3": _v1(1.2, 1.4, 300, 0.3),
    "efficientnet_b4": _v1(1.4, 1.8, 380, 0.4),
    "efficientnet_b5": _v1(1.6, 2.2, 456, 0.4),
    "efficientnet_b6": _v1(1.8, 2.6, 528, 0.5),
    "efficientnet_b7": _v1(2.0, 3.1, 600, 0.5),
    "efficientnet_b8": _v1(2.2, 3.6, 672, 0.5),
    "efficientnet_l2": _v1(4.3, 5.3, 800, 0.5),
}
