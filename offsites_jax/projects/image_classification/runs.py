"""Recorded runs as figures to compare: what a workdir says of accuracy, size and time."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath
from matplotlib.figure import Figure

from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import MeshSettings, create_mesh
from offsites_jax.projects.image_classification.search.measure import count
from offsites_jax.train.workdir import read_experiment
from offsites_jax.train.writers import read_metrics

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
      gap: accuracy in training minus that on the split that was evaluated last; None if not recorded.
      curve: (step, accuracy) of every evaluation.

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
    curve: tuple[tuple[int, float], ...]


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
        gap=gaps(lines).get(split),
        curve=tuple((line["step"], line[key]) for line in scored),
    )


def gaps(lines: Sequence[Line]) -> dict[str, float]:
    """Accuracy in training minus that of each evaluator, at the last evaluation.

    Training accuracy is that of augmented images in the last interval, so regularisation alone makes the gap
    negative; compare it between runs of one recipe.
    """
    train = [line for line in lines if line["split"] == "train" and "accuracy" in line]
    last = {
        line["split"]: line["accuracy"] for line in lines if line["split"] != "train" and "accuracy" in line
    }
    return {split: train[-1]["accuracy"] - accuracy for split, accuracy in last.items()} if train else {}


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


def scatter_figure(runs: Sequence[Run]) -> Figure:
    """Accuracy over parameters, over multiply-adds and over seconds of train steps, a point for each run."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    axes_of = (
        ("parameters, millions", [run.params / 1e6 for run in runs]),
        ("multiply-adds of a prediction, millions", [run.macs / 1e6 for run in runs]),
        ("train steps, seconds on the machine that trained", [run.step_seconds for run in runs]),
    )
    for axes, (label, cost) in zip(panels, axes_of, strict=True):
        for index, (run, x) in enumerate(zip(runs, cost, strict=True)):
            axes.scatter(x, run.accuracy, color=f"C{index % 10}", s=60, zorder=2, label=run.name)
        axes.set_xlabel(label)
        axes.margins(0.15)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(" and ".join(sorted({run.metric for run in runs})))
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=8)
    return figure
