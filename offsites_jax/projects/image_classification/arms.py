"""The variants of an experiment file trained one after another, and set side by side.

Every arm runs through the one trainer in a workdir of its own, so that a comparison that was stopped goes on
where it was, and every arm can be evaluated, exported and looked at like any other run.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.image_classification.runs import Run, read_run
from offsites_jax.train.config import Experiment, load_experiment, read_module
from offsites_jax.train.loop import train
from offsites_jax.train.schema import nearest
from offsites_jax.train.workdir import open_workdir, write_json

RECORD = "arm.json"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One variant with one seed.

    Attributes:
      variant: as the experiment file calls it.
      experiment: to train.
      workdir: where.

    """

    variant: str
    experiment: Experiment
    workdir: epath.Path


@dataclasses.dataclass(frozen=True)
class Result:
    """An arm that was trained to its end.

    Attributes:
      variant: as the experiment file calls it.
      run: its figures.
      compile_seconds: of the start that finished it; next to nothing where compiled programs were kept, None
        where that start was stopped before it could be noted.

    """

    variant: str
    run: Run
    compile_seconds: float | None


def variants_of(file: str) -> tuple[str, ...]:
    """The tuple VARIANTS of an experiment file.

    Raises:
      UserError: no such file, or it has none.

    """
    module = read_module(pathlib.Path(file))
    found = tuple(getattr(module, "VARIANTS", ()))
    if not found:
        raise UserError(f"{file}: names no VARIANTS; give the file a tuple of what get_config() may be asked")
    return found


def list_arms(
    file: str,
    folder: epath.PathLike,
    variants: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    overrides: dict[str, str] | None = None,
) -> list[Arm]:
    """All arms, variant by variant, each in `<folder>/<variant>-<seed>`; writes nothing.

    Args:
      file: experiment file.
      folder: of the comparison.
      variants: some of those in the file; all unless told.
      seeds: of training; each variant is trained with each.
      overrides: keys of every arm to change, as text.

    Raises:
      UserError: an unknown variant, no seed, or arms that need different devices.

    """
    known = variants_of(file)
    for name in variants:
        if name not in known:
            raise UserError(f"--variants: {file} has no {name!r}{nearest(name, known)}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError("--seeds: give at least one, and none twice")
    arms = [
        Arm(
            name,
            load_experiment(f"{file}:{name}", {**(overrides or {}), "train.seed": str(seed)}),
            epath.Path(folder) / f"{name}-{seed}",
        )
        for name in variants or known
        for seed in seeds
    ]
    if len({arm.experiment.mesh.cpu_devices for arm in arms}) > 1:
        raise UserError(f"{file}: variants differ in mesh.cpu_devices, which one process cannot have")
    return arms


def train_arms(
    arms: Sequence[Arm], metric: str = "", after: Callable[[list[Result]], None] = lambda results: None
) -> list[Result]:
    """Trains what is not trained yet, in order; what is, is read.

    Args:
      arms: from `list_arms`.
      metric: what to call accuracy; train.keep.best of each unless told.
      after: told all results so far after each arm.

    Raises:
      UserError: a workdir holds another run; or from the trainer.
      Preempted: asked to leave; the same comparison goes on when started again.

    """
    for arm in arms:  # a mistake shows before hours have gone by
        open_workdir(arm.workdir, arm.experiment)
    results: list[Result] = []
    for arm in arms:
        if not (arm.workdir / RECORD).exists():
            seconds = train(arm.experiment, arm.workdir).seconds
            if jax.process_index() == 0:
                write_json(arm.workdir / RECORD, {"compile_seconds": seconds.get("compile")})
            jax.clear_caches()
        results.append(Result(arm.variant, read_run(arm.workdir, metric), _compile_seconds(arm.workdir)))
        after(results)
    return results


def machine() -> str:
    """What the seconds were measured on."""
    device = jax.devices()[0]
    cores = f" of a machine with {os.cpu_count()} cores" if device.platform == "cpu" else ""
    return f"{device.device_kind}{cores}"


def _compile_seconds(workdir: epath.Path) -> float | None:
    file = workdir / RECORD
    try:
        record: dict[str, Any] = json.loads(file.read_text())
        return record["compile_seconds"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DamagedDataError(f"{file}: damaged ({error!r}); delete it and start again") from None
