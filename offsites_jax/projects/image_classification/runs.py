"""Recorded runs as figures to compare: what a workdir says of accuracy, size and time."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import MeshSettings, create_mesh
from offsites_jax.projects.image_classification.search.measure import count
from offsites_jax.train.config import Experiment
from offsites_jax.train.saved import read_meta
from offsites_jax.train.workdir import read_experiment
from offsites_jax.train.writers import read_metrics

CORES = 32  # that arXiv 2104.00298 gives its hours of training on

Line = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """What is known of one run.

    Attributes:
      name: of its folder.
      model: name of the backbone.
      seed: of its training.
      steps: trained so far.
      metric: what `accuracy` is, as EVALUATOR/METRIC.
      accuracy: at the last evaluation.
      images: of the split that was evaluated on; 0 if not recorded.
      params: trained values.
      macs: multiply-adds of one prediction of one image at evaluation size.
      step_seconds: of all train steps together, without compiling, evaluating and saving.
      wait_seconds: that the loop waited for data besides.
      gap: accuracy in training minus `accuracy`, see `gaps`; None if not recorded.
      plain_gap: whether that is of training images prepared as for evaluation.
      curve: (step, accuracy) of every evaluation.
      devices: how many trained; 0 if not recorded.

    """

    name: str
    model: str
    seed: int
    steps: int
    metric: str
    accuracy: float
    images: int
    params: int
    macs: int
    step_seconds: float
    wait_seconds: float
    gap: float | None
    plain_gap: bool
    curve: tuple[tuple[int, float], ...]
    devices: int = 0


def read_run(workdir: epath.PathLike, metric: str = "") -> Run:
    """The figures of a workdir; they survive a run that was stopped and gone on with.

    Args:
      workdir: folder of the run.
      metric: what to call accuracy, as EVALUATOR/METRIC; that of train.keep.best unless told.

    Raises:
      UserError: the folder holds no run, or one without that metric.

    """
    experiment = read_experiment(workdir)
    metric = metric or experiment.train.keep.best
    split, _, key = metric.partition("/")
    lines = read_metrics(workdir)
    scored = [line for line in lines if line["split"] == split and key in line]
    if not metric or not scored:
        said = repr(metric) if metric else "train.keep.best is empty"
        raise UserError(f"{workdir}: no such figure there ({said}); say --metric EVALUATOR/METRIC")
    here = dataclasses.replace(experiment, mesh=MeshSettings(data=1))
    size = count(here, create_mesh(here.mesh))
    step_seconds, wait_seconds = seconds_of_steps(lines)
    training = training_evaluators(experiment)
    return Run(
        name=epath.Path(workdir).name,
        model=experiment.model.name,
        seed=experiment.train.seed,
        steps=max(line["step"] for line in lines),
        metric=metric,
        accuracy=scored[-1][key],
        images=int(scored[-1].get("images", 0)),
        params=size.params,
        macs=size.macs,
        step_seconds=step_seconds,
        wait_seconds=wait_seconds,
        gap=gaps(lines, training).get(split),
        plain_gap=is_plain(lines, training),
        curve=tuple((line["step"], line[key]) for line in scored),
        devices=int(devices_of(workdir).get("count", 0)),
    )


def training_evaluators(experiment: Experiment) -> tuple[str, ...]:
    """Evaluators of images that are trained on: of the training split or an evenly spaced sample of it."""
    data = experiment.data

    def whole(split: str) -> tuple[Any, str]:
        config, name = data.of_split(split)
        return dataclasses.replace(config, sample=0), name

    trained = whole(data.train_split)
    return tuple(name for name, one in experiment.evaluators.items() if whole(one.split) == trained)


def gaps(lines: Sequence[Line], training: Sequence[str] = ()) -> dict[str, float]:
    """Accuracy on training images minus that of each other evaluator, at the last evaluation.

    Args:
      lines: of `metrics.jsonl`.
      training: evaluators of training images, prepared as for evaluation; the first that has an accuracy is
        subtracted from. Without any it is the accuracy of the last interval of training, of augmented images
        and raw parameters, where regularisation alone makes the gap negative: compare it between runs of one
        recipe only.

    """
    last = {line["split"]: line["accuracy"] for line in lines if "accuracy" in line}
    measured = next((name for name in training if name in last), "train")
    if measured not in last:
        return {}
    return {
        split: last[measured] - accuracy
        for split, accuracy in last.items()
        if split != "train" and split not in training
    }


def is_plain(lines: Sequence[Line], training: Sequence[str]) -> bool:
    """Whether `gaps` are between images prepared alike."""
    return any(line["split"] in training and "accuracy" in line for line in lines)


def devices_of(workdir: epath.PathLike) -> dict[str, Any]:
    """Kind and count of the devices that trained, where a checkpoint says so; else empty."""
    with contextlib.suppress(UserError):
        return read_meta(workdir).get("devices") or {}
    return {}


def seconds_of_steps(lines: Sequence[Line]) -> tuple[float, float]:
    """Seconds of the train steps, and of waiting for data: those of each interval of the log, summed.

    A line without a speed lends its steps to the next one that has it; the last speed holds to the end.
    """
    train = [line for line in lines if line["split"] == "train"]
    timed = [line for line in train if line.get("steps_per_second", 0) > 0]
    before, spent, waited = 0, 0.0, 0.0
    for line in timed:
        end = train[-1]["step"] if line is timed[-1] else line["step"]
        seconds = (end - before) / line["steps_per_second"]
        share = line.get("data_wait", 0.0)
        before, spent, waited = end, spent + seconds * (1 - share), waited + seconds * share
    return spent, waited
