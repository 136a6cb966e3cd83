"""A run that no training made: a folder as training leaves it, written from values at hand."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.train.checkpoint import Checkpoints
from offsites_jax.train.config import Experiment
from offsites_jax.train.report import versions
from offsites_jax.train.workdir import CHECKPOINTS, CONFIG, write_json


@contextlib.contextmanager
def new_run(workdir: epath.PathLike, option: str = "--workdir") -> Iterator[epath.Path]:
    """A folder beside, which gets the name when the block ends, and is gone when it fails.

    Args:
      workdir: folder to make, with those above it.
      option: what the user calls it.

    Raises:
      UserError: there is something of that name, or it cannot be written.

    """
    folder = epath.Path(workdir)
    check_new(folder, option)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{option}: {folder} cannot be written ({reason}); name another folder") from None
    finally:
        partial.rmtree(missing_ok=True)


def check_new(workdir: epath.PathLike, option: str = "--workdir") -> None:
    """Raises UserError where there is something of that name, before anything long is computed."""
    if epath.Path(workdir).exists():
        raise UserError(f"{option}: {workdir} exists already; name another folder")


def write_run(folder: epath.PathLike, experiment: Experiment, step: int, state: Any) -> None:
    """Writes the configuration, and a checkpoint that commands find by it.

    Args:
      folder: of the run; there, and without a run.
      experiment: which the state is of.
      step: updates that led to it.
      state: a whole `TrainState` where training shall go on from it; `params` and `model_state` are enough
        for everything else.

    """
    with Checkpoints(epath.Path(folder) / CHECKPOINTS, asynchronous=False) as checkpoints:
        checkpoints.save(step, state, {"config": experiment.raw, "versions": versions()})
    write_json(epath.Path(folder) / CONFIG, experiment.raw)
