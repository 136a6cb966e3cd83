"""Which backbone classifies, and with what changes."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

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
    """The Linen module; activations are computed in `dtype`."""
    return create_model(config.name, num_classes=config.num_classes, dtype=dtype, **config.overrides)
