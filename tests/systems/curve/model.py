"""A small network with everything that makes resuming hard: noise and a running statistic."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Section `model`.

    Attributes:
      width: hidden units.
      dropout_rate: share of hidden units dropped in training.
      centre: whether the running mean is taken off the inputs.
    """

    width: int = 16
    dropout_rate: float = 0.05
    centre: bool = True


class Network(nn.Module):
    """One hidden layer on inputs centred by their running mean."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x, *, train):
        """Maps [batch, 1] to [batch]."""
        mean = self.variable("running", "mean", jnp.zeros, (1,))
        centred = x - mean.value if self.config.centre else x
        if train and not self.is_initializing():
            mean.value = 0.9 * mean.value + 0.1 * x.mean(0)
        hidden = nn.tanh(nn.Dense(self.config.width)(centred))
        hidden = nn.Dropout(self.config.dropout_rate, deterministic=not train)(hidden)
        return nn.Dense(1)(hidden)[:, 0]
