"""Softmax classification with label smoothing and L2, as EfficientNetV2 trains (arXiv 2104.00298)."""

import dataclasses
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from offsites_jax.projects.image_classification.data import DataConfig
from offsites_jax.projects.image_classification.model import create_classifier
from offsites_jax.train.config import Experiment
from offsites_jax.train.contract import Batch, Loss, Mean, Objective, Task, Tree, Variables
from offsites_jax.train.state import flatten


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Section `task`.

    Attributes:
      label_smoothing: share of the probability spread evenly over all classes.
      l2: weight of half the squared norm of the parameters, inside the loss.
      l2_exclude: pattern of parameter paths that `l2` leaves alone.

    """

    label_smoothing: float = 0.1
    l2: float = 0.0
    l2_exclude: str = "(bias|scale)$"


@dataclasses.dataclass(frozen=True)
class ImageClassification(Task):
    """Images to class logits."""

    model: nn.Module
    config: TaskConfig
    data: DataConfig
    num_classes: int

    inputs = ("image",)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        """Fresh variables of the backbone."""
        return dict(self.model.init(rng, self.pixels(batch["image"]), train=False))

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """One: cross-entropy plus L2."""
        return (Objective("classify", self.loss),)

    def loss(
        self, params: Tree, model_state: Tree, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> Loss:
        """Mean cross-entropy over the batch, with accuracy as a metric."""
        logits, new_state = self.model.apply(
            {"params": params, **model_state},
            self.pixels(batch["image"]),
            train=True,
            rngs={"dropout": rng},
            mutable=list(model_state),
        )
        losses = cross_entropy(logits, batch["label"], self.config.label_smoothing)
        terms = {"cross_entropy": Mean.of(losses)}
        if self.config.l2:
            penalty = self.config.l2 * half_squared_norm(params, self.config.l2_exclude)
            terms["l2"] = Mean(penalty, jnp.ones(()))
        accuracy = Mean.of(jnp.argmax(logits, axis=-1) == batch["label"])
        return Loss(terms, new_state, {"accuracy": accuracy})

    def predict(self, variables: Variables, batch: Batch) -> dict[str, Array]:
        """Logits [batch, classes] in float32, and the winning class, for raw uint8 images."""
        logits: Array = self.model.apply(variables, self.pixels(batch["image"]), train=False)  # type: ignore[assignment]
        return {"logits": logits.astype(jnp.float32), "prediction": jnp.argmax(logits, axis=-1)}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """uint8 images and int32 labels."""
        size, channels = self.data.image_size, self.data.channels
        return {
            "image": jax.ShapeDtypeStruct((batch_size, size, size, channels), jnp.uint8),
            "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        }

    def input_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Images at evaluation size."""
        size = self.data.eval_size or self.data.image_size
        return {"image": jax.ShapeDtypeStruct((batch_size, size, size, self.data.channels), jnp.uint8)}

    def pixels(self, images: Array) -> Float[Array, "batch height width channels"]:
        """(x - mean) / std, on the device, so that what is exported takes raw pixels."""
        mean, std = (jnp.asarray(v, jnp.float32) for v in (self.data.mean, self.data.std))
        return (images.astype(jnp.float32) - mean) / std


def create_task(experiment: Experiment, dtype: jnp.dtype) -> ImageClassification:
    """The task of an experiment at one of its stages."""
    model = create_classifier(experiment.model, dtype)
    return ImageClassification(model, experiment.task, experiment.data, experiment.model.num_classes)


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"], smoothing: float
) -> Float[Array, "batch"]:
    """Softmax cross-entropy against (1 - smoothing) one-hot + smoothing / classes, in float32."""
    classes = logits.shape[-1]
    targets = optax.smooth_labels(jax.nn.one_hot(labels, classes), smoothing)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def half_squared_norm(params: Any, exclude: str) -> Float[Array, ""]:
    """Half the sum of squares of all parameters whose path does not match `exclude`."""
    kept = [leaf for path, leaf in flatten(params).items() if not re.search(exclude, path)]
    return 0.5 * sum((jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in kept), start=jnp.zeros(()))
