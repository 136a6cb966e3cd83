"""A trained classifier on files: named predictions, and features, with a row for every file that is bad."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from offsites_jax.data.pipeline import Pipeline
from offsites_jax.data.source import describe
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.parallel.mesh import MeshSettings
from offsites_jax.projects.image_classification.sources import class_names
from offsites_jax.train.restore import TrainedModel, restore
from offsites_jax.train.saved import Step
from offsites_jax.train.workdir import read_experiment

BATCH_SIZE = 32
_THREADS = 8


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some of the files, read.

    Attributes:
      names: of all of them.
      errors: by position, why a file could not be read.
      images: [batch size, height, width, channels]; rows of bad files, and those beyond the last file, are 0.

    """

    names: list[str]
    errors: dict[int, str]
    images: np.ndarray


def open_model(workdir: str, step: Step = "latest", params: str = "ema") -> TrainedModel:
    """A checkpoint on one device, whatever mesh it was trained on."""
    experiment = dataclasses.replace(read_experiment(workdir), mesh=MeshSettings(data=1))
    return restore(workdir, step=step, params=params, experiment=experiment)


def read_chunks(pipeline: Pipeline, like: jax.ShapeDtypeStruct) -> Iterator[Chunk]:
    """All files, as many at a time as `like` has rows."""
    size = like.shape[0]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="read-images") as threads:
        for start in range(0, len(pipeline.source), size):
            indices = range(start, min(start + size, len(pipeline.source)))
            images = np.zeros(like.shape, like.dtype)
            errors = {}
            found = threads.map(lambda index: _image_or_error(pipeline, index), indices)
            for row, image in enumerate(found):
                if isinstance(image, str):
                    errors[row] = image
                else:
                    images[row] = image
            yield Chunk([describe(pipeline.source, index) for index in indices], errors, images)


def predictions(model: TrainedModel, paths: Sequence[str], top: int) -> Iterator[dict[str, Any]]:
    """A row for each file: its most likely classes, or the error that kept it from being read."""
    experiment = model.experiment
    names = _names(model)
    many = experiment.task.loss.startswith("sigmoid")
    spec = model.task.input_spec(BATCH_SIZE)["image"]
    about = {"pixels": spec.shape[1], "step": model.step}
    for chunk in read_chunks(experiment.found.create_input_pipeline(experiment, paths), spec):
        shares = probabilities(
            np.asarray(model.predict({"image": jnp.asarray(chunk.images)})["logits"]), many=many
        )
        for row, name in enumerate(chunk.names):
            if row in chunk.errors:
                yield {"path": name, "error": chunk.errors[row]}
                continue
            order = np.argsort(-shares[row], kind="stable")[:top]
            best = [
                {"class": int(k), "name": names[k] if names else str(k), "probability": float(shares[row, k])}
                for k in order
            ]
            yield {"path": name, "top": best, **about}


def embeddings(model: TrainedModel, paths: Sequence[str]) -> tuple[list[str], np.ndarray, dict[str, str]]:
    """Names and features [files, width] of the files that could be read, and errors by name of the others."""
    experiment, task = model.experiment, model.task
    spec = task.input_spec(BATCH_SIZE)["image"]
    embed = jax.jit(task.embed)  # type: ignore[attr-defined]
    kept: list[str] = []
    features: list[np.ndarray] = []
    errors: dict[str, str] = {}
    for chunk in read_chunks(experiment.found.create_input_pipeline(experiment, paths), spec):
        rows = np.asarray(embed(model.variables, {"image": chunk.images}))
        good = [row for row in range(len(chunk.names)) if row not in chunk.errors]
        kept += [chunk.names[row] for row in good]
        features.append(rows[good])
        errors |= {chunk.names[row]: text for row, text in chunk.errors.items()}
    return kept, np.concatenate(features), errors


def probabilities(logits: Float[np.ndarray, "count classes"], *, many: bool) -> np.ndarray:
    """Softmax, or where an image may have many labels, the sigmoid of each logit."""
    if many:
        return 1 / (1 + np.exp(-logits))
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def _names(model: TrainedModel) -> tuple[str, ...] | None:
    """Class names, where the data set the model was trained on is at hand."""
    config = model.experiment.data
    with contextlib.suppress(UserError):
        names = class_names(config, config.train_split)
        return names if names and len(names) == model.experiment.model.num_classes else None
    return None


def _image_or_error(pipeline: Pipeline, index: int) -> np.ndarray | str:
    try:
        return pipeline.transform(pipeline.source[index], None)["image"]
    except (DamagedDataError, UserError) as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
