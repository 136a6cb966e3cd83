"""Our weights under the names of another library: the importers, the other way round."""

import importlib
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from offsites_jax.errors import UserError
from offsites_jax.export.importers.files import open_tensors
from offsites_jax.export.importers.mapping import NameTable, fill, spill
from offsites_jax.export.importing import FAMILIES
from offsites_jax.export.inference import Inference
from offsites_jax.models import efficientnet
from offsites_jax.models.efficientnet import EfficientNet
from offsites_jax.models.stacked import stack_blocks, unstack_blocks
from offsites_jax.train.state import flatten, unflatten

Leaves = Mapping[str, np.ndarray]


def model_of(inference: Inference, form: str, families: Iterable[str]) -> nn.Module:
    """The network inside, of a family that a format is for.

    Raises:
      UserError: the project has none.

    """
    if inference.model is None:
        raise UserError(f"--format {form}: the task has no field `model`; export in another format")
    check_family(inference.model, form, families)
    return inference.model


def check_family(model: nn.Module, form: str, families: Iterable[str]) -> str:
    """Name of the model's class; raises UserError where the format is not for it."""
    name = type(model).__name__
    if name not in families:
        raise UserError(f"--format {form}: knows {', '.join(families)}, not {name}; export in another format")
    return name


def leaves_of(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by flat name, each block of a scanned run by itself."""
    return {name: np.asarray(leaf) for name, leaf in flatten(unstack_blocks(variables)).items()}


def names_there(model: nn.Module, leaves: Leaves, source: str, tensors: Iterable[str] = ()) -> NameTable:
    """What a source calls the leaves; `tensors` is what else it asks the names in a file for."""
    names = importlib.import_module(FAMILIES[type(model).__name__])
    plain = model.clone(scan=False) if getattr(model, "scan", False) else model
    return names.SOURCES[source](plain, leaves, tensors, "ema")


def tensors_there(
    model: nn.Module, variables: Mapping[str, Any], source: str, tensors: Iterable[str] = ()
) -> dict[str, np.ndarray]:
    """The same numbers by a source's names, in its shapes and in the order of our leaves."""
    leaves = leaves_of(variables)
    return spill(leaves, names_there(model, leaves, source, tensors))


def read_back(
    inference: Inference, model: nn.Module, file: pathlib.Path, source: str
) -> dict[str, np.ndarray]:
    """Our leaves by flat name out of a file, strictly, as an import reads it."""
    leaves = leaves_of(inference.variables)
    with open_tensors(file) as tensors:
        filled = fill(leaves, names_there(model, leaves, source, tensors.shapes), tensors)
    return flatten(jax.device_get(stack_blocks(unflatten(filled.leaves), inference.variables)))


def published_name(model: EfficientNet) -> str | None:
    """Name of the published EfficientNet that has these blocks, if there is one."""
    wanted = _architecture(model)
    for name in efficientnet.VARIANTS:
        if _architecture(EfficientNet(**efficientnet.variant(name).settings)) == wanted:
            return name
    return None


def _architecture(model: EfficientNet) -> tuple[object, ...]:
    blocks = tuple(str(block) for block in model.blocks)
    return (
        blocks,
        float(model.width),
        float(model.depth),
        model.round_limit,
        model.head_width,
        model.norm.epsilon,
    )
