"""A trained recogniser, of everyone or of one speaker, out of a workdir."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from offsites_jax.data.text.vocabulary import Tokenizer
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.cohort import SHARED, join_layers
from offsites_jax.projects.euphonia.deltas import FOLDER, add_delta, read_about, read_delta
from offsites_jax.projects.euphonia.model import Transducer
from offsites_jax.projects.euphonia.prepared import has_tokenizer, read_tokenizer
from offsites_jax.projects.euphonia.transcription import NORMALIZATION, Transcribe
from offsites_jax.train.config import Experiment, resolve
from offsites_jax.train.contract import Tree, Variables
from offsites_jax.train.saved import SavedVariables, Step
from offsites_jax.train.state import unflatten

BASE = "base"


@dataclasses.dataclass(frozen=True)
class Recognizer:
    """A network with its parameters.

    Attributes:
      task: what predicts; of one model, whatever the run was.
      variables: parameters and feature statistics, on the host.
      experiment: of the run.
      step: of the checkpoint.
      folder: the workdir.

    """

    task: Transcribe
    variables: Variables
    experiment: Experiment
    step: int
    folder: epath.Path

    def tokenizer(self, path: epath.PathLike = "") -> Tokenizer:
        """That of the folder told; else of the workdir, or of the corpus it was trained on.

        Raises:
          UserError: it is not there, or of another size.

        """
        own = has_tokenizer(self.folder)
        where = path or (self.folder if own else self.experiment.data.path)
        found = read_tokenizer(where)
        if found.size != self.experiment.model.vocabulary:
            raise UserError(
                f"--tokenizer: that of {where} has {found.size} labels, not "
                f"{self.experiment.model.vocabulary}"
            )
        return found


def load(workdir: epath.PathLike, speaker: str = "", step: Step = "latest") -> Recognizer:
    """The recogniser of a run.

    Args:
      workdir: of a base or single speaker's run, or of a cohort.
      speaker: of a cohort; the base that they share unless told.
      step: of the checkpoint.

    Raises:
      UserError: no such run or speaker.

    """
    folder = epath.Path(workdir)
    saved = SavedVariables(folder, step)
    experiment = resolve(saved.meta["config"])
    prefixes = ("params/", NORMALIZATION) if not experiment.task.members else _COMMON
    wanted = {name: leaf for name, leaf in saved.leaves.items() if name.startswith(prefixes)}
    variables = unflatten(saved.read(wanted))
    if experiment.task.members:
        variables["params"] = of_speaker(variables["params"], folder, speaker)
    elif speaker:
        raise UserError(f"--speaker: {folder} is the run of one model, not of a cohort; leave it out")
    task = Transcribe(Transducer(experiment.model, jnp.float32), experiment.task, experiment.data)
    return Recognizer(task, jax.tree.map(jnp.asarray, variables), experiment, saved.step, folder)


def of_speaker(params: Tree, folder: epath.Path, speaker: str) -> Tree:
    """Parameters of one model, out of a cohort's shared ones and a speaker's file."""
    layers: Any = params[BASE]
    if speaker:
        where = folder / FOLDER
        layers = add_delta(layers, read_delta(where, speaker), read_about(where, speaker), where)
    return join_layers(params[SHARED], layers)


_COMMON = (f"params/{SHARED}/", f"params/{BASE}/", NORMALIZATION)
