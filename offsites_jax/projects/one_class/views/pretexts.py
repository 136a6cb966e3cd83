"""Pretext tasks: from a batch of bytes and a key to rows of images, their labels, and the losses of the rows.

Rows of one image are neighbours, so that a batch split over devices stays where it is. What is drawn for an
image follows from the key and the image's place in the global batch alone.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class import losses
from offsites_jax.projects.one_class.augment import Augmentation, augment, random_window, to_unit, turn
from offsites_jax.projects.one_class.color import Image, Jitter
from offsites_jax.projects.one_class.views.cutpaste import (
    Confetti,
    Patch,
    Scar,
    color_scar,
    confetti,
    cutout,
    cutpaste,
    cutpaste_scar,
)

PretextName = Literal[
    "rotation", "contrastive", "cutpaste", "cutpaste_scar", "cutpaste_union", "cutpaste_3way", "cutout_grey",
    "cutout_mean", "cutout_color", "scar_color", "confetti",
]  # fmt: skip
UnionName = Literal["none", "rot", "hflip", "vflip", "1", "2", "3", "4", "5", "6", "7", "8"]

Rows = Float[Array, "rows height width channels"]
Labels = Int[Array, "rows"]

UNIONS: Mapping[UnionName, tuple[int, ...]] = {
    "none": (0,),
    "rot": (0, 2, 4, 6),
    "hflip": (0, 1),
    "vflip": (0, 5),
    **{name: tuple(range(int(name))) for name in get_args(UnionName) if name.isdigit()},
}
"""Numbers of the symmetries (see `augment.turn`) whose images a distribution is augmented with."""

_VIEWS = 2
_QUARTERS = (0, 2, 4, 6)  # symmetries that only turn, by the class that rotation prediction gives them


@dataclasses.dataclass(frozen=True)
class PretextConfig:
    """What a representation is trained to tell apart.

    Attributes:
      name: rotation (which quarter turn, arXiv 2011.02578); contrastive (the two views of an image among all
        images); or which rows have a made-up defect (arXiv 2104.04015): cutpaste, cutpaste_scar,
        cutpaste_union (either of them at random), cutpaste_3way (each a class), cutout_grey, cutout_mean,
        cutout_color, scar_color, confetti.
      augmentation: what is done to every image first; for rotation and contrastive to each row by itself.
      window: side in pixels of the part of each image that the defect is made in; 0 for all of it.
      patch: sizes of the rectangle of cutpaste and cutout.
      scar: sizes of the scar.
      confetti: sizes of the noise.
      colors: jitter of what is copied, before it is pasted.
      union: contrastive: symmetric copies of an image that count as other images: quarter turns, a flip, or
        the first of the eight symmetries in the order of google-research/deep_representation_one_class.
      whole_union: take all copies of each image of a batch instead of one each.
      temperature: contrastive: what similarities are divided by.
      negatives: contrastive: see `losses.contrastive`.
      chunk: contrastive: compare so many anchors at a time on each device, to save memory; 0 for all at once.

    """

    name: PretextName = "cutpaste_3way"
    augmentation: Augmentation = Augmentation()
    window: int = 0
    patch: Patch = Patch()
    scar: Scar = Scar()
    confetti: Confetti = Confetti()
    colors: Jitter = Jitter(0.1, 0.1, 0.1, 0.1)
    union: UnionName = "none"
    whole_union: bool = False
    temperature: float = 0.2
    negatives: losses.Negatives = "other_view"
    chunk: int = 0

    def __post_init__(self) -> None:
        if self.union != "none" and self.name != "contrastive":
            raise UserError(
                f"pretext.union is {self.union!r}: only pretext 'contrastive' has one, not {self.name!r}"
            )
        if self.window < 0 or (self.window and self.name in ("rotation", "contrastive")):
            raise UserError(
                f"pretext.window is {self.window}: it must be 0, or a side in pixels for a defect task"
            )
        if self.chunk < 0 or (self.chunk and self.negatives != "other_view"):
            raise UserError(
                f"pretext.chunk is {self.chunk}: it must be 0, or a number with negatives 'other_view'"
            )
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"pretext.temperature is {self.temperature}: it must be above 0")


def num_classes(config: PretextConfig) -> int:
    """Outputs that the network needs; 0 where its embedding itself is compared."""
    return {"rotation": 4, "contrastive": 0, "cutpaste_3way": 3}.get(config.name, 2)


def rows_per_image(config: PretextConfig) -> int:
    """Rows that one image becomes."""
    if config.name == "contrastive":
        return _VIEWS * (len(UNIONS[config.union]) if config.whole_union else 1)
    return num_classes(config)


def make_rows(
    key: PRNGKeyArray,
    images: UInt8[Array, "batch height width channels"],
    config: PretextConfig,
    copies: Int[Array, "batch"] | None = None,
) -> tuple[Rows, Labels]:
    """Rows and labels of a batch.

    Args:
      key: of this step.
      images: as loaded.
      config: the task.
      copies: contrastive with a union: which of its copies each image is, counted from 0, for data that hold
        each image once per copy. Unless given, a copy is drawn for each.

    Returns:
      Images with values around [0, 1], as many neighbours for each image as `rows_per_image` says. Labels:
      the class of a row; for contrastive the number of what it is a view of.

    """
    units, keys = to_unit(images), jax.random.split(key, len(images))
    if config.name == "contrastive":
        rows = jax.vmap(_views, (0, 0, None, None if copies is None else 0))(keys, units, config, copies)
        labels = jnp.arange(rows.shape[0] * rows.shape[1]) // _VIEWS
    else:
        make = _quarter_turns if config.name == "rotation" else _defects
        rows = jax.vmap(make, (0, 0, None))(keys, units, config)
        labels = jnp.tile(jnp.arange(rows.shape[1]), len(images))
    return rows.reshape(-1, *rows.shape[2:]), labels


def row_losses(outputs: Mapping[str, Array], labels: Labels, config: PretextConfig) -> losses.Losses:
    """Loss of each row, or of each anchor of the contrastive task; the loss of a batch is their mean.

    Args:
      outputs: of the network, for all rows of the global batch: `embeds` and `logits`.
      labels: of `make_rows`.
      config: the task.

    """
    if config.name == "contrastive" and config.chunk:
        return losses.contrastive_in_chunks(outputs["embeds"], config.temperature, config.chunk)
    if config.name == "contrastive":
        return losses.contrastive(outputs["embeds"], config.temperature, config.negatives)
    return losses.cross_entropy(outputs["logits"], labels)


def quarter_turns(image: Image) -> Float[Array, "4 height width channels"]:
    """An image turned by 0, 1, 2 and 3 quarters against the clock: the classes of rotation prediction."""
    return jnp.stack([turn(image, number) for number in _QUARTERS])


def _quarter_turns(
    key: PRNGKeyArray, image: Image, config: PretextConfig
) -> Float[Array, "4 height width channels"]:
    """Each turn of its own view: views are made before they are turned."""
    keys = jax.random.split(key, len(_QUARTERS))
    views = jax.vmap(augment, (0, None, None))(keys, image, config.augmentation)
    return jax.vmap(turn)(views, jnp.array(_QUARTERS))


def _views(
    key: PRNGKeyArray, image: Image, config: PretextConfig, copy: Int[Array, ""] | None
) -> Float[Array, "views height width channels"]:
    """Two views of the image or of one of its copies, or two of each copy; copied before they are made."""
    copy_key, view_key = jax.random.split(key)
    numbers = jnp.array(UNIONS[config.union])
    if not config.whole_union:
        numbers = numbers[copy if copy is not None else jax.random.randint(copy_key, (), 0, len(numbers))][
            None
        ]
    numbers = jnp.repeat(numbers, _VIEWS)

    def view(key: PRNGKeyArray, number: Int[Array, ""]) -> Image:
        return augment(key, turn(image, number) if config.union != "none" else image, config.augmentation)

    return jax.vmap(view)(jax.random.split(view_key, len(numbers)), numbers)


def _defects(
    key: PRNGKeyArray, image: Image, config: PretextConfig
) -> Float[Array, "rows height width channels"]:
    """One view of the image, or a window of it, without a defect and with each kind of defect."""
    view_key, window_key, defect_key = jax.random.split(key, 3)
    image = augment(view_key, image, config.augmentation)
    if config.window:
        image = random_window(window_key, image, config.window)
    return jnp.stack([image, *_defective(defect_key, image, config)])


def _defective(key: PRNGKeyArray, image: Image, config: PretextConfig) -> list[Image]:
    match config.name:
        case "cutout_grey":
            return [cutout(key, image, config.patch, "grey")]
        case "cutout_mean":
            return [cutout(key, image, config.patch, "mean")]
        case "cutout_color":
            return [cutout(key, image, config.patch, "color")]
        case "scar_color":
            return [color_scar(key, image, config.scar)]
        case "confetti":
            return [confetti(key, image, config.confetti)]
    patch_key, scar_key, coin_key = jax.random.split(key, 3)
    if config.name == "cutpaste":
        return [cutpaste(patch_key, image, config.patch, config.colors)]
    if config.name == "cutpaste_scar":
        return [cutpaste_scar(scar_key, image, config.scar, config.colors)]
    pasted = cutpaste(patch_key, image, config.patch, config.colors)
    scarred = cutpaste_scar(scar_key, image, config.scar, config.colors)
    if config.name == "cutpaste_3way":
        return [pasted, scarred]
    return [jnp.where(jax.random.bernoulli(coin_key), pasted, scarred)]
