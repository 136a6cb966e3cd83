"""Fits y = sin(3 x)."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from offsites_jax.train.contract import Loss, Mean, Objective, Task

from .model import Network


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Section `task`.

    Attributes:
      explode_at: step whose loss is NaN; -1 for none.
    """

    explode_at: int = -1


@dataclasses.dataclass(frozen=True)
class Curve(Task):
    """Regression on one number."""

    network: nn.Module
    config: TaskConfig
    inputs = ("x",)

    def init(self, rng, batch):
        """Fresh variables."""
        return self.network.init(rng, batch["x"], train=False)

    @property
    def objectives(self):
        """One."""
        return (Objective("fit", self.loss),)

    def loss(self, params, model_state, batch, rng, step):
        """Squared error."""
        y, model_state = self.network.apply(
            {"params": params, **model_state},
            batch["x"],
            train=True,
            rngs={"dropout": rng},
            mutable=["running"],
        )
        error = jnp.where(step == self.config.explode_at, jnp.nan, (y - batch["y"]) ** 2)
        return Loss(
            {"squared_error": Mean.of(error)}, model_state, {"rows": Mean.of(fingerprint(batch["x"]))}
        )

    def predict(self, variables, batch):
        """y."""
        return {"y": self.network.apply(variables, batch["x"], train=False)}

    def batch_spec(self, batch_size):
        """x and y."""
        return {
            "x": jax.ShapeDtypeStruct((batch_size, 1), jnp.float32),
            "y": jax.ShapeDtypeStruct((batch_size,), jnp.float32),
        }


def fingerprint(x):
    """A whole number for each row, from its bits: sums of them are exact, in any order."""
    return jax.lax.bitcast_convert_type(x[:, 0], jnp.uint32) % 1009


def create_task(experiment, dtype):
    """The task."""
    return Curve(Network(experiment.model), experiment.task)
