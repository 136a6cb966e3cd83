"""What timm, google/automl and Keras call the leaves of EfficientNet and EfficientNetV2.

Only networks with TensorFlow's padding and epsilon are the same as ours: of timm, those named `tf_...`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from offsites_jax.errors import UserError
from offsites_jax.export.importers.mapping import NameTable, Origin
from offsites_jax.models.efficientnet import EfficientNet
from offsites_jax.models.efficientnet_stages import parse_stages, scale_stages
from offsites_jax.train.state import flatten

HEAD = "params/classifier/"

Specs = Mapping[str, jax.ShapeDtypeStruct]

_AVERAGED = "/ExponentialMovingAverage"


def abstract_variables(
    model: EfficientNet, tensors: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the model's leaves, by flat name."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return flatten(jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images))


def timm_names(model: EfficientNet, wanted: Specs, tensors: Iterable[str], params: str) -> NameTable:
    """Names in huggingface/pytorch-image-models, whose blocks are numbered within their stage."""
    modules = {
        "stem/conv": "conv_stem",
        "stem/bn": "bn1",
        "head/conv": "conv_head",
        "head/bn": "bn2",
        "classifier": "classifier",
    }
    stages = scale_stages(parse_stages(model.blocks), model.width, model.depth, model.round_limit)
    places = [f"blocks.{s}.{j}" for s, stage in enumerate(stages) for j in range(stage.repeats)]
    for (block, parts), place in zip(_blocks(wanted).items(), places, strict=True):
        names = _timm_convolutions(parts) | _numbered(parts, "_bn", "bn1", "bn2", "bn3")
        names |= {"se/reduce": "se.conv_reduce", "se/expand": "se.conv_expand"}
        modules |= {f"{block}/{part}": f"{place}.{names[part]}" for part in parts}
    leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}  # [out, in, height, width] and [out, in] there
    return _table(
        wanted,
        lambda module, leaf: f"{modules[module]}.{leaves.get(leaf, leaf)}",
        lambda module, ndim: axes.get(ndim),
        r"^classifier\.",
        (r"\.num_batches_tracked$",),
    )


def _timm_convolutions(parts: Sequence[str]) -> dict[str, str]:
    """The four kinds of block name their convolutions differently."""
    match ("expand_conv" in parts, "depthwise_conv" in parts):
        case True, True:
            return {"expand_conv": "conv_pw", "depthwise_conv": "conv_dw", "project_conv": "conv_pwl"}
        case False, True:
            return {"depthwise_conv": "conv_dw", "project_conv": "conv_pw"}
        case True, False:
            return {"expand_conv": "conv_exp", "project_conv": "conv_pwl"}
        case _:
            return {"project_conv": "conv"}


def automl_names(model: EfficientNet, wanted: Specs, tensors: Iterable[str], params: str) -> NameTable:
    """Names in google/automl, which counts layers of a kind within a block, and keeps averages beside."""
    tensors = list(tensors)
    prefix = _prefix(tensors, "stem/conv2d/kernel")
    suffix = _AVERAGED if params == "ema" and any(name.endswith(_AVERAGED) for name in tensors) else ""
    norm = "tpu_batch_normalization"
    modules = {
        "stem/conv": "stem/conv2d",
        "stem/bn": f"stem/{norm}",
        "head/conv": "head/conv2d",
        "head/bn": f"head/{norm}",
        # The scope of the head is opened twice, which some versions of TensorFlow number.
        "classifier": "head_1/dense" if f"{prefix}head_1/dense/kernel" in tensors else "head/dense",
    }
    for block, parts in _blocks(wanted).items():
        plain = [part for part in parts if part != "depthwise_conv"]
        names = _numbered(plain, "_conv", "conv2d", "conv2d_1")
        names |= _numbered(parts, "_bn", norm, f"{norm}_1", f"{norm}_2")
        names |= {"depthwise_conv": "depthwise_conv2d", "se/reduce": "se/conv2d", "se/expand": "se/conv2d_1"}
        modules |= {f"{block}/{part}": f"{block}/{names[part]}" for part in parts}
    leaves = {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance"}

    def name(module: str, leaf: str) -> str:
        if module.endswith("depthwise_conv") and leaf == "kernel":
            leaf = "depthwise_kernel"
        if module.endswith("bn"):
            leaf = {"bias": "beta", **leaves}[leaf]
        return f"{prefix}{modules[module]}/{leaf}{suffix}"

    slots = r"/(RMSProp|Momentum|Adam)(_\d+)?$"
    other = r"^(?!.*/ExponentialMovingAverage$)" if suffix else rf"{_AVERAGED}$"
    return _table(wanted, name, _tensorflow_axes, r"/head(_1)?/dense/", (r"^global_step$", slots, other))


def keras_names(model: EfficientNet, wanted: Specs, tensors: Iterable[str], params: str) -> NameTable:
    """Layers of keras.applications, whose letters count blocks in a stage; weights by place in a layer."""
    depthwise = "dwconv2" if any("_dwconv2/" in name for name in tensors) else "dwconv"
    modules = {
        "stem/conv": "stem_conv",
        "stem/bn": "stem_bn",
        "head/conv": "top_conv",
        "head/bn": "top_bn",
        "classifier": "predictions",
    }
    stages = scale_stages(parse_stages(model.blocks), model.width, model.depth, model.round_limit)
    places = [f"block{s}{chr(97 + j)}" for s, stage in enumerate(stages, 1) for j in range(stage.repeats)]
    renamed = {"depthwise_conv": depthwise, "depthwise_bn": "bn", "se/reduce": "se_reduce"}
    renamed["se/expand"] = "se_expand"
    for (block, parts), place in zip(_blocks(wanted).items(), places, strict=True):
        modules |= {f"{block}/{part}": f"{place}_{renamed.get(part, part)}" for part in parts}
    indices = {"kernel": 0, "scale": 0, "bias": 1, "mean": 2, "var": 3}
    return _table(
        wanted,
        lambda module, leaf: f"{modules[module]}/{indices[leaf]}",
        _tensorflow_axes,
        r"^predictions/",
        (r"^normalization(_\d+)?/",),  # of the pixels, inside the first generation's model
    )


SOURCES: Mapping[str, Callable[[EfficientNet, Specs, Iterable[str], str], NameTable]] = {
    "timm": timm_names,
    "automl": automl_names,
    "keras": keras_names,
}


def settings_for(model: EfficientNet, source: str) -> Mapping[str, Any]:
    """Fields of the model that a network of a source needs: none, what is the same has the same settings."""
    return {}


def _table(
    wanted: Specs,
    name: Callable[[str, str], str],
    axes: Callable[[str, int], tuple[int, ...] | None],
    head_there: str,
    ignored: tuple[str, ...],
) -> NameTable:
    """Origins of all leaves, from the name of a module's leaf and the transposition of its kernel."""
    origins = {}
    for path, spec in wanted.items():
        module, _, leaf = path.partition("/")[2].rpartition("/")
        origins[path] = Origin(
            name(module, leaf), axes(module, len(spec.shape)) if leaf == "kernel" else None
        )
    return NameTable(origins, HEAD, head_there, ignored)


def _tensorflow_axes(module: str, ndim: int) -> tuple[int, ...] | None:
    """Depthwise kernels are [height, width, channels, 1] there, and [height, width, 1, channels] here."""
    return (0, 1, 3, 2) if module.endswith("depthwise_conv") else None


def _blocks(wanted: Specs) -> dict[str, list[str]]:
    """Modules of each block, such as `expand_conv` and `se/reduce`, in the order they run."""
    order = "expand_conv expand_bn depthwise_conv depthwise_bn se/reduce se/expand project_conv project_bn"
    found: dict[int, set[str]] = {}
    for path in wanted:
        if match := re.fullmatch(r"params/blocks_(\d+)/(.+)/[^/]+", path):
            found.setdefault(int(match[1]), set()).add(match[2])
    return {f"blocks_{k}": [part for part in order.split() if part in found[k]] for k in sorted(found)}


def _numbered(parts: Sequence[str], ending: str, *names: str) -> dict[str, str]:
    """Names by turn for the parts of one kind."""
    return dict(zip((part for part in parts if part.endswith(ending)), names, strict=False))


def _prefix(tensors: Sequence[str], name: str) -> str:
    """What stands before a name that has to be there once."""
    found = [tensor.removesuffix(name) for tensor in tensors if tensor.endswith(name)]
    if len(found) != 1:
        raise UserError(f"weights: {len(found)} tensors are called .../{name}, one is wanted; check --from")
    return found[0]
