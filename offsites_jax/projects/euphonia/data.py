"""Speech with its text: the pipelines that training, evaluation and prediction read."""

import functools
from collections.abc import Sequence

from offsites_jax.data.files import FilesSource
from offsites_jax.data.pipeline import Pipeline
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.cohort_data import create_cohort_pipeline
from offsites_jax.projects.euphonia.utterances import (
    Chosen,
    DataConfig,
    check_lengths,
    example,
    example_of_file,
    open_prepared,
)
from offsites_jax.train.config import Experiment

__all__ = ["DataConfig", "create_input_pipeline", "create_pipeline"]


def create_pipeline(experiment: Experiment, split: str, train: bool) -> Pipeline:
    """The pipeline of one part of the corpus: of one speaker, of all, or of a cohort side by side.

    Raises:
      UserError: no such corpus, speaker or part; or it does not go with the experiment.

    """
    refuse_stream(experiment)
    if experiment.task.members:
        return create_cohort_pipeline(experiment, split, train)
    config: DataConfig = experiment.data
    prepared = open_prepared(config, experiment.model.vocabulary)
    rows = [
        row
        for row, entry in enumerate(prepared.entries)
        if entry.split == split and config.speaker in ("", entry.speaker)
    ]
    if not rows:
        of = f" of speaker {config.speaker!r}" if config.speaker else ""
        raise UserError(f"config.data.path: {config.path} has no utterances{of} in part {split!r}")
    check_lengths(prepared, rows, config)
    transform = functools.partial(example, tokenizer=prepared.tokenizer, config=config, train=train)
    return Pipeline(Chosen(prepared, rows), transform)


def create_input_pipeline(experiment: Experiment, paths: Sequence[str]) -> Pipeline:
    """The pipeline of recordings a user names, for `offsites predict`."""
    refuse_stream(experiment)
    return Pipeline(FilesSource(paths), functools.partial(example_of_file, config=experiment.data))


def refuse_stream(experiment: Experiment) -> None:
    """Raises UserError for a model that is one step of a stream: no pipeline feeds that its own state."""
    if experiment.task.stream_rows:
        raise UserError(
            "config.task.stream_rows: one step of a stream can only be exported; for recordings use "
            "`offsites euphonia transcribe`, or `offsites euphonia merge` without --stream-seconds"
        )
