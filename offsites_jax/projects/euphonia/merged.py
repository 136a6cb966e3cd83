"""One recogniser taken out of a run, as a run of its own: every command then takes it like any other.

config.json, checkpoints/     as of a run; parameters and feature statistics, no optimizer
graphemes.json, pieces.model  the tokenizer, so that the corpus need not be there
"""

from typing import Any

import jax.numpy as jnp
from etils import epath

from offsites_jax.projects.euphonia.decoding.session import rows_of_seconds
from offsites_jax.projects.euphonia.loading import Recognizer, load
from offsites_jax.projects.euphonia.personal import of_one
from offsites_jax.projects.euphonia.prepared import save_tokenizer
from offsites_jax.projects.euphonia.task import create_task
from offsites_jax.train.config import Experiment, resolve
from offsites_jax.train.new_run import check_new, new_run, write_run
from offsites_jax.train.saved import Step


def write_merged(
    workdir: epath.PathLike,
    output: epath.PathLike,
    *,
    speaker: str = "",
    step: Step = "latest",
    stream_seconds: float = 0.0,
    tokenizer: epath.PathLike = "",
) -> Recognizer:
    """Writes the run of one recogniser, whole or not at all.

    Args:
      workdir: of a base, of a single speaker, or of a cohort.
      output: folder to make.
      speaker: of a cohort; the base that they share unless told.
      step: of the checkpoint.
      stream_seconds: where above 0, what is exported of the new run is a step of a stream, which takes about
        so much sound.
      tokenizer: folder that holds it; that of the run, or of the corpus it was trained on, unless given.

    Returns:
      What was written, read back.

    Raises:
      UserError: no such run or speaker, layers of another base, an output that exists, or a frontend that
        has no stream.

    """
    check_new(output, "--output")
    trained = load(workdir, speaker, step)
    features = trained.experiment.data.features
    stream_rows = rows_of_seconds(stream_seconds, features) if stream_seconds else 0
    experiment = single_experiment(trained.experiment, speaker, stream_rows)
    create_task(experiment, jnp.float32)  # refuses what cannot be
    with new_run(output, "--output") as partial:
        save_tokenizer(trained.tokenizer(tokenizer), partial)
        write_run(partial, experiment, trained.step, _state(trained))
    return load(output)


def single_experiment(experiment: Experiment, speaker: str, stream_rows: int = 0) -> Experiment:
    """The experiment of one recogniser, on one device, without the output that only training needs.

    Raises:
      UserError: a number of rows, or a frontend, that no stream can have.

    """
    raw = of_one(experiment, speaker).raw if experiment.task.members else dict(experiment.raw)
    evaluators = raw.get("evaluators") or {"dev": {"split": "dev"}, "test": {"split": "test"}}
    raw |= {
        "model": {**raw.get("model", {}), "ctc": False},
        "task": {**raw.get("task", {}), "ctc_weight": 0.0, "stream_rows": stream_rows},
        "evaluators": {} if stream_rows else evaluators,
        "expected": {},
        "init_from": None,
        "mesh": {"data": 1},
        "sharding": {},
    }
    return resolve(raw)


def _state(trained: Recognizer) -> dict[str, Any]:
    """What of a train state inference reads."""
    model_state = dict(trained.variables)
    params = {name: leaf for name, leaf in model_state.pop("params").items() if name != "ctc"}
    return {"params": params, "model_state": model_state}
