"""What a project tells the trainer, and nothing more: a Task with its Objectives.

Everything here is pure and can be jitted. The trainer knows no project, no loss and no GAN; it knows
an ordered tuple of objectives, the parameter groups they train, and sums with weights.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

Tree = Any
Batch = dict[str, Array]
Variables = dict[str, Tree]

MAIN = "main"


@flax.struct.dataclass
class Mean:
    """A weighted mean kept as its sum and its weight, so that parts add up exactly.

    Means over micro-batches, devices and ragged last batches are merged by adding both fields and
    dividing once at the end.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]

    @classmethod
    def of(cls, values: Array, weights: Array | None = None) -> "Mean":
        """Mean of `values` under `weights`, which broadcast from the left: [batch] over [batch, time]."""
        values = jnp.asarray(values, jnp.float32)
        if weights is None:
            return cls(values.sum(), jnp.asarray(values.size, jnp.float32))
        weights = jnp.asarray(weights, jnp.float32)
        weights = weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
        weights = jnp.broadcast_to(weights, values.shape)
        # Select before multiplying: a padded row may hold inf or NaN, and 0 * NaN is NaN.
        return cls(jnp.where(weights != 0, values * weights, 0.0).sum(), weights.sum())

    def scale(self, factor: float | Array) -> "Mean":
        """The mean times `factor`."""
        return Mean(self.total * factor, self.weight)

    def __add__(self, other: "Mean") -> "Mean":
        """The mean over both parts."""
        return Mean(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> Float[Array, ""]:
        """Sum over weight; 0 where there was nothing to average."""
        return jnp.where(self.weight == 0, 0.0, self.total / jnp.where(self.weight == 0, 1, self.weight))


@flax.struct.dataclass
class Loss:
    """What an objective's loss function returns.

    Attributes:
      terms: named weighted means; the loss that is minimised is the sum of their values. Each keeps its
        own weight (tokens, frames, boxes, examples), so gradient accumulation is exact for all of them.
        Weights carry no gradient.
      model_state: the new mutable collections (batch statistics, spectral-norm vectors ...).
      metrics: further weighted means, for the log only.

    """

    terms: Mapping[str, Mean]
    model_state: Tree = flax.struct.field(default_factory=dict)
    metrics: Mapping[str, Mean] = flax.struct.field(default_factory=dict)


LossFn = Callable[[Tree, Tree, Batch, PRNGKeyArray, Int[Array, ""]], Loss]


@dataclasses.dataclass(frozen=True)
class Objective:
    """One update inside the train step: a loss, and the parameter groups it moves.

    Attributes:
      name: prefix of its log entries and of its random stream.
      loss: `loss(params, model_state, batch, rng, step) -> Loss` over all parameters; gradients flow
        only into the groups in `trains`.
      trains: names of parameter groups (keys of `Task.parameter_groups`). Each group has one optimizer
        and one optimizer state, shared by every objective that trains it.
      part: (i, n): see the i-th of n equal parts of the global batch, (0, 1) being all of it. A GAN that
        takes two discriminator steps per generator step gives each its own part.

    """

    name: str
    loss: LossFn
    trains: tuple[str, ...] = (MAIN,)
    part: tuple[int, int] = (0, 1)


class Task(abc.ABC):
    """A system as the trainer sees it. Subclasses are frozen dataclasses built from the experiment.

    Attributes:
      parameter_groups: regex on the parameter path for each group, first match wins; a parameter that
        no group matches is frozen. One group for everything unless a task says otherwise.
      inputs: names of the batch entries that `predict` reads; what an export asks its callers for.
      scored: further entries that `predict` makes use of at evaluation, where a batch has them, such as the
        truth that a likelihood is of.

    """

    parameter_groups: Mapping[str, str] = {MAIN: ".*"}
    inputs: tuple[str, ...] = ()
    scored: tuple[str, ...] = ()

    @abc.abstractmethod
    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        """Fresh variables: `params` and any mutable collections. Called under jit."""

    @property
    @abc.abstractmethod
    def objectives(self) -> tuple[Objective, ...]:
        """What one step does, in order."""

    @abc.abstractmethod
    def predict(self, variables: Variables, batch: Batch) -> dict[str, Array]:
        """Deterministic outputs, each with the batch as first axis. Evaluated and exported alike."""

    @abc.abstractmethod
    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a global train batch, known without reading data."""

    def settle(self, before: Tree, after: Tree) -> Tree:
        """The last word on a step: the train state to keep, given those before and after the updates.

        Pure and inside the jitted step. Where some parameters must stay bit for bit (speakers that have
        stopped early), be clamped, or be copied aside (the best so far), a task says so here.
        """
        return after

    def heed(self, state: Tree, scores: Mapping[str, Float[Array, ""]]) -> Tree:
        """The train state to go on with after an evaluation, given its scores by "<evaluator>/<metric>".

        Pure and jitted. Where training follows from scores (members that stop early, a copy of the best so
        far), a task says so here; a checkpoint of that step is saved afterwards. Called only where a task
        defines it.
        """
        return state

    def input_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The part of `batch_spec` that `predict` reads."""
        spec = self.batch_spec(batch_size)
        return {name: spec[name] for name in self.inputs}

    def example(
        self, rng: np.random.Generator, spec: Mapping[str, jax.ShapeDtypeStruct]
    ) -> dict[str, np.ndarray]:
        """Inputs of these shapes for what random numbers do not stand for, such as how long a recording is.

        An export is compared with the live model on standard normal floats, any byte, zeros and ones as
        other integers, and these.
        """
        del rng, spec
        return {}
