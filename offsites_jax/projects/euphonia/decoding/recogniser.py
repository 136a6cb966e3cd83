"""A trained model with all that turns its labels into text, from the folder of a run."""

import dataclasses
import functools
import hashlib
from typing import Any

import jax
import numpy as np
from etils import epath

from offsites_jax.data.audio import LogMelConfig
from offsites_jax.data.text.vocabulary import Tokenizer
from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import MeshSettings
from offsites_jax.projects.euphonia.decoding.beam import BeamSettings
from offsites_jax.projects.euphonia.decoding.words import spellings_of
from offsites_jax.projects.euphonia.model import Transducer
from offsites_jax.projects.euphonia.prepared import read_tokenizer
from offsites_jax.projects.euphonia.task import NORMALIZATION
from offsites_jax.train.contract import Variables
from offsites_jax.train.restore import restore
from offsites_jax.train.saved import Step
from offsites_jax.train.workdir import read_experiment


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How sound becomes labels, piece by piece.

    Attributes:
      rows: of features that are computed at once; an even number. Two are one frame: text comes as early
        as it can. More are faster.
      labels_per_frame: most labels that one frame emits.
      beam: how a beam searches; greedy decoding where it is None. Its `labels_per_frame` counts then.
      doubts: labels that hypotheses of a beam may differ in before the best is taken for granted. What all
        begin with is taken out on the way, so this says nothing about the length of a recording.
      silence: seconds without a label after which an utterance has ended.

    """

    rows: int = 2
    labels_per_frame: int = 10
    beam: BeamSettings | None = None
    doubts: int = 128
    silence: float = 0.8

    def __post_init__(self) -> None:
        if self.rows < 2 or self.rows % 2:
            raise UserError(f"decoding.rows: is {self.rows}, must be an even number from 2 on")
        for name in ("labels_per_frame", "doubts"):
            if getattr(self, name) < 1:
                raise UserError(f"decoding.{name}: is {getattr(self, name)}, must be at least 1")

    @property
    def most_labels(self) -> int:
        """Labels that one piece can emit."""
        return self.rows * (self.beam.labels_per_frame if self.beam else self.labels_per_frame)


@dataclasses.dataclass(frozen=True, eq=False)
class Recogniser:
    """Everything that decoding needs; nothing of it changes.

    Attributes:
      model: the network.
      params: of it, on one device.
      features: the frontend, with mean and deviation.
      tokenizer: of the labels.
      decoding: how.

    """

    model: Transducer
    params: Variables
    features: LogMelConfig
    tokenizer: Tokenizer
    decoding: Decoding = Decoding()

    @property
    def frame_seconds(self) -> float:
        """From one frame of the encoder to the next."""
        config = self.model.config
        rows = 2 if config.reduce_after < config.layers else 1
        return rows * self.features.stride * self.features.step / self.features.sample_rate

    @functools.cached_property
    def spellings(self) -> tuple[str, ...]:
        """Of the labels."""
        return spellings_of(self.tokenizer)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Equal for recognisers that go on with each other's streams, and for no others."""
        digest = hashlib.sha256()
        settings = (self.model, self.features, self.decoding, self.tokenizer.labels)
        digest.update("\n".join(map(str, settings)).encode())
        for leaf in jax.tree.leaves(self.params):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()


def open_recogniser(
    workdir: epath.PathLike,
    *,
    speaker: str = "",
    step: Step = "latest",
    tokenizer: epath.PathLike = "",
    rows: int = 2,
    beam: int = 0,
    length_power: float = 0.0,
) -> Recogniser:
    """The recogniser of a run, or of one speaker.

    Args:
      workdir: folder of the run.
      speaker: whose personal layers to use; those of the base unless given.
      step: of the checkpoint.
      tokenizer: folder that holds one; that of the corpus which the run was trained on unless given.
      rows: see `Decoding`.
      beam: its width; 0 decodes greedily.
      length_power: see `BeamSettings`.

    Raises:
      UserError: no such run, speaker or tokenizer, or one that does not go with the model.

    """
    experiment = dataclasses.replace(read_experiment(workdir), mesh=MeshSettings(data=1))
    folder = tokenizer or experiment.data.path
    if not folder:
        raise UserError("--tokenizer: missing; name the folder of the corpus that the run was trained on")
    labels = read_tokenizer(folder)
    size = experiment.model.vocabulary
    if labels.size != size:
        raise UserError(
            f"{folder}: its tokenizer has {labels.size} labels, but the model of {workdir} has {size}; "
            "name another --tokenizer"
        )
    trained = restore(workdir, step=step, experiment=experiment)
    task: Any = trained.task
    most = task.config.labels_per_frame
    params = personal_params(trained.variables["params"], workdir, speaker)
    statistics = {
        name: tuple(np.asarray(trained.variables[NORMALIZATION][name], np.float64).tolist())
        for name in ("mean", "std")
    }
    return Recogniser(
        model=task.model,
        params=jax.device_put(params, jax.local_devices()[0]),
        features=dataclasses.replace(task.data.features, **statistics),
        tokenizer=labels,
        decoding=Decoding(rows, most, BeamSettings(beam, most, length_power) if beam else None),
    )


def personal_params(base: Variables, workdir: epath.PathLike, speaker: str) -> Variables:
    """Parameters with the layers of a speaker in place of the base's; the base's without a speaker.

    Raises:
      UserError: nothing was personalised for the speaker, or the run has layers of many and none is named.

    """
    if speaker:
        raise UserError(f"{workdir}: has no personal layers of speaker {speaker!r}; leave --speaker out")
    if "encoder" not in base:
        raise UserError(f"{workdir}: holds the layers of many speakers; name one by --speaker")
    return base
