"""The detector: a backbone by name with one output for each thing to be told apart."""

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
      name: a name of `offsites list models`; EfficientNets and ResNets give class-activation maps.
      outputs: what each logit says: `abnormal`, or columns of the labels such as findings.
      overrides: any fields of that model: dropout_rate, norm, remat ...

    """

    name: str = "efficientnet_b7"
    outputs: tuple[str, ...] = ("abnormal",)
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.outputs or len(set(self.outputs)) != len(self.outputs):
            raise UserError(f"config.model.outputs: {list(self.outputs)}: name one or more, each once")


def create_detector(config: ModelConfig, dtype: jnp.dtype) -> nn.Module:
    """The Linen module; activations are computed in `dtype`.

    Raises:
      UserError: an override that has a place of its own in the config, or that the model does not know.

    """
    for key, place in (("num_classes", "model.outputs"), ("dtype", "train.precision")):
        if key in config.overrides:
            raise UserError(f"config.model.overrides.{key}: set {place} instead")
    return create_model(config.name, num_classes=len(config.outputs), dtype=dtype, **config.overrides)
