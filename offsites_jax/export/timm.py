"""Our weights as huggingface/pytorch-image-models (timm) loads them: the importers, the other way round."""

import importlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from safetensors.numpy import save_file

from offsites_jax.errors import UserError
from offsites_jax.export.importers.files import open_tensors
from offsites_jax.export.importers.mapping import NameTable, fill, spill
from offsites_jax.export.importing import FAMILIES
from offsites_jax.export.inference import Inference
from offsites_jax.export.timm_networks import NETWORKS
from offsites_jax.models.stacked import stack_blocks, unstack_blocks
from offsites_jax.train.state import flatten, unflatten

WEIGHTS = "model.safetensors"
NETWORK = "timm.json"


def timm_tensors(model: nn.Module, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The state dict of timm, as arrays by name, that holds the same numbers.

    Args:
      model: an EfficientNet, CoAtNet or ResNet.
      variables: of the model, or anything of their structure, such as gradients beside statistics.

    Raises:
      UserError: timm has no such network.

    """
    leaves = _leaves(variables)
    return spill(leaves, _table(model, leaves))


def timm_network(model: nn.Module, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `timm.create_model` that make the same network.

    Raises:
      UserError: timm has no such network.

    """
    return NETWORKS[_family(model)](model, _leaves(variables))


def save(inference: Inference, folder: pathlib.Path) -> None:
    """Writes the weights, and how timm makes their network.

    Raises:
      UserError: the project has no model that timm knows.

    """
    model = _model(inference)
    network = timm_network(model, inference.variables)
    save_file(timm_tensors(model, inference.variables), folder / WEIGHTS)
    (folder / NETWORK).write_text(json.dumps(network, indent=2) + "\n")


def reload(inference: Inference, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Our leaves by flat name, out of a folder that `save` wrote."""
    model, leaves = _model(inference), _leaves(inference.variables)
    with open_tensors(folder / WEIGHTS) as tensors:
        filled = fill(leaves, _table(model, leaves), tensors)
    return flatten(jax.device_get(stack_blocks(unflatten(filled.leaves), inference.variables)))


def _model(inference: Inference) -> nn.Module:
    if inference.model is None:
        raise UserError("--format timm: the task has no field `model`; export in another format")
    return inference.model


def _family(model: nn.Module) -> str:
    name = type(model).__name__
    if name not in NETWORKS:
        raise UserError(f"--format timm: knows {', '.join(NETWORKS)}, not {name}; export in another format")
    return name


def _leaves(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by flat name, each block of a scanned run by itself."""
    return {name: np.asarray(leaf) for name, leaf in flatten(unstack_blocks(variables)).items()}


def _table(model: nn.Module, leaves: Mapping[str, np.ndarray]) -> NameTable:
    names = importlib.import_module(FAMILIES[_family(model)])
    plain = model.clone(scan=False) if getattr(model, "scan", False) else model
    return names.SOURCES["timm"](plain, leaves, (), "ema")
