"""The network of the first stage: a backbone, and on its pooled features a head to be thrown away later."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from offsites_jax.errors import UserError
from offsites_jax.models.registry import create_model
from offsites_jax.models.resnet import stem_for
from offsites_jax.nn.norm import BatchNorm, BatchNormSettings

StemChoice = Literal["auto", "small", "large"]
Features = Literal["pool", "level7"]
PixelNorm = Literal["none", "imagenet"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEVEL7 = "reduction_5"  # output of the last of EfficientNet's seven stages, in front of its head convolution

_WIDTH = 64  # of the first stage of a ResNet whose width factor is 1
_SET_ELSEWHERE = {
    "num_classes": "task.pretext.name",
    "dtype": "train.precision",
    "width": "model.width",
    "stem": "model.stem",
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Section `model`.

    Attributes:
      name: a name of `offsites list models`.
      width: factor of the widths of a ResNet's stages; its stem always has 64 channels.
      stem: of a ResNet: small (3x3, no stride), large (7x7 and a max-pool), or by the size of the images.
      head: widths of the perceptron on the pooled features; the last is the embedding. None: the features
        are the embedding.
      features: what is pooled: the backbone's last map, or that of EfficientNet's last stage (level7).
      pixels: none, for values in [0, 1]; imagenet, to normalise as pretrained backbones expect.
      frozen_norm: keep the statistics of the backbone's batch norms, and normalise by them while training.
      overrides: any other fields of the backbone: norm, remat, depths ...

    """

    name: str = "resnet_18"
    width: float = 1.0
    stem: StemChoice = "auto"
    head: tuple[int, ...] = (512,) * 8
    features: Features = "pool"
    pixels: PixelNorm = "none"
    frozen_norm: bool = False
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.head):
            raise UserError(f"config.model.head: {self.head} must be widths of at least 1")
        if not 1 / _WIDTH <= self.width < float("inf"):
            raise UserError(f"config.model.width: is {self.width}, must be at least 1/{_WIDTH}")
        if not self.name.startswith("resnet_") and (self.width != 1 or self.stem != "auto"):
            raise UserError(
                f"config.model: width and stem are of ResNets, not of {self.name}; leave them out"
            )
        if self.features == "level7" and not self.name.startswith("efficientnet_"):
            raise UserError(
                f"config.model.features: level7 is a stage of EfficientNet, not of {self.name}; use pool"
            )
        for key, place in _SET_ELSEWHERE.items():
            if key in self.overrides:
                raise UserError(f"config.model.overrides.{key}: set {place} instead")


class Head(nn.Module):
    """A perceptron with batch norms, and a linear classifier on its last, linear layer.

    Layers ``dense_{0…}`` and ``bn_{0…}``, then ``classifier``, as in
    google-research/deep_representation_one_class.

    Attributes:
      widths: of the layers; all but the last are normalised and activated.
      num_classes: outputs of the classifier; 0 for none.
      norm: of the batch norms.
      dtype: type to compute in; what is returned is float32.

    """

    widths: tuple[int, ...]
    num_classes: int
    norm: BatchNormSettings = BatchNormSettings(momentum=0.9, epsilon=1e-5)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "batch features"], *, train: bool) -> dict[str, Array]:
        """Return ``embeds``, the last layer, and ``logits``, which without classes are the same."""
        x = features
        for index, width in enumerate(self.widths):
            last = index == len(self.widths) - 1
            use_bias = last and self.num_classes > 0
            x = self._dense(width, use_bias, f"dense_{index}")(x)
            if not last:
                x = nn.relu(BatchNorm(self.norm, self.dtype, name=f"bn_{index}")(x, not train))
        logits = self._dense(self.num_classes, True, "classifier")(x) if self.num_classes else x
        return {"embeds": x.astype(jnp.float32), "logits": logits.astype(jnp.float32)}

    def _dense(self, width: int, use_bias: bool, name: str) -> nn.Dense:
        glorot = nn.initializers.glorot_uniform()
        return nn.Dense(width, use_bias=use_bias, kernel_init=glorot, dtype=self.dtype, name=name)


class OneClassNetwork(nn.Module):
    """Images in [0, 1] to everything that is trained on, scored or looked at: ``backbone``, ``head``.

    Attributes:
      backbone: without a classifier.
      head: on the pooled features.
      features: what is pooled: ``"pool"`` or ``"level7"``.
      mean: of pixels, subtracted from each channel.
      std: of pixels, divided by.
      frozen_norm: run the backbone as in evaluation while the rest trains.

    """

    backbone: nn.Module
    head: Head
    features: Features = "pool"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    frozen_norm: bool = False

    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool
    ) -> dict[str, Array]:
        """Return named outputs.

        Args:
          images: float, around [0, 1].
          train: use the statistics of the batch (updating ``batch_stats``), and drop out.

        Returns:
          ``pooled`` [batch, features], what is scored; ``embeds`` and ``logits`` of the head; ``map`` [batch,
          height, width, features], what was pooled; and all stages of the backbone under the names its
          `endpoints` give them. The first three are float32.

        """
        pixels = (images - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        found: dict[str, Array] = self.backbone.endpoints(pixels, train=train and not self.frozen_norm)
        pooled_map = found["features" if self.features == "pool" else LEVEL7]
        pooled = pooled_map.mean((1, 2), dtype=jnp.float32)
        return {**found, "map": pooled_map, "pooled": pooled, **self.head(pooled, train=train)}


def create_network(
    config: ModelConfig, image_size: int, num_classes: int, dtype: DTypeLike
) -> OneClassNetwork:
    """The Linen module of an experiment.

    Args:
      config: section `model`.
      image_size: side of what the network sees, in pixels; decides a stem that is left open.
      num_classes: of the pretext task; 0 for none.
      dtype: type to compute in.

    Raises:
      UserError: an override that the backbone does not know.

    """
    settings: dict[str, Any] = {"num_classes": 0, "dtype": dtype, **config.overrides}
    if config.name.startswith("resnet_"):
        stem = stem_for(image_size) if config.stem == "auto" else config.stem
        width = round(_WIDTH * config.width)
        settings = {"stem": stem, "width": width, "kernel_init": "truncated_normal", **settings}
    normalise = config.pixels == "imagenet"
    return OneClassNetwork(
        backbone=create_model(config.name, **settings),
        head=Head(config.head, num_classes, dtype=dtype),
        features=config.features,
        mean=IMAGENET_MEAN if normalise else (0.0,),
        std=IMAGENET_STD if normalise else (1.0,),
        frozen_norm=config.frozen_norm,
    )
