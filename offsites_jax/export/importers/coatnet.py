"""What huggingface/pytorch-image-models (timm) calls the leaves of CoAtNet; `maxvit` knows another source.

timm's own CoAtNets (`..._rw_...`) are the same as ours under the settings of `coatnet_variants`. Its
`coatnet_{0..5}_224` were never trained; what makes the networks of the paper equal to them is in `TIMM_PAPER`
and `TIMM_224`; `settings_for` chooses.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from offsites_jax.errors import UserError
from offsites_jax.export.importers import maxvit
from offsites_jax.export.importers.mapping import NameTable, Origin
from offsites_jax.models.coatnet import CoAtNet
from offsites_jax.train.state import flatten

HEAD = "params/head/logits/"

TIMM_PAPER: Mapping[str, Any] = {
    "padding": "symmetric",
    "layer_norm_epsilon": 1e-6,
    "norm": {"epsilon": 1e-5, "momentum": 0.9},
    "conv": {"activation": "gelu"},
    "attention": {"activation": "gelu"},
}
"""Overrides of `coatnet_{0..5}` for timm's, made with `conv_stride_mode="1x1"` and both pool types "max2"."""

TIMM_224: Mapping[str, Any] = {
    **TIMM_PAPER,
    "pool_type": "avg2",
    "conv": {"activation": "gelu", "downsample": "dw"},
    "attention": {"activation": "gelu", "head_size": 32},
}
"""Overrides of `coatnet_{0..5}` for timm's as they are by default: averages, strides in the depthwise layers,
and in the fifth smaller heads."""

Specs = Mapping[str, jax.ShapeDtypeStruct]

_TABLE = re.compile(r"stages\.(\d+)\..*\.relative_position_bias_table")

_MODULES = {
    "stem/conv_0": "stem.conv1",
    "stem/norm_0": "stem.norm1",
    "stem/conv_1": "stem.conv2",
    "head/logits": "head.fc",
    "head/hidden": "head.pre_logits.fc",
}
_PARTS = {
    "shortcut_proj": "shortcut.expand",
    "pre_norm": "pre_norm",
    "expand_conv": "conv1_1x1",
    "expand_norm": "norm1",
    "depthwise_conv": "conv2_kxk",
    "depthwise_norm": "norm2",
    "shrink_conv": "conv3_1x1",
    "ffn_norm": "norm2",
    "attn/out": "attn.proj",
    "attn/rel_mlp/fc1": "attn.rel_pos.mlp.fc1",
    "attn/rel_mlp/fc2": "attn.rel_pos.mlp.fc2",
    "ffn/expand": "mlp.fc1",
    "ffn/shrink": "mlp.fc2",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_INPUTS = ("query", "key", "value")


def abstract_variables(
    model: CoAtNet, tensors: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the model's leaves, by flat name; tables as the tensors of a file have them."""
    size = model.table_image_size or _image_size(tensors or {})
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    return flatten(jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images))


def _image_size(tensors: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """Size of images that make maps as large as the tables of a file are for; in timm they are square."""
    for name, shape in tensors.items():
        if match := _TABLE.fullmatch(name):
            differences = math.isqrt(shape[0])
            if differences**2 != shape[0]:
                raise UserError(
                    f"{name} is for maps that are not square: give the height and width of the images as "
                    "table_image_size"
                )
            side = (differences + 1) // 2 * 2 ** (int(match[1]) + 2)
            return side, side
        if match := maxvit.TABLE.fullmatch(name):
            height, width = ((differences + 1) // 2 * 2 ** (int(match[1]) + 2) for differences in shape[1:])
            return height, width
    return 224, 224


def timm_names(model: CoAtNet, wanted: Specs, tensors: Iterable[str], params: str) -> NameTable:
    """Names in timm, whose stages count from 0, and which keeps query, key and value together, by head."""
    if model.scan or model.patch_size:
        raise UserError("timm has no such CoAtNet: leave model.overrides.scan and patch_size out here")
    early = ".se_early." if model.conv.se_early else ".se."
    origins = {}
    for path, spec in wanted.items():
        module, _, leaf = path.partition("/")[2].rpartition("/")
        match = re.fullmatch(r"stage_(\d+)/block_(\d+)(?:/(.+))?", module)
        if match is None:
            name = _MODULES.get(module) or ("norm" if model.norm_features else "head.norm")
            origins[path] = _origin(name, leaf, spec.shape, as_conv=module.startswith("stem/"))
            continue
        place = f"stages.{int(match[1]) - 1}.blocks.{match[2]}."
        downsampled = f"stage_{match[1]}/block_{match[2]}" in _first_blocks(model)
        origins[path] = _block_origin(place, match[3] or "", leaf, spec.shape, early, downsampled)
    return NameTable(
        origins, HEAD, r"^head\.fc\.", (r"\.num_batches_tracked$", r"\.relative_position_index$")
    )


def _first_blocks(model: CoAtNet) -> set[str]:
    return {f"stage_{block.stage}/block_{block.place}" for block in model.blocks if block.downsample}


def _block_origin(
    place: str, module: str, leaf: str, shape: tuple[int, ...], early: str, downsampled: bool
) -> Origin:
    """Origin of one leaf of a block."""
    head, _, last = module.rpartition("/")
    if not module:
        return Origin(place + {"attn_scale": "ls1.gamma", "ffn_scale": "ls2.gamma"}[leaf])
    if module == "attn":
        return _table_origin(place + "attn.rel_pos.relative_position_bias_table", shape)
    if head == "attn" and last in _INPUTS:
        return _input_origin(place + "attn.qkv.", leaf, shape, _INPUTS.index(last))
    if head == "se":
        return _origin(place[:-1] + early + {"reduce": "fc1", "expand": "fc2"}[last], leaf, shape)
    if module == "attn_norm":
        return _origin(place + ("norm1.norm" if downsampled else "norm1"), leaf, shape)
    return _origin(place + _PARTS[module], leaf, shape, as_conv="rel_mlp" not in module)


def _origin(name: str, leaf: str, shape: tuple[int, ...], as_conv: bool = True) -> Origin:
    """Origin of a leaf that is a tensor of its own; dense layers of blocks are 1x1 convolutions there."""
    name = f"{name}.{_LEAVES.get(leaf, leaf)}"
    if leaf != "kernel":
        return Origin(name)
    if len(shape) == 4:
        return Origin(name, (2, 3, 1, 0))
    if not as_conv or name.startswith("head."):
        return Origin(name, (1, 0))
    # [..., in, out] here, the output's projection with two axes of inputs; [out, in, 1, 1] there.
    inputs = math.prod(shape[:-1])
    axes = (1, 0) if len(shape) == 2 else (1, 2, 0)
    return Origin(name, axes, (shape[-1], *shape[:-1]), (shape[-1], inputs, 1, 1))


def _table_origin(name: str, shape: tuple[int, ...]) -> Origin:
    heads, rows, columns = shape
    return Origin(name, (2, 0, 1), (rows, columns, heads), (rows * columns, heads))


def _input_origin(name: str, leaf: str, shape: tuple[int, ...], index: int) -> Origin:
    """A third of the one convolution that makes query, key and value, head by head."""
    *inputs, heads, size = shape
    whole = 3 * heads * size
    part = (1, index, 3)
    if leaf == "bias":
        return Origin(name + "bias", None, (heads, 3, size), (whole,), part)
    return Origin(name + "weight", (2, 0, 1), (heads, 3, size, *inputs), (whole, *inputs, 1, 1), part)


SOURCES: Mapping[str, Callable[[CoAtNet, Specs, Iterable[str], str], NameTable]] = {
    "timm": timm_names,
    "timm_224": timm_names,
    "maxvit": maxvit.maxvit_names,
}

SETTINGS: Mapping[str, Mapping[str, Any]] = {"timm_224": TIMM_224, "maxvit": maxvit.SETTINGS}
"""Fields of the model that all networks of a source need, unless the caller says otherwise."""


def settings_for(model: CoAtNet, source: str) -> Mapping[str, Any]:
    """Fields of the model that a network of a source needs, unless the caller says otherwise.

    No shape tells "timm" (paddings, activations and epsilons as there, pools and strides the model's) from
    "timm_224" (pools and strides as there too).

    Args:
      model: as it is without them.
      source: of `SOURCES`.

    """
    # Networks of timm's own are, under their names, as they are there; they alone have such a head.
    if source == "timm" and not model.norm_features:
        return TIMM_PAPER
    return SETTINGS.get(source, {})
