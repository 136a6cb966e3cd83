"""A trained classifier on files: named predictions, and features, with a row for every file that is bad."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Int

from offsites_jax.data.pipeline import Pipeline, eval_batches
from offsites_jax.data.source import describe
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.parallel.mesh import MeshSettings
from offsites_jax.projects.image_classification.scores import probabilities
from offsites_jax.train.contract import Batch, Variables
from offsites_jax.train.restore import TrainedModel, restore
from offsites_jax.train.saved import Step
from offsites_jax.train.workdir import CHECKPOINTS, read_experiment

BATCH_SIZE = 32
NOT_FINITE = "the network's logits are not finite"
_THREADS = 8

Apply = Callable[[Variables, Batch], dict[str, Array]]


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


@dataclasses.dataclass(frozen=True)
class Collected:
    """What a network made of files.

    Attributes:
      paths: of those that could be read.
      arrays: by name, a row for each of them, in float32.
      errors: by path, why the others could not.

    """

    paths: list[str]
    arrays: dict[str, np.ndarray]
    errors: dict[str, str]


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


def predictions(
    model: TrainedModel,
    workdir: epath.PathLike,
    paths: Sequence[str],
    top: int,
    names: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """A row for each file: its most likely classes, or the error that kept it from being classified.

    Args:
      model: from `open_model`.
      workdir: where it is from, for the rows.
      paths: files, folders and patterns.
      top: how many classes.
      names: of all classes; numbers unless told.

    """
    experiment = model.experiment
    sigmoid = experiment.task.loss.startswith("sigmoid")
    spec = model.task.input_spec(BATCH_SIZE)["image"]
    about = {"pixels": spec.shape[1], "checkpoint": str(epath.Path(workdir) / CHECKPOINTS / str(model.step))}
    for chunk in read_chunks(experiment.found.create_input_pipeline(experiment, paths), spec):
        logits = np.asarray(model.predict({"image": jnp.asarray(chunk.images)})["logits"])
        for row, path in enumerate(chunk.names):
            error = chunk.errors.get(row, "" if np.isfinite(logits[row]).all() else NOT_FINITE)
            if error:
                yield {"path": path, "error": error}
                continue
            shares = probabilities(logits[row], sigmoid=sigmoid)
            best = [
                {"index": int(k), "name": names[k] if names else str(k), "prob": float(shares[k])}
                for k in np.argsort(-shares, kind="stable")[:top]
            ]
            yield {"path": path, "top": best, **about}


def embeddings(model: TrainedModel, paths: Sequence[str]) -> Collected:
    """What the classifier sees of each file, as array `features` [files, width]."""
    embed = model.task.embed  # type: ignore[attr-defined]
    return collect(model, lambda variables, batch: {"features": embed(variables, batch)}, paths)


def endpoint_shapes(model: TrainedModel) -> dict[str, tuple[int, ...]]:
    """Shapes of what the network gives of one image: `reduction_1` and on, `features`, `pooled`, `logits`."""
    found = jax.eval_shape(endpoints_of(model), model.variables, model.task.input_spec(1))
    return {name: spec.shape[1:] for name, spec in found.items()}


def endpoints_of(model: TrainedModel, names: Sequence[str] = ()) -> Apply:
    """A function of variables and a batch of raw images to some of the endpoints, or all."""
    task: Any = model.task

    def apply(variables: Variables, batch: Batch) -> dict[str, Array]:
        pixels = task.pixels(batch["image"])
        found = task.model.apply(variables, pixels, train=False, method="endpoints")
        return {name: found[name] for name in names or found}

    return apply


def collect(model: TrainedModel, apply: Apply, paths: Sequence[str]) -> Collected:
    """What `apply` makes of every file that can be read; all of it is held in memory."""
    experiment = model.experiment
    spec = model.task.input_spec(BATCH_SIZE)["image"]
    run = jax.jit(apply)
    kept: list[str] = []
    parts: dict[str, list[np.ndarray]] = {}
    errors: dict[str, str] = {}
    for chunk in read_chunks(experiment.found.create_input_pipeline(experiment, paths), spec):
        with jax.set_mesh(model.mesh):
            rows = run(model.variables, {"image": jnp.asarray(chunk.images)})
        good = [row for row in range(len(chunk.names)) if row not in chunk.errors]
        kept += [chunk.names[row] for row in good]
        errors |= {chunk.names[row]: text for row, text in chunk.errors.items()}
        for name, values in rows.items():
            parts.setdefault(name, []).append(np.asarray(values, np.float32)[good])
    return Collected(kept, {name: np.concatenate(found) for name, found in parts.items()}, errors)


def split_rows(
    model: TrainedModel, split: str
) -> Iterator[tuple[Int[np.ndarray, "count"], dict[str, np.ndarray]]]:
    """Places in a split, and `image`, `label`, `logits` there; a bad record that is skipped is left out."""
    experiment = model.experiment
    pipeline = experiment.found.create_pipeline(experiment, split, train=False)
    blocks = eval_batches(pipeline, batch_size=BATCH_SIZE, shard=(0, 1), loading=experiment.data.loading)
    with blocks:
        for number, batch in enumerate(blocks):
            real = np.flatnonzero(batch["mask"] > 0)
            logits = np.asarray(model.predict({"image": jnp.asarray(batch["image"])})["logits"])
            rows = {"image": batch["image"], "label": batch["label"], "logits": logits}
            yield number * BATCH_SIZE + real, {name: values[real] for name, values in rows.items()}


def _image_or_error(pipeline: Pipeline, index: int) -> np.ndarray | str:
    try:
        return pipeline.transform(pipeline.source[index], None)["image"]
    except (DamagedDataError, UserError) as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
