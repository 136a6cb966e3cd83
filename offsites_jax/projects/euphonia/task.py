"""The task of an experiment: one recogniser, of recordings or of streams, or many speakers side by side."""

import jax.numpy as jnp

from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.cohort import create_cohort
from offsites_jax.projects.euphonia.decoding.session import Session
from offsites_jax.projects.euphonia.model import Transducer
from offsites_jax.projects.euphonia.transcription import TaskConfig, Transcribe
from offsites_jax.train.config import Experiment
from offsites_jax.train.contract import Task

__all__ = ["TaskConfig", "create_task"]


def create_task(experiment: Experiment, dtype: jnp.dtype) -> Task:
    """The task of an experiment.

    Raises:
      UserError: sections that do not go together.

    """
    model, config = Transducer(experiment.model, dtype), experiment.task
    if experiment.data.features.dim != experiment.model.features:
        raise UserError(
            f"config.model.features: is {experiment.model.features}, but data.features makes "
            f"{experiment.data.features.dim} columns"
        )
    if config.ctc_weight and not experiment.model.ctc:
        raise UserError("config.task.ctc_weight: needs model.ctc = True")
    if config.members:
        return create_cohort(model, config, experiment.data)
    if config.stream_rows:
        return Session(model, config, experiment.data)
    return Transcribe(model, config, experiment.data)
