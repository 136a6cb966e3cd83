"""Class-activation maps of many radiographs as pictures, and a table of what they show."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array
from scipy import special

from offsites_jax.errors import UserError
from offsites_jax.models.efficientnet import EfficientNet
from offsites_jax.projects.chest_xray.data import DataConfig
from offsites_jax.projects.chest_xray.inference import activation
from offsites_jax.projects.chest_xray.inference.gradients import gradient_maps
from offsites_jax.projects.chest_xray.inference.scoring import (
    Reading,
    images_of,
    output_index,
    read_all,
)
from offsites_jax.projects.chest_xray.intake import radiograph
from offsites_jax.projects.chest_xray.intake.inputs import Input
from offsites_jax.projects.chest_xray.tables.archives import safe_path
from offsites_jax.train.contract import Batch, Task, Variables
from offsites_jax.train.media import encode_image
from offsites_jax.train.restore import TrainedModel

COLUMNS = (
    "image", "score", "logit", "row", "column", "share_outlined", "hit", "overlap", "status", "message",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Explained:
    """A radiograph with its map.

    Attributes:
      image: its name.
      file: of the picture, below the folder of pictures.
      png: the picture; empty where the file could not be read.
      figures: by column of the table.
      error: why it could not be read.

    """

    image: str
    file: str = ""
    png: bytes = b""
    figures: dict[str, object] = dataclasses.field(default_factory=dict)
    error: str = ""

    def row(self) -> dict[str, object]:
        """Of `cam.csv`; cells that say nothing are blank."""
        told = {"image": self.image, "status": "error" if self.error else "ok", "message": self.error}
        return dict.fromkeys(COLUMNS, "") | self.figures | told


def explain(
    model: TrainedModel,
    inputs: Sequence[Input],
    target: str = "",
    level: float = 0.5,
    threshold: float = 0.5,
    layer: str = "",
) -> Iterator[Explained]:
    """Every radiograph with its map, in order; those that cannot be read with the reason.

    Args:
      model: an EfficientNet or a ResNet; with a layer, any network.
      inputs: what to read.
      target: the output to explain; the first unless told.
      level: share of the map's maximum at which the outline runs.
      threshold: images that score less get no outline: what speaks most for a finding that is not there is
        of no interest.
      layer: explain by Grad-CAM at this layer instead of by the class-activation map.

    """
    maps_of, config = _maps_of(model, output_index(model, target), layer), model.experiment.data
    for readings in read_all(inputs, config.allow):
        maps, logits = maps_of(model.variables, {"image": images_of(readings, config)})
        at = activation.places(config.image_size, maps.shape[1], centred=not _pads_as_tensorflow(model))
        for row, reading in enumerate(readings):
            if reading.read is None:
                yield Explained(reading.source.name, error=reading.error)
            else:
                seen = Seen(np.asarray(maps[row]), float(logits[row]), at, config)
                yield _explained(reading, seen, level, threshold)


def _maps_of(model: TrainedModel, column: int, layer: str) -> Callable[..., tuple[Array, Array]]:
    """Variables and a batch to maps and logits."""
    if layer:
        predict = _without_remat(model.task).predict
        return jax.jit(lambda variables, batch: gradient_maps(predict, variables, batch, layer, column))

    def class_activation(variables: Variables, batch: Batch) -> tuple[Array, Array]:
        maps, bias = model.task.activation_maps(variables, batch)  # type: ignore[attr-defined]
        return maps[..., column], maps[..., column].mean(axis=(1, 2)) + bias[column]

    return jax.jit(class_activation)


def _without_remat(task: Task) -> Task:
    """The same task with a model that computes the same without hiding its layers."""
    own: Any = task
    if not getattr(own.model, "remat", False):
        return task
    return dataclasses.replace(own, model=own.model.clone(remat=False))


@dataclasses.dataclass(frozen=True)
class Seen:
    """A map with what it takes to draw it: the logit, where its cells look, and the data."""

    found: np.ndarray
    logit: float
    at: np.ndarray
    config: DataConfig


def _explained(reading: Reading, seen: Seen, level: float, threshold: float) -> Explained:
    assert reading.read is not None
    name, crop = reading.source.name, seen.config.crop_borders
    box = activation.parse_box(reading.source.case.extra.get("box", ""))
    if box and crop:
        raise UserError(f"{name}: its box is in pixels of the whole picture, but data.crop_borders cuts it")
    pixels = radiograph.without_borders(reading.read.pixels) if crop else reading.read.pixels
    height, width = pixels.shape
    heat = activation.full_size(seen.found, height, width, seen.at, seen.config.image_size)
    score = float(special.expit(seen.logit))
    region = activation.region(heat, level) & (score >= threshold)
    row, column = activation.strongest(heat)
    figures: dict[str, object] = {
        "score": f"{score:.6g}",
        "logit": f"{seen.logit:.6g}",
        "row": row,
        "column": column,
        "share_outlined": f"{region.mean():.4f}",
    }
    if box:
        agreed = activation.agreement(heat, region, box)
        figures |= {"hit": int(agreed.hit), "overlap": f"{agreed.overlap:.4f}"}
    png = encode_image(activation.picture(pixels, region, box)).content
    return Explained(name, f"{safe_path(name.lstrip('/'))}.png", png, figures)


def _pads_as_tensorflow(model: TrainedModel) -> bool:
    return isinstance(getattr(model.task, "model", None), EfficientNet)
