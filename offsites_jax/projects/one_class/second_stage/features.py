"""Features of images by a trained representation: unaugmented, in evaluation mode, in order."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int32, UInt8

from offsites_jax.data.pipeline import Pipeline, eval_batches
from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import data_shard, put_batch
from offsites_jax.projects.one_class.detectors.rotation import ROTATIONS
from offsites_jax.projects.one_class.model import OneClassNetwork
from offsites_jax.projects.one_class.scorers import ScorerSettings
from offsites_jax.train.config import Experiment
from offsites_jax.train.contract import Batch
from offsites_jax.train.evaluation import Predict, host_rows
from offsites_jax.train.restore import TrainedModel
from offsites_jax.train.schema import nearest

Layer = Literal[
    "pooled", "embeds", "logits", "turned",
    "reduction_0", "reduction_1", "reduction_2", "reduction_3", "reduction_4", "reduction_5",
]  # fmt: skip
Images: TypeAlias = UInt8[np.ndarray, "count height width channels"]

LAYERS: tuple[str, ...] = get_args(Layer)
BATCH_SIZE = 64

_LAYER_OF = {"logit": "logits", "dscore": "turned"}  # scorers that read one layer and no other


@dataclasses.dataclass(frozen=True)
class SplitFeatures:
    """What a scorer is fitted to or scores.

    Attributes:
      features: a row an image; of the layer "turned" logits [count, 4 rotations, 4 classes].
      labels: 0 normal, 1 anomalous, -1 unknown.

    """

    features: Float[np.ndarray, "count ..."]
    labels: Int32[np.ndarray, "count"]


def network_of(model: TrainedModel) -> OneClassNetwork:
    """The network of a trained representation."""
    return cast(Any, model.task).model


def layer_for(scorer: ScorerSettings, layer: Layer) -> Layer:
    """The layer that a scorer reads: the one asked for, unless it reads only one.

    Raises:
      UserError: there is no such layer, or the scorer takes rows and the layer has none.

    """
    if layer not in LAYERS:
        raise UserError(f"layer {layer!r} is unknown{nearest(layer, LAYERS)}")
    if scorer.name in _LAYER_OF:
        return _LAYER_OF[scorer.name]  # type: ignore[return-value]
    if layer == "turned":
        raise UserError(f"layer 'turned' is what scorer dscore reads; use another layer for {scorer.name}")
    return layer


def needs_rotation(experiment: Experiment, scorer: ScorerSettings) -> None:
    """Raises UserError where a scorer reads a rotation classifier and the network is none."""
    pretext = experiment.task.pretext.name
    if scorer.name in _LAYER_OF and pretext != "rotation":
        raise UserError(
            f"scorer {scorer.name!r} reads the logits of a rotation classifier, and this network was trained "
            f"by {pretext!r}; use gde, kde, knn, ocsvm or gmm"
        )


def reading(predict: Predict, layer: Layer) -> Callable[[Batch], dict[str, Array]]:
    """A prediction that gives one layer alone, named `features`.

    It raises UserError where the network has no such layer.
    """

    def one(batch: Batch) -> dict[str, Array]:
        found = predict(batch)
        if layer not in found:
            raise UserError(f"layer {layer!r}: this network has {', '.join(found)}")
        return {"features": found[layer]}

    def turned(batch: Batch) -> dict[str, Array]:
        each = [
            predict({**batch, "image": jnp.rot90(batch["image"], quarter, axes=(1, 2))})["logits"]
            for quarter in range(ROTATIONS)
        ]
        return {"features": jnp.stack(each, axis=1)}

    return turned if layer == "turned" else one


def collect(predict: Predict, batches: Iterator[Batch], layer: Layer) -> SplitFeatures:
    """Features and labels of all real rows of some batches."""
    parts = list(host_rows(reading(predict, layer), batches, keep=("label",)))
    return SplitFeatures(*(np.concatenate([part[name] for part in parts]) for name in ("features", "label")))


def batches_of(pipeline: Pipeline, experiment: Experiment, mesh: Mesh, size: int) -> Iterator[Batch]:
    """Global batches over a whole split, padded and masked."""
    shard, loading = data_shard(mesh), experiment.data.loading
    with eval_batches(pipeline, batch_size=size, shard=shard, loading=loading) as batches:
        for batch in batches:
            yield put_batch(batch, mesh, size)


def of_pipeline(
    model: TrainedModel, pipeline: Pipeline, layer: Layer = "pooled", batch_size: int = BATCH_SIZE
) -> SplitFeatures:
    """Features of every image of a pipeline.

    Raises:
      DamagedDataError: an image cannot be read; the message names it.

    """
    size = _divisible(batch_size, model.mesh)
    return collect(model.predict, batches_of(pipeline, model.experiment, model.mesh, size), layer)


def of_split(model: TrainedModel, split: str, layer: Layer = "pooled") -> SplitFeatures:
    """Features of every image of a split of the data the model was trained on."""
    experiment = model.experiment
    return of_pipeline(model, experiment.found.create_pipeline(experiment, split, train=False), layer)


def of_images(model: TrainedModel, images: Images, layer: Layer = "pooled") -> Float[np.ndarray, "count ..."]:
    """Features of images in memory, at the size of the model."""
    predict, size = reading(model.predict, layer), _divisible(min(BATCH_SIZE, len(images)), model.mesh)
    parts = []
    for start in range(0, len(images), size):
        rows = images[start : start + size]
        padded = np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])
        found = predict(put_batch({"image": padded}, model.mesh, size))["features"]
        parts.append(np.asarray(jax.device_get(found))[: len(rows)])
    return np.concatenate(parts)


def _divisible(size: int, mesh: Mesh) -> int:
    """The smallest number of rows, at least `size`, that divides over the mesh."""
    return -(-size // mesh.size) * mesh.size
