"""A run on one page: model, stages, scores beside published ones, and the gap between training and test."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

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
        "## Scores",
        _table(_scores(lines)) if any(line["split"] != "train" for line in lines) else "Not evaluated yet.",
        *_gaps(lines),
    ]
    if experiment.expected:
        parts += ["## Published figures", f"```text\n{render(compare(workdir))}\n```"]
    return "\n\n".join(parts) + "\n"


def gaps(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Accuracy in training minus that of each evaluator, at the last evaluation.

    Training accuracy is that of augmented images in the last interval, so regularisation alone makes the gap
    negative; compare it between runs of one recipe.
    """
    train = [line for line in lines if line["split"] == "train" and "accuracy" in line]
    last = {
        line["split"]: line["accuracy"] for line in lines if line["split"] != "train" and "accuracy" in line
    }
    return {split: train[-1]["accuracy"] - accuracy for split, accuracy in last.items()} if train else {}


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


def _gaps(lines: list[dict[str, Any]]) -> list[str]:
    found = gaps(lines)
    rows = [{"split": split, "accuracy in training minus here": gap} for split, gap in found.items()]
    return [_table(rows)] if rows else []


def _table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    body = ["| " + " | ".join(_cell(row.get(name, "")) for name in columns) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns), *body])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
