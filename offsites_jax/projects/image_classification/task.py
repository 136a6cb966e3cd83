"""Classification of images with one label or many, as EfficientNetV2 (arXiv 2104.00298) and CoAtNet train."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from offsites_jax.data.augment.device import apply_batch
from offsites_jax.data.augment.draws import Draw
from offsites_jax.data.augment.mix import mix
from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification.data import DataConfig
from offsites_jax.projects.image_classification.losses import LOSSES, LossName, targets_of
from offsites_jax.projects.image_classification.model import create_classifier
from offsites_jax.train.config import Experiment
from offsites_jax.train.contract import Batch, Loss, Mean, Objective, Task, Tree, Variables
from offsites_jax.train.penalty import half_squared_norm


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Section `task`.

    Attributes:
      loss: softmax; multilabel_softmax, whose targets share one unit among them; sigmoid, summed over
        classes, or sigmoid_mean.
      label_smoothing: of softmax: share of the probability spread evenly over all classes; of sigmoid: share
        moved towards a half.
      mixup_alpha: mixup blends pairs of images by Beta(alpha, alpha); 0 is off.
      cutmix_alpha: CutMix puts a box of one image into another, its share by Beta(alpha, alpha); 0 is off.
        With both, half of the batch is blended and half is cut.
      l2: weight of half the squared norm of the parameters, inside the loss.
      l2_growth: by how much of itself `l2` grows until the last step, in a straight line (google/automl).
      l2_exclude: pattern of parameter paths that `l2` leaves alone.

    """

    loss: LossName = "softmax"
    label_smoothing: float = 0.1
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    l2: float = 0.0
    l2_growth: float = 0.0
    l2_exclude: str = "(bias|scale)$"

    def __post_init__(self) -> None:
        for name in ("mixup_alpha", "cutmix_alpha", "l2", "l2_growth"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"config.task.{name}: is {getattr(self, name)}, must be at least 0")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"config.task.label_smoothing: is {self.label_smoothing}, must be in [0, 1)")


@dataclasses.dataclass(frozen=True)
class ImageClassification(Task):
    """Images to class logits; `steps` of training are over which `l2_growth` counts."""

    model: nn.Module
    config: TaskConfig
    data: DataConfig
    num_classes: int
    steps: int = 1

    inputs = ("image",)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        """Fresh variables of the backbone.

        Raises:
          UserError: the images are smaller than what the backbone halves them down to.
        """
        pixels = self.pixels(batch["image"])
        found, variables = self.model.init_with_output(rng, pixels, train=False, method="endpoints")
        halvings = [int(name.removeprefix("reduction_")) for name in found if name.startswith("reduction_")]
        self._check_sizes(2 ** max(halvings))
        return dict(variables)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """One: the classification loss plus L2."""
        return (Objective("classify", self.loss),)

    def loss(
        self, params: Tree, model_state: Tree, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> Loss:
        """Mean loss over the batch, blended by mixup and CutMix, with accuracy as a metric."""
        mix_rng, dropout_rng = jax.random.split(rng)
        pixels, targets = self.mixed(batch, mix_rng)
        logits, new_state = self.model.apply(
            {"params": params, **model_state},
            pixels,
            train=True,
            rngs={"dropout": dropout_rng},
            mutable=list(model_state),
        )
        losses = LOSSES[self.config.loss](logits, targets, self.config.label_smoothing)
        terms = {"cross_entropy": Mean.of(losses)}
        if self.config.l2:
            grown = 1 + self.config.l2_growth * step / self.steps
            penalty = self.config.l2 * grown * half_squared_norm(params, exclude=self.config.l2_exclude)
            terms["l2"] = Mean(penalty, jnp.ones(()))
        # Right is a class with the largest share: one of the labels, or the stronger image of a blend.
        said = jnp.take_along_axis(targets, jnp.argmax(logits, -1, keepdims=True), -1)[:, 0]
        return Loss(terms, new_state, {"accuracy": Mean.of(said >= targets.max(-1))})

    def mixed(
        self, batch: Batch, rng: PRNGKeyArray
    ) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch classes"]]:
        """Normalised pixels and targets of a train batch, after its operations, mixup and CutMix."""
        config = self.config
        pixels, targets = self.pixels(self.augmented(batch)), targets_of(batch["label"], self.num_classes)
        if not config.mixup_alpha and not config.cutmix_alpha:
            return pixels, targets
        return mix(pixels, targets, rng, mixup_alpha=config.mixup_alpha, cutmix_alpha=config.cutmix_alpha)

    def augmented(self, batch: Batch) -> UInt8[Array, "batch height width channels"]:
        """Images of a train batch after the operations that were drawn for them; see `data.augment_on`."""
        if not self.data.device_operations:
            return batch["image"]
        drawn = Draw(batch["augment_op"], batch["augment_arguments"])  # type: ignore[arg-type]
        return apply_batch(batch["image"], drawn)

    def predict(self, variables: Variables, batch: Batch) -> dict[str, Array]:
        """Logits [batch, classes] in float32, and the winning class, for raw uint8 images."""
        logits: Array = self.model.apply(variables, self.pixels(batch["image"]), train=False)  # type: ignore[assignment]
        return {"logits": logits.astype(jnp.float32), "prediction": jnp.argmax(logits, axis=-1)}

    def embed(self, variables: Variables, batch: Batch) -> Float[Array, "batch features"]:
        """What the classifier sees: features averaged over the image, in float32."""
        pixels = self.pixels(batch["image"])
        found: Any = self.model.apply(variables, pixels, train=False, method="endpoints")
        return found["pooled"]

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """uint8 images and int32 labels: one per image, or up to `data.max_labels`; and drawn operations."""
        size, channels = self.data.image_size, self.data.channels
        most = (self.data.max_labels,) if self.data.max_labels else ()
        count = self.data.device_operations
        drawn = {
            "augment_op": jax.ShapeDtypeStruct((batch_size, count), jnp.int32),
            "augment_arguments": jax.ShapeDtypeStruct((batch_size, count, 3), jnp.float32),
        }
        return {
            "image": jax.ShapeDtypeStruct((batch_size, size, size, channels), jnp.uint8),
            "label": jax.ShapeDtypeStruct((batch_size, *most), jnp.int32),
            **(drawn if count else {}),
        }

    def input_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Images at evaluation size."""
        size = self.data.eval_size or self.data.image_size
        return {"image": jax.ShapeDtypeStruct((batch_size, size, size, self.data.channels), jnp.uint8)}

    def pixels(self, images: Array) -> Float[Array, "batch height width channels"]:
        """(x - mean) / std, on the device, so that what is exported takes raw pixels."""
        mean, std = (jnp.asarray(v, jnp.float32) for v in (self.data.mean, self.data.std))
        return (images.astype(jnp.float32) - mean) / std

    def _check_sizes(self, stride: int) -> None:
        for key in ("image_size", "eval_size"):
            size = getattr(self.data, key) or stride
            if size < stride:
                raise UserError(
                    f"config.data.{key}: {size} pixels are too few for {type(self.model).__name__}, which "
                    f"shrinks images {stride} times; use at least {stride}"
                )


def create_task(experiment: Experiment, dtype: jnp.dtype) -> ImageClassification:
    """The task of an experiment at one of its stages."""
    if experiment.data.max_labels and experiment.task.loss == "softmax":
        raise UserError(
            "config.task.loss: softmax takes one label an image, data.max_labels says there are "
            f"{experiment.data.max_labels}; use multilabel_softmax or sigmoid"
        )
    mixes = experiment.task.mixup_alpha or experiment.task.cutmix_alpha
    rows = experiment.train.batch_size // experiment.train.accumulate
    if mixes and rows % 2:
        raise UserError(
            f"config.train.batch_size: {rows} images at a time cannot be paired for mixup; use an even number"
        )
    model = create_classifier(experiment.model, dtype)
    return ImageClassification(
        model, experiment.task, experiment.data, experiment.model.num_classes, experiment.train.steps
    )
