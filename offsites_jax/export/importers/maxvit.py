"""What google-research/maxvit calls the leaves of CoAtNet, in the TensorFlow checkpoints it writes.

Its layers are those of the paper's authors, but the public code puts only MaxViT together from them, and no
weights of a CoAtNet are public: this is for checkpoints of one's own. Differences of positions are key minus
query there, query minus key here, so both axes of a table turn round.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from offsites_jax.errors import UserError
from offsites_jax.export.importers.mapping import NameTable, Origin
from offsites_jax.models.coatnet import CoAtNet

SETTINGS: Mapping[str, Any] = {"stem_bias": True}
"""Fields of `CoAtNet` in which its networks always differ from ours by default."""

TABLE = re.compile(r"(?:.*/)?block_(\d+)_\d+/attention/relative_bias(?:/.*)?")

_AVERAGED = "/ExponentialMovingAverage"
_SLOTS = r"/(Adam|Momentum|RMSProp)(_\d+)?$|/adam_[mv]$"
# What stands before these depends on who wraps the network, and on the version of TensorFlow.
_OWN = re.compile(
    r"(?:.*?/)?((?:conv_[01]|norm_0|block_\d+_\d+|final_layer_norm|inner_dense|logit_dense)/.+)"
)
_MODULES = {
    "stem/conv_0": "conv_0",
    "stem/norm_0": "norm_0",
    "stem/conv_1": "conv_1",
    "head/norm": "final_layer_norm",
    "head/hidden": "inner_dense",
    "head/logits": "logit_dense",
}
_PARTS = {
    "se/reduce": "se/reduce_conv2d",
    "se/expand": "se/expand_conv2d",
    "attn_norm": "attn_layer_norm",
    "attn": "attention",
    "attn/query": "attention/q",
    "attn/key": "attention/k",
    "attn/value": "attention/v",
    "attn/out": "attention/o",
    "ffn_norm": "ffn_layer_norm",
    "ffn/expand": "ffn/expand_dense",
    "ffn/shrink": "ffn/shrink_dense",
}
_NORM_LEAVES = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}


def maxvit_names(
    model: CoAtNet, wanted: Mapping[str, jax.ShapeDtypeStruct], tensors: Iterable[str], params: str
) -> NameTable:
    """Names of variables, which count stages and blocks from 0, and of the averages kept beside them.

    Raises:
      UserError: the layers of google-research/maxvit make no such network.

    """
    if model.scan or model.patch_size or model.norm_features or model.attention.layer_scale:
        raise UserError(
            "google-research/maxvit has no such CoAtNet: leave scan, patch_size, norm_features and "
            "attention.layer_scale out of model.overrides here"
        )
    names = list(tensors)
    averaged = params == "ema" and any(name.endswith(_AVERAGED) for name in names)
    suffix = _AVERAGED if averaged else ""
    found = {match[1]: name for name in names if (match := _OWN.fullmatch(name))}
    transformers = {f"stage_{block.stage}/block_{block.place}" for block in model.blocks if block.kind == "t"}
    origins = {}
    for path, spec in wanted.items():
        own = _own_name(path.partition("/")[2], transformers) + suffix
        origins[path] = _origin(found.get(own, own), path, spec.shape, dense="/weight" in own)
    other = rf"^(?!.*{_AVERAGED}$)" if averaged else rf"{_AVERAGED}$"
    return NameTable(origins, "params/head/logits/", r"(^|/)logit_dense/", (r"^global_step$", _SLOTS, other))


def _own_name(path: str, transformers: set[str]) -> str:
    """What a leaf is called within the network."""
    module, _, leaf = path.rpartition("/")
    match = re.fullmatch(r"(stage_(\d+)/block_(\d+))/(.+)", module)
    if match is None:
        return f"{_MODULES[module]}/{_leaf(leaf, module, dense=module.startswith('head/'))}"
    block, stage, place, part = match.groups()
    dense = block in transformers
    own = _PARTS.get(part, "shortcut_conv" if part == "shortcut_proj" and not dense else part)
    return f"block_{int(stage) - 1:02}_{int(place):02}/{own}/{_leaf(leaf, part, dense)}"


def _leaf(leaf: str, module: str, dense: bool) -> str:
    if re.search(r"norm(_0)?$", module):
        return _NORM_LEAVES[leaf]
    if leaf == "kernel":
        return "weight" if dense else "depthwise_kernel" if module == "depthwise_conv" else "kernel"
    return leaf


def _origin(name: str, path: str, shape: tuple[int, ...], dense: bool) -> Origin:
    """How a leaf lies there."""
    if path.endswith("depthwise_conv/kernel"):
        return Origin(name, (0, 1, 3, 2))
    if path.endswith("/relative_bias"):
        return Origin(name, turned=(1, 2))
    if dense and len(shape) == 4:  # a shortcut, a 1x1 convolution here
        return Origin(name, None, shape, shape[2:])
    return Origin(name)
