"""How huggingface/pytorch-image-models (timm 1.0.31) makes the networks that ours are the same as."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from offsites_jax.errors import UserError
from offsites_jax.export.foreign import published_name
from offsites_jax.models.coatnet import CoAtNet
from offsites_jax.models.coatnet_stages import parse_stages
from offsites_jax.models.efficientnet import EfficientNet
from offsites_jax.models.resnet import ResNet

Leaves = Mapping[str, np.ndarray]

_POOLS = {"max2": "max2", "avg2": "avg2", "max3": "max", "avg3": "avg"}
_NORMS = {"batch": "batchnorm2d", "layer": "layernorm2d"}


def efficientnet_arguments(model: EfficientNet, leaves: Leaves) -> dict[str, Any]:
    """One of the published networks with TensorFlow's padding: timm makes no others from arguments."""
    if name := published_name(model):
        channels = leaves["params/stem/conv/kernel"].shape[2]
        return {"model_name": "tf_" + name.replace("_v2", "v2"), **_common(model, channels)}
    raise UserError("--format timm: timm has no EfficientNet of these blocks; export in another format")


def resnet_arguments(model: ResNet, leaves: Leaves) -> dict[str, Any]:
    """The ResNet of these blocks and depths."""
    stem = model.stem, model.stem_width
    if (*stem, model.width, model.norm.epsilon, len(model.depths)) != ("large", 64, 64, 1e-5, 4):
        raise UserError(
            "--format timm: its ResNets have the large stem, four stages, width 64 and norm.epsilon 1e-5; "
            "export in another format"
        )
    channels = leaves["params/stem/conv/kernel"].shape[2]
    name = "resnet50" if model.block == "bottleneck" else "resnet18"
    return {"model_name": name, "layers": list(model.depths), **_common(model, channels)}


def coatnet_arguments(model: CoAtNet, leaves: Leaves) -> dict[str, Any]:
    """Every setting, over those of timm's own CoAtNet-0."""
    stages = parse_stages(model.stages, model.layout)
    if model.patch_size or model.head_hidden == model.norm_features:
        raise UserError(
            "--format timm: timm has no CoAtNet over patches, nor one whose head has norm_features and "
            "head_hidden both or neither; export in another format"
        )
    if any(len(stage) > 1 for stage in stages):
        raise UserError(
            "--format timm: timm has no CoAtNet with two widths in a stage; export in another format"
        )
    conv, attention = model.conv, model.attention
    widths = [stage[0].width for stage in stages]
    epsilon = model.norm.epsilon if conv.norm == "batch" else model.layer_norm_epsilon
    arguments = {
        "embed_dim": widths,
        "depths": [stage[0].repeats for stage in stages],
        "block_type": [stage[0].kind.upper() for stage in stages],
        "stem_width": list(model.stem_widths),
        "stem_bias": model.stem_bias,
        "head_hidden_size": widths[-1] if model.head_hidden else 0,  # timm takes None for the default
        "conv_expand_ratio": conv.expand_ratio,
        "conv_expand_output": conv.expand_from == "output",
        "conv_pre_norm_act": conv.pre_norm_activation,
        "conv_output_bias": conv.output_bias,
        "conv_stride_mode": {"conv1x1": "1x1"}.get(conv.downsample, conv.downsample),
        "conv_pool_type": _POOLS[model.pool_type],
        "conv_padding": {"same": "same", "symmetric": ""}[model.padding],
        "conv_attn_early": conv.se_early,
        "conv_attn_act_layer": conv.se_activation,
        "conv_attn_ratio": conv.se_ratio,
        "conv_act_layer": conv.activation,
        "conv_norm_layer": _NORMS[conv.norm],
        "conv_norm_eps": epsilon,
        "transformer_dim_head": attention.head_size,
        "transformer_expand_ratio": attention.expand_ratio,
        "transformer_expand_first": attention.widen == "inputs",
        "transformer_shortcut_bias": attention.shortcut_bias,
        "transformer_pool_type": _POOLS[model.pool_type],
        "transformer_rel_pos_type": {"table": "bias", "mlp": "mlp", "none": ""}[attention.relative],
        "transformer_rel_pos_dim": attention.mlp_width,
        "transformer_init_values": attention.layer_scale,
        "transformer_act_layer": attention.activation,
        "transformer_norm_layer": _NORMS[attention.norm],
        "transformer_norm_eps": model.layer_norm_epsilon,
    }
    channels = leaves["params/stem/conv_0/kernel"].shape[2]
    size = _image_size(model, leaves)
    return {"model_name": "coatnet_0_224", "img_size": size, **_common(model, channels), **arguments}


def _image_size(model: CoAtNet, leaves: Leaves) -> list[int]:
    """Size of images whose maps are those of the first table; without tables any will do."""
    for path, leaf in leaves.items():
        if path.endswith("/relative_bias"):
            stage = int(path.split("/")[1].removeprefix("stage_"))
            return [(differences + 1) // 2 * 2 ** (stage + 1) for differences in leaf.shape[1:]]
    return list(model.table_image_size or (224, 224))


def _common(model: EfficientNet | CoAtNet | ResNet, channels: int) -> dict[str, Any]:
    return {"num_classes": model.num_classes, "in_chans": channels, "drop_rate": model.dropout_rate}


NETWORKS: Mapping[str, Callable[[Any, Leaves], dict[str, Any]]] = {
    "EfficientNet": efficientnet_arguments,
    "CoAtNet": coatnet_arguments,
    "ResNet": resnet_arguments,
}
"""By class of model: arguments of `timm.create_model`."""
