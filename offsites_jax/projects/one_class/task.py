"""The first stage of one-class classification: a pretext task that needs no labels.

Rows of the pretext task are made on the device, inside the objective, from the bytes of the batch and the
step's key: seed and step alone decide them, on any mesh and after any restart.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.augment import to_unit
from offsites_jax.projects.one_class.data_config import DataConfig
from offsites_jax.projects.one_class.losses import contrastive_accuracy
from offsites_jax.projects.one_class.model import OneClassNetwork, create_network
from offsites_jax.projects.one_class.stacking.task import StackConfig, Stacked
from offsites_jax.projects.one_class.views.pretexts import (
    UNIONS,
    PretextConfig,
    make_rows,
    num_classes,
    row_losses,
)
from offsites_jax.train.config import Experiment
from offsites_jax.train.contract import MAIN, Batch, Loss, Mean, Objective, Task, Tree, Variables
from offsites_jax.train.penalty import half_squared_norm

SCORED = ("pooled", "embeds", "logits")
"""What `predict` gives of an image: pooled features (what scorers are fitted to), head output, logits."""

STAGES = "reduction_"
"""What names of the backbone's stages begin with; `predict` gives the mean of each, too."""

_GROUPS = {"backbone": "^backbone/", "head": "^head/"}


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Section `task`.

    Attributes:
      pretext: what the representation is trained to tell apart.
      l2: weight of half the squared norm of all parameters, batch norms and biases too, inside the loss.
      stack: trainings side by side; what `offsites one_class protocol --stacked` fills in.

    """

    pretext: PretextConfig = PretextConfig()
    l2: float = 0.0
    stack: StackConfig = StackConfig()

    def __post_init__(self) -> None:
        if not 0 <= self.l2 < float("inf"):
            raise UserError(f"config.task.l2: is {self.l2}, must be at least 0")


@dataclasses.dataclass(frozen=True)
class OneClass(Task):
    """Images of one class to a representation of them.

    With an optimizer section for each of `backbone` and `head` these are groups of their own; otherwise
    everything is trained by one.
    """

    model: OneClassNetwork
    config: TaskConfig
    data: DataConfig
    parameter_groups: Mapping[str, str] = dataclasses.field(default_factory=lambda: {MAIN: ".*"})

    inputs = ("image",)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        """Fresh variables of backbone and head."""
        side = self.config.pretext.window or self.data.image_size
        pixels = to_unit(batch["image"][:, :side, :side])
        return dict(self.model.init(rng, pixels, train=False))

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """One: the pretext task plus L2."""
        return (Objective("pretext", self.loss, tuple(self.parameter_groups)),)

    def loss(
        self, params: Tree, model_state: Tree, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> Loss:
        """Mean loss over the rows, with the share of rows that were told apart as a metric."""
        rows_rng, dropout_rng = jax.random.split(rng)
        pretext = self.config.pretext
        rows, labels = make_rows(rows_rng, batch["image"], pretext, batch.get("copy"))
        outputs: Any
        outputs, new_state = self.model.apply(
            {"params": params, **model_state},
            rows,
            train=True,
            rngs={"dropout": dropout_rng},
            mutable=list(model_state),
        )
        terms: dict[str, Mean] = {pretext.name: Mean.of(row_losses(outputs, labels, pretext))}
        if self.config.l2:
            # Of batch norms and biases, too: the published code means to leave these out, and by a flag the
            # wrong way round does not (google-research/deep_representation_one_class).
            terms["l2"] = Mean(self.config.l2 * half_squared_norm(params), jnp.ones(()))
        if pretext.name == "contrastive":
            right = contrastive_accuracy(outputs["embeds"])
        else:
            right = jnp.argmax(outputs["logits"], -1) == labels
        return Loss(terms, new_state, {"accuracy": Mean.of(right)})

    def predict(self, variables: Variables, batch: Batch) -> dict[str, Array]:
        """Pooled features [batch, features], head output, logits and means of stages, of raw uint8 images."""
        found: Any = self.model.apply(variables, to_unit(batch["image"]), train=False)
        stages = {name: part for name, part in found.items() if name.startswith(STAGES)}
        means = {name: part.mean((1, 2), dtype=jnp.float32) for name, part in stages.items()}
        return {**{name: found[name] for name in SCORED}, **means}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """uint8 images, their labels and positions; with `data.copies` also which copy each is."""
        side = self.data.image_size
        numbers = ("label", "index", *(("copy",) if self.data.copies > 1 else ()))
        return {
            "image": jax.ShapeDtypeStruct((batch_size, side, side, 3), jnp.uint8),
            **{name: jax.ShapeDtypeStruct((batch_size,), jnp.int32) for name in numbers},
        }


def create_task(experiment: Experiment, dtype: jnp.dtype) -> Task:
    """The task of an experiment; of a stack, of all its members.

    Raises:
      UserError: sections that do not fit each other.

    """
    alone = _create_one(experiment, dtype)
    stack: StackConfig = experiment.task.stack
    if not stack.categories:
        return alone
    if experiment.train.batch_size < len(stack.categories):
        raise UserError(
            f"config.train.batch_size: is {experiment.train.batch_size}, but task.stack has "
            f"{len(stack.categories)} members; a row is a member: raise it to a multiple of the devices"
        )
    return Stacked(alone, stack)


def _create_one(experiment: Experiment, dtype: jnp.dtype) -> OneClass:
    pretext, data = experiment.task.pretext, experiment.data
    if pretext.window > data.image_size:
        raise UserError(
            f"config.task.pretext.window: is {pretext.window}, images have {data.image_size} pixels; "
            "lower it, or raise data.image_size"
        )
    members = len(UNIONS[pretext.union])
    if data.copies not in (1, members):
        raise UserError(
            f"config.data.copies: is {data.copies}, but union {pretext.union!r} has {members}; "
            f"use {members}, or 1 to draw one for each image"
        )
    if pretext.name == "contrastive" and not experiment.model.head:
        raise UserError("config.model.head: the contrastive task needs an embedding; give widths")
    model = create_network(experiment.model, pretext.window or data.image_size, num_classes(pretext), dtype)
    if set(experiment.optimizer) == set(_GROUPS):
        return OneClass(model, experiment.task, data, _GROUPS)
    return OneClass(model, experiment.task, data)
