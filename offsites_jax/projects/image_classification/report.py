"""A run on one page: model, stages, hours, scores beside published ones, the gap to training."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from offsites_jax.projects.image_classification.runs import (
    CORES,
    devices_of,
    gaps,
    is_plain,
    seconds_of_steps,
    training_evaluators,
)
from offsites_jax.train.compare import compare, render
from offsites_jax.train.config import Experiment, resolve
from offsites_jax.train.state import zero_batch
from offsites_jax.train.workdir import read_config
from offsites_jax.train.writers import read_metrics


def report(workdir: epath.PathLike) -> str:
    """The page as Markdown.

    Raises:
      UserError: the folder holds no run.

    """
    raw = read_config(workdir)
    experiment = resolve(raw).final
    lines = read_metrics(workdir)
    parts = [
        f"# {experiment.model.name} in {epath.Path(workdir).name}",
        _model(experiment),
        "## Stages",
        _table(list(_stages(raw, len(experiment.ends)))),
        *_time(workdir, lines),
        "## Scores",
        _table(_scores(lines)) if any(line["split"] != "train" for line in lines) else "Not evaluated yet.",
        *_gaps(lines, training_evaluators(experiment)),
    ]
    if experiment.expected:
        parts += ["## Published figures", f"```text\n{render(compare(workdir))}\n```"]
    return "\n\n".join(parts) + "\n"


def hours(lines: list[dict[str, Any]], devices: int) -> dict[str, float]:
    """Hours of training, as they passed and as if on 32 devices that share the work (arXiv 2104.00298).

    Train steps and the waits for their data count; compiling, evaluating and saving do not.

    Args:
      lines: of `metrics.jsonl`.
      devices: that trained. JAX shows a core of TPU v2 and v3 as one, and a whole chip of later ones.

    """
    spent, waited = seconds_of_steps(lines)
    passed = (spent + waited) / 3600
    return {"hours": passed, "of which waiting": waited / 3600, f"on {CORES}": passed * devices / CORES}


def _time(workdir: epath.PathLike, lines: list[dict[str, Any]]) -> list[str]:
    """The hours, where a checkpoint says on how many devices they were."""
    devices = devices_of(workdir)
    if not devices:
        return []
    row = {"devices": f"{devices['count']} x {devices['kind']}", **hours(lines, devices["count"])}
    return ["## Hours of training", _table([row])]


def _model(experiment: Experiment) -> str:
    task = experiment.found.create_task(experiment, jnp.dtype("float32"))
    params = jax.eval_shape(task.init, jax.random.key(0), zero_batch(task.batch_spec(1)))["params"]
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    train = experiment.train
    return f"{count:,} parameters, {train.steps} steps of {train.batch_size} images, seed {train.seed}."


def _stages(raw: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    for index in range(count):
        at = resolve(raw, stage=index)
        strength = at.data.magnitude if at.data.augment == "randaugment" else at.data.augment
        yield {
            "stage": at.stage_name,
            "until step": at.ends[index],
            "pixels": at.data.image_size,
            "augmentation": strength,
            "mixup": at.task.mixup_alpha,
            "cutmix": at.task.cutmix_alpha,
            "dropout": at.model.overrides.get("dropout_rate", "default"),
        }


def _scores(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last line of each evaluator, and where its accuracy was best."""
    rows = []
    for split in dict.fromkeys(line["split"] for line in lines if line["split"] != "train"):
        mine = [line for line in lines if line["split"] == split]
        best = max(mine, key=lambda line: line.get("accuracy", 0.0))
        figures = {name: value for name, value in mine[-1].items() if name not in ("split", "time")}
        rows.append(
            {"split": split, **figures, "best accuracy": best.get("accuracy", ""), "at": best["step"]}
        )
    return rows


def _gaps(lines: list[dict[str, Any]], training: tuple[str, ...]) -> list[str]:
    """The gap to training, and what kind of images it is between."""
    found = gaps(lines, training)
    rows = [{"split": split, "accuracy in training minus here": gap} for split, gap in found.items()]
    if not rows:
        return []
    if is_plain(lines, training):
        return [_table(rows), f"Training images ({training[0]}) and these were prepared and predicted alike."]
    return [
        _table(rows),
        "Training images were augmented and predicted by parameters on their way, which lowers the gap; an "
        "evaluator of a sample of the training split compares like with like.",
    ]


def _table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    body = ["| " + " | ".join(_cell(row.get(name, "")) for name in columns) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns), *body])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
