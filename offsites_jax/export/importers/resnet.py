"""What huggingface/pytorch-image-models (timm), and torchvision likewise, call the leaves of ResNet."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from offsites_jax.export.importers.mapping import NameTable, Origin
from offsites_jax.models.resnet import ResNet
from offsites_jax.train.state import flatten

HEAD = "params/classifier/"

Specs = Mapping[str, jax.ShapeDtypeStruct]

_MODULES = {"stem/conv": "conv1", "stem/bn": "bn1", "classifier": "fc"}
_PARTS = {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1"}
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def abstract_variables(
    model: ResNet, tensors: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the model's leaves, by flat name."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return flatten(jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images))


def timm_names(model: ResNet, wanted: Specs, tensors: Iterable[str], params: str) -> NameTable:
    """Names in timm, whose stages are layers from 1, with blocks from 0 and their parts from 1."""
    origins = {}
    for path, spec in wanted.items():
        module, _, leaf = path.partition("/")[2].rpartition("/")
        if match := re.fullmatch(r"stage_(\d+)/block_(\d+)/(.+)", module):
            part = _PARTS.get(match[3]) or match[3].replace("_", "")
            module = f"layer{match[1]}.{match[2]}.{part}"
        axes = {4: (2, 3, 1, 0), 2: (1, 0)}[len(spec.shape)] if leaf == "kernel" else None
        origins[path] = Origin(f"{_MODULES.get(module, module)}.{_LEAVES.get(leaf, leaf)}", axes)
    return NameTable(origins, HEAD, r"^fc\.", (r"\.num_batches_tracked$",))


SOURCES: Mapping[str, Callable[[ResNet, Specs, Iterable[str], str], NameTable]] = {"timm": timm_names}


def settings_for(model: ResNet, source: str) -> Mapping[str, Any]:
    """Fields of the model that a network of a source needs: none, what is the same has the same settings."""
    return {}
