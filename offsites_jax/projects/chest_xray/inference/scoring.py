"""Trained detectors on files: a score, or why there is none, for each of them."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float
from scipy import special

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.parallel.mesh import MeshSettings
from offsites_jax.projects.chest_xray.accuracy.operating import OperatingPoint
from offsites_jax.projects.chest_xray.data import DataConfig
from offsites_jax.projects.chest_xray.intake import identity, radiograph
from offsites_jax.projects.chest_xray.intake.grey import Grey
from offsites_jax.projects.chest_xray.intake.inputs import Input
from offsites_jax.projects.chest_xray.intake.readings import BATCH_SIZE, Reading, read_all
from offsites_jax.train.restore import TrainedModel, restore
from offsites_jax.train.saved import Step
from offsites_jax.train.workdir import read_experiment

POINTS = "operating_points.json"
KINDS = ("high_sensitivity", "high_specificity")
FLAGS = tuple(f"flag_{kind}" for kind in KINDS)
COLUMNS = (
    "image", "patient_id", "score", "logit", *FLAGS, "status", "message",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scored:
    """A radiograph and what all models say together; `score` and `logit` are None where it failed."""

    reading: Reading
    score: float | None
    logit: float | None


def open_models(workdirs: Sequence[str], step: Step = "best", params: str = "ema") -> list[TrainedModel]:
    """Checkpoints on one device each, whatever mesh they were trained on.

    Args:
      workdirs: of runs that tell the same things apart.
      step: latest, best, or a number; best is the latest for runs that ranked none.
      params: averaged parameters where kept, or raw ones.

    Raises:
      UserError: none, or models with different outputs.

    """
    if not workdirs:
        raise UserError("--workdir: missing; name the folder of one run or of several")
    models = [_open(workdir, step, params) for workdir in workdirs]
    outputs = {tuple(model.experiment.model.outputs) for model in models}
    if len(outputs) > 1:
        raise UserError(
            f"--workdir: the runs have different outputs {sorted(outputs)}; they cannot be averaged"
        )
    return models


def output_index(model: TrainedModel, name: str) -> int:
    """Which output has this name; the first for none.

    Raises:
      UserError: no output has it.

    """
    names = list(model.experiment.model.outputs)
    if name and name not in names:
        raise UserError(f"--target: no output {name!r}; there are {', '.join(names)}")
    return names.index(name) if name else 0


def images_of(readings: Sequence[Reading], config: DataConfig) -> np.ndarray:
    """A whole batch of uint16 images; rows of what could not be read, and those at the end, are 0."""
    images = np.zeros((BATCH_SIZE, config.image_size, config.image_size), np.uint16)
    for row, reading in enumerate(readings):
        if reading.read is not None:
            images[row] = model_image(reading.read.pixels, config)
    return images


def model_image(pixels: Grey, config: DataConfig) -> np.ndarray:
    """What the network sees of a radiograph, as in training without random views."""
    return radiograph.to_uint16(
        radiograph.prepare(pixels, config.image_size, crop_borders=config.crop_borders)
    )


def score(models: Sequence[TrainedModel], inputs: Sequence[Input], target: str = "") -> Iterator[Scored]:
    """Every radiograph with the mean probability over the models.

    Args:
      models: of `open_models`.
      inputs: what to read.
      target: the output to score by; the first unless told.

    """
    column = output_index(models[0], target)
    allow = models[0].experiment.data.allow
    for readings in read_all(inputs, allow):
        logits = np.stack([_logits(model, readings, column) for model in models])
        together = mean_logit(logits)
        for row, reading in enumerate(readings):
            if reading.read is None:
                yield Scored(reading, None, None)
            else:
                yield Scored(reading, float(special.expit(together[row])), float(together[row]))


def mean_logit(logits: Float[np.ndarray, "models images"]) -> Float[np.ndarray, " images"]:
    """The logit of the mean probability; exact also where probabilities round to 0 or 1."""
    logits = np.asarray(logits, np.float64)
    if len(logits) == 1:
        return logits[0]
    yes, no = (special.logsumexp(special.log_expit(sign * logits), axis=0) for sign in (1, -1))
    return yes - no


def row_of(
    scored: Scored, points: Mapping[str, OperatingPoint], key: bytes | None = None
) -> dict[str, object]:
    """A row of `predictions.csv`; what failed has a message and no score.

    The patient is that of the manifest; without one, the pseudonym of the number in the file, or blank
    without a key.
    """
    reading = scored.reading
    patient = reading.source.case.patient_id
    if not patient and key and reading.read is not None and reading.read.patient_id.strip():
        patient = identity.pseudonym(key, reading.read.patient_id)
    failed = scored.score is None
    flags: dict[str, object] = {
        f"flag_{kind}": int(scored.score >= points[kind].threshold)
        for kind in KINDS
        if scored.score is not None and kind in points
    }
    return {
        "image": reading.source.name,
        "patient_id": patient,
        "score": "" if failed else f"{scored.score:.9g}",
        "logit": "" if failed else f"{scored.logit:.9g}",
        **{name: flags.get(name, "") for name in FLAGS},
        "status": "error" if failed else "ok",
        "message": reading.error if reading.read is None else "; ".join(reading.read.warnings),
    }


def read_points(file: str) -> dict[str, OperatingPoint]:
    """Thresholds as `offsites chest_xray thresholds` writes them.

    Raises:
      UserError: there is no such file.
      DamagedDataError: it is another.

    """
    place = epath.Path(file)
    if not place.exists():
        raise UserError(f"{file}: no such file; `offsites chest_xray thresholds` writes it")
    try:
        return {
            kind: OperatingPoint(**point) for kind, point in json.loads(place.read_text())["points"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedDataError(f"{file}: holds no operating points ({error}); write it again") from error


def _logits(model: TrainedModel, readings: Sequence[Reading], column: int) -> Float[np.ndarray, " batch"]:
    images = images_of(readings, model.experiment.data)
    return np.asarray(model.predict({"image": jnp.asarray(images)})["logit"])[:, column]


def _open(workdir: str, step: Step, params: str) -> TrainedModel:
    experiment = dataclasses.replace(read_experiment(workdir), mesh=MeshSettings(data=1))
    if step == "best" and not experiment.train.keep.best:
        step = "latest"
    return restore(workdir, step=step, params=params, experiment=experiment)
