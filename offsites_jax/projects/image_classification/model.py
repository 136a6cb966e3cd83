"""Which backbone classifies, and with what changes."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from offsites_jax.errors import UserError
from offsites_jax.models.registry import create_model


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Section `model`.

    Attributes:
      name: a name of `offsites list models`.
      num_classes: outputs of the classifier.
      overrides: any fields of that model: dropout_rate, stochastic_depth_rate, blocks ...

    """

    name: str = "efficientnet_v2_b0"
    num_classes: int = 1000
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)


def create_classifier(config: ModelConfig, dtype: jnp.dtype) -> nn.Module:
    """The Linen module; activations are computed in `dtype`.

    Raises:
      UserError: an override that has a place of its own in the config, or that the model does not know.
    """
    for key, place in (("num_classes", "model.num_classes"), ("dtype", "train.precision")):
        if key in config.overrides:
            raise UserError(f"config.model.overrides.{key}: set {place} instead")
    return create_model(config.name, num_classes=config.num_classes, dtype=dtype, **config.overrides)
