"""Published CoAtNets: those of the paper (arXiv 2106.04803, tables 3 and 12), and those timm trained.

Names ending in ``_rw`` are networks of huggingface/pytorch-image-models that differ from the paper, and the
only ones with public weights.
"""

from collections.abc import Mapping
from typing import Any

from offsites_jax.models.coatnet_blocks import AttentionSettings, ConvBlockSettings
from offsites_jax.nn.norm import BatchNormSettings

Settings = Mapping[str, Any]

_TIMM_BATCH_NORM = BatchNormSettings(momentum=0.9, epsilon=1e-5)


def _stages(letters: str, depths: tuple[int, ...], widths: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{k}{n}_d{d}" for k, n, d in zip(letters, depths, widths, strict=True))


def _paper(stem: int, *stages: str, head_size: int = 32, rate: float = 0.0) -> tuple[Settings, int]:
    """A network of the paper; `rate` of stochastic depth is that of its longest published training."""
    settings = {
        "stages": stages,
        "stem_widths": (stem, stem),
        "attention": AttentionSettings(head_size=head_size),
        "stochastic_depth_rate": rate,
    }
    return settings, 224


def _timm(
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    conv: Mapping[str, Any],
    attention: Mapping[str, Any],
    size: int = 224,
    **settings: Any,
) -> tuple[Settings, int]:
    """A network of timm's own."""
    common = {
        "stages": _stages("cctt", depths, widths),
        "stem_widths": (widths[0] // 2, widths[0]) if widths[0] != 96 else (32, 64),
        "conv": ConvBlockSettings(**{"activation": "silu", "expand_from": "input", **conv}),
        "attention": AttentionSettings(**{"widen": "output", "activation": "gelu", **attention}),
        "norm": _TIMM_BATCH_NORM,
        "layer_norm_epsilon": 1e-6,
        "padding": "symmetric",
        "pool_type": "avg2",
        "head_hidden": False,
        "norm_features": True,
    }
    return common | settings, size


_D64, _D96 = (64, 128, 256, 512), (96, 192, 384, 768)
_D128, _D192 = (128, 256, 512, 1024), (192, 384, 768, 1536)

# The convolutional blocks of timm's first networks, with what later ones changed.
_FIRST = {"pre_norm_activation": True, "output_bias": False, "se_activation": "relu"}
_POOLED = _FIRST | {"downsample": "pool"}
_STRIDED = _FIRST | {"downsample": "dw"}
_SILU = _STRIDED | {"se_activation": "silu"}
_EARLY = {"se_early": True}
_UNBIASED = {"shortcut_bias": False}


def _mlp(width: int, **more: Any) -> Mapping[str, Any]:
    return {"relative": "mlp", "mlp_width": width, **more}


VARIANTS: Mapping[str, tuple[Settings, int]] = {
    "coatnet_0": _paper(64, *_stages("cctt", (2, 3, 5, 2), _D96), rate=0.2),
    "coatnet_1": _paper(64, *_stages("cctt", (2, 6, 14, 2), _D96), rate=0.3),
    "coatnet_2": _paper(128, *_stages("cctt", (2, 6, 14, 2), _D128), rate=0.5),
    "coatnet_3": _paper(192, *_stages("cctt", (2, 6, 14, 2), _D192), rate=0.7),
    "coatnet_4": _paper(192, *_stages("cctt", (2, 12, 28, 2), _D192), rate=0.1),
    "coatnet_5": _paper(192, *_stages("cctt", (2, 12, 28, 2), (256, 512, 1280, 2048)), head_size=64),
    # Table 12 prints 2048 for the last stage of CoAtNet-6; only 3072 gives its 1.47 B parameters.
    "coatnet_6": _paper(192, "c2_d192", "c4_d384", "c8_d768 t42_d1536", "t2_d3072", head_size=128),
    "coatnet_6_table12": _paper(192, "c2_d192", "c4_d384", "c8_d768 t42_d1536", "t2_d2048", head_size=128),
    "coatnet_7": _paper(192, "c2_d256", "c4_d512", "c8_d1024 t42_d2048", "t2_d3072", head_size=128),
    "coatnet_pico_rw_224": _timm(_D64, (2, 3, 5, 2), {"downsample": "dw"}, {}),
    "coatnet_nano_rw_224": _timm(_D64, (3, 4, 6, 3), {"downsample": "pool"}, {}),
    "coatnet_0_rw_224": _timm(_D96, (2, 3, 7, 2), _POOLED | _EARLY, _UNBIASED),
    "coatnet_1_rw_224": _timm(_D96, (2, 6, 14, 2), _STRIDED | _EARLY, _UNBIASED),
    "coatnet_2_rw_224": _timm(_D128, (2, 6, 14, 2), _SILU, {}),
    # Its only weights are those for ImageNet-12k.
    "coatnet_3_rw_224": _timm(_D192, (2, 6, 14, 2), _SILU, {"layer_scale": 1e-6}, num_classes=11821),
    "coatnet_bn_0_rw_224": _timm(_D96, (2, 3, 7, 2), _STRIDED | _EARLY, _UNBIASED | {"norm": "batch"}),
    "coatnet_rmlp_nano_rw_224": _timm(_D64, (3, 4, 6, 3), {"downsample": "dw"}, _mlp(384)),
    "coatnet_rmlp_0_rw_224": _timm(_D96, (2, 3, 7, 2), _STRIDED, _mlp(512)),
    "coatnet_rmlp_1_rw_224": _timm(
        _D96, (2, 6, 14, 2), _POOLED | _EARLY, _mlp(384, shortcut_bias=False), pool_type="max3"
    ),
    "coatnet_rmlp_1_rw2_224": _timm(_D96, (2, 6, 14, 2), _STRIDED, _mlp(512)),
    "coatnet_rmlp_2_rw_224": _timm(_D128, (2, 6, 14, 2), _SILU, _mlp(512, layer_scale=1e-6)),
    "coatnet_rmlp_2_rw_384": _timm(_D128, (2, 6, 14, 2), _SILU, _mlp(512, layer_scale=1e-6), 384),
    "coatnet_rmlp_3_rw_224": _timm(_D192, (2, 6, 14, 2), _SILU, _mlp(512, layer_scale=1e-6)),
}
"""Settings of `CoAtNet`, and the side of the images, by name."""
