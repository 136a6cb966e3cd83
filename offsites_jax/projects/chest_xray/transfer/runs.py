"""Starts of a transfer in code: features for linear probes, and fine-tuning runs, share by share."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from offsites_jax.data.pipeline import eval_batches
from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.cohorts.sources import CasesSource
from offsites_jax.projects.chest_xray.cohorts.splits import draw_patients
from offsites_jax.projects.chest_xray.transfer.curves import Features, Point
from offsites_jax.train.config import Experiment, resolve
from offsites_jax.train.warm_start import InitFrom, warm_start
from offsites_jax.train.writers import read_metrics

HEAD = "^params/classifier/"
FRESH = "random"

_BATCH = 32


def parse_starts(texts: Sequence[str]) -> dict[str, str]:
    """`abnormal=workdirs/cxr imagenet=b7.safetensors random` as paths by name; `random` has none.

    Raises:
      UserError: a name twice, or without a path.

    """
    starts: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if name in starts or not (path if equals else name == FRESH):
            raise UserError(
                f"--starts: {text!r}; give NAME=WORKDIR, NAME=FILE.safetensors or {FRESH}, each once"
            )
        starts[name] = path
    return starts


def features_of(experiment: Experiment, path: str, splits: Sequence[str]) -> list[Features]:
    """Features of whole splits by the backbone at `path`, or by a fresh one.

    Raises:
      UserError: the weights do not fit the experiment's model; an image has no label.

    """
    task = experiment.found.create_task(experiment, np.dtype("float32"))
    blank = {name: np.zeros(spec.shape, spec.dtype) for name, spec in task.batch_spec(1).items()}
    variables = jax.jit(task.init)(jax.random.key(experiment.train.seed), blank)
    if path:
        variables, _ = warm_start(variables, InitFrom(path, skip=(HEAD,)))
    embed = jax.jit(task.embed)
    return [
        _features(experiment, split, lambda image: embed(variables, {"image": image})) for split in splits
    ]


def fine_tune(
    raw: dict[str, Any],
    starts: dict[str, str],
    fractions: Sequence[float],
    seeds: Sequence[int],
    workdir: str,
) -> Iterator[Point]:
    """Trains the experiment from every start on every share of the patients; goes on where it was stopped.

    Args:
      raw: the experiment; its evaluator `test` gives the area under the curve, at the last step.
      starts: of `parse_starts`.
      fractions: shares of the training patients.
      seeds: of the draws, of order and augmentation.
      workdir: folder with one run each.

    Yields:
      Each training as it ends.

    Raises:
      UserError: a start is not there; no evaluator `test`; whatever stops a training.

    """
    from offsites_jax.train.loop import train

    for name, path in starts.items():
        if path and not epath.Path(path).exists():
            raise UserError(f"--starts: {name}={path}: no such file or folder")
    for name, path in starts.items():
        for fraction in fractions:
            for seed in seeds:
                experiment = resolve(_with(raw, path, fraction, seed))
                folder = epath.Path(workdir) / f"{name}-{fraction:g}-{seed}"
                train(experiment, folder)
                number = _patients(experiment, fraction, seed)
                yield Point(name, fraction, seed, number, _last_area(folder))


def _patients(experiment: Experiment, fraction: float, seed: int) -> int:
    source = _source(experiment, experiment.data.train_split)
    labels, patients = _of(source)
    return len({patients[row] for row in draw_patients(labels, patients, fraction, seed)})


def _last_area(folder: epath.Path) -> float:
    """From the log of a run, since one that was complete before does not evaluate again."""
    found = [line["auc"] for line in read_metrics(folder) if line["split"] == "test" and "auc" in line]
    if not found:
        raise UserError("config.evaluators: needs one named test, on a split with both classes")
    return float(found[-1])


def _with(raw: dict[str, Any], path: str, fraction: float, seed: int) -> dict[str, Any]:
    own = copy.deepcopy(raw)
    own.setdefault("data", {}).update(fraction=fraction, fraction_seed=seed)
    own["train"]["seed"] = seed
    own["init_from"] = {"path": path, "skip": [HEAD]} if path else None
    return own


def _features(experiment: Experiment, split: str, embed: Any) -> Features:
    pipeline = experiment.found.create_pipeline(experiment, split, train=False)
    parts = []
    with eval_batches(pipeline, batch_size=_BATCH, shard=(0, 1), loading=experiment.data.loading) as batches:
        for batch in batches:
            parts.append(np.asarray(embed(batch["image"]))[batch["mask"] > 0])
    labels, patients = _of(pipeline.source)
    return Features(np.concatenate(parts), labels, patients)


def _source(experiment: Experiment, split: str) -> CasesSource:
    return experiment.found.create_pipeline(experiment, split, train=False).source


def _of(source: CasesSource) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels of the first output, and patients."""
    labels = source.labels[:, 0]
    if np.isnan(labels).any():
        raise UserError(
            f"{source.describe(int(np.isnan(labels).argmax()))}: has no label; transfer needs all"
        )
    return labels > 0.5, tuple(f"{case.site}/{case.patient_id}" for case in source.cases)
