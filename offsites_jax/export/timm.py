"""Our weights as huggingface/pytorch-image-models (timm) loads them."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from safetensors.numpy import save_file

from offsites_jax.export.foreign import check_family, leaves_of, model_of, read_back, tensors_there
from offsites_jax.export.inference import Inference
from offsites_jax.export.timm_networks import NETWORKS

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
    check_family(model, "timm", NETWORKS)
    return tensors_there(model, variables, "timm")


def timm_network(model: nn.Module, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `timm.create_model` that make the same network.

    Raises:
      UserError: timm has no such network.

    """
    return NETWORKS[check_family(model, "timm", NETWORKS)](model, leaves_of(variables))


def save(inference: Inference, folder: pathlib.Path) -> None:
    """Writes the weights, and how timm makes their network.

    Raises:
      UserError: the project has no model that timm knows.

    """
    model = model_of(inference, "timm", NETWORKS)
    network = timm_network(model, inference.variables)
    save_file(timm_tensors(model, inference.variables), folder / WEIGHTS)
    (folder / NETWORK).write_text(json.dumps(network, indent=2) + "\n")


def reload(inference: Inference, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Our leaves by flat name, out of a folder that `save` wrote."""
    return read_back(inference, model_of(inference, "timm", NETWORKS), folder / WEIGHTS, "timm")
