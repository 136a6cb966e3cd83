"""Telling abnormal radiographs from normal ones, or findings from one another."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt16

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.data import DataConfig
from offsites_jax.projects.chest_xray.intake.radiograph import FULL
from offsites_jax.projects.chest_xray.losses import binary_cross_entropy
from offsites_jax.projects.chest_xray.model import create_detector
from offsites_jax.train.config import Experiment
from offsites_jax.train.contract import Batch, Loss, Mean, Objective, Task, Tree, Variables
from offsites_jax.train.penalty import half_squared_norm

HEAD = "classifier"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Images = UInt16[Array, "batch height width"]


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Section `task`.

    Attributes:
      positive_weight: of the losses of positives, against imbalance.
      label_smoothing: share by which labels move towards a half.
      focal: exponent of the focal loss; 0 is off.
      trains: everything, or the classifier alone, as the first of two stages of fine-tuning does.
      l2: weight of half the squared norm of the kernels, inside the loss.

    """

    positive_weight: float = 1.0
    label_smoothing: float = 0.0
    focal: float = 0.0
    trains: Literal["all", "head"] = "all"
    l2: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("focal", "l2"):
            if getattr(self, name) < 0:
                raise UserError(f"config.task.{name}: is {getattr(self, name)}, must be at least 0")
        if self.positive_weight <= 0:
            raise UserError(f"config.task.positive_weight: is {self.positive_weight}, must be above 0")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"config.task.label_smoothing: is {self.label_smoothing}, must be in [0, 1)")


@dataclasses.dataclass(frozen=True)
class ChestXray(Task):
    """Radiographs to one logit for each output."""

    model: nn.Module
    config: TaskConfig
    data: DataConfig
    outputs: tuple[str, ...]

    inputs = ("image",)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        """Fresh variables of the backbone."""
        return dict(self.model.init(rng, self.pixels(batch["image"]), train=False))

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """One: binary cross-entropy plus L2."""
        return (Objective("detect", self.loss),)

    def loss(
        self, params: Tree, model_state: Tree, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> Loss:
        """Mean over the known labels of the global batch, with the share that is told right as a metric."""
        if self.config.trains == "head":
            params = {
                name: part if name == HEAD else jax.lax.stop_gradient(part) for name, part in params.items()
            }
        logits, new_state = self.model.apply(
            {"params": params, **model_state},
            self.pixels(batch["image"]),
            train=True,
            rngs={"dropout": rng},
            mutable=list(model_state),
        )
        labels = batch["label"]
        losses, known = binary_cross_entropy(
            logits,
            labels,
            positive_weight=self.config.positive_weight,
            smoothing=self.config.label_smoothing,
            focal=self.config.focal,
        )
        terms = {"cross_entropy": Mean(losses.sum(), known.sum())}
        if self.config.l2:
            penalty = self.config.l2 * half_squared_norm(params, only="(^|/)kernel$")
            terms["l2"] = Mean(penalty, jnp.ones(()))
        right = known * ((logits > 0) == (labels > 0.5))
        return Loss(terms, new_state, {"accuracy": Mean(right.sum(), known.sum())})

    def predict(self, variables: Variables, batch: Batch) -> dict[str, Array]:
        """Logits and probabilities [batch, outputs], float32, of uint16 images [batch, height, width]."""
        found: Any = self.model.apply(variables, self.pixels(batch["image"]), train=False)
        logits = found.astype(jnp.float32)
        return {"logit": logits, "score": jax.nn.sigmoid(logits)}

    def activation_maps(
        self, variables: Variables, batch: Batch
    ) -> tuple[Float[Array, "batch rows columns outputs"], Float[Array, " outputs"]]:
        """What each place of the last feature map adds to each logit, and the biases.

        Since the classifier is linear in the mean of the features, this is exact: the mean of a map over its
        places plus the bias is the logit (Zhou et al. 2016, arXiv 1512.04150).

        Raises:
          UserError: the backbone has more than one linear layer behind its features.

        """
        classifier = variables["params"].get(HEAD)
        if classifier is None:
            raise UserError(
                f"config.model.name: {type(self.model).__name__} gives no class-activation maps; use an "
                "EfficientNet or a ResNet"
            )
        pixels = self.pixels(batch["image"])
        found: Any = self.model.apply(variables, pixels, train=False, method="endpoints")
        maps = found["features"].astype(jnp.float32) @ classifier["kernel"].astype(jnp.float32)
        return maps, classifier["bias"].astype(jnp.float32)

    def embed(self, variables: Variables, batch: Batch) -> Float[Array, "batch features"]:
        """Features averaged over the image, in float32: what a linear probe sees."""
        found: Any = self.model.apply(variables, self.pixels(batch["image"]), train=False, method="endpoints")
        return found["pooled"]

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """uint16 images and one float32 label for each output, NaN where unknown."""
        return self.input_spec(batch_size) | {
            "label": jax.ShapeDtypeStruct((batch_size, len(self.outputs)), jnp.float32)
        }

    def input_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Square grey images, 0 black to 65,535 white."""
        size = self.data.image_size
        return {"image": jax.ShapeDtypeStruct((batch_size, size, size), jnp.uint16)}

    def pixels(self, images: Images) -> Float[Array, "batch height width 3"]:
        """Three equal channels, normalised as ImageNet's: what pretrained backbones expect."""
        grey = images.astype(jnp.float32)[..., None] / FULL
        return (grey - jnp.asarray(MEAN)) / jnp.asarray(STD)


def create_task(experiment: Experiment, dtype: jnp.dtype) -> ChestXray:
    """The task of an experiment at one of its stages."""
    model = create_detector(experiment.model, dtype)
    return ChestXray(model, experiment.task, experiment.data, experiment.model.outputs)
