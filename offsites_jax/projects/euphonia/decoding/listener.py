"""A trained network with all that turns sound into its features, and its labels into text."""

import dataclasses
import functools
import hashlib

import jax
import numpy as np
from etils import epath

from offsites_jax.data.audio import LogMelConfig
from offsites_jax.data.text.vocabulary import Tokenizer
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.decoding.beam import BeamSettings
from offsites_jax.projects.euphonia.decoding.words import spellings_of
from offsites_jax.projects.euphonia.loading import Recognizer
from offsites_jax.projects.euphonia.model import Transducer
from offsites_jax.projects.euphonia.transcription import NORMALIZATION
from offsites_jax.train.contract import Variables


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
class Listener:
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
        """Equal for listeners that go on with each other's streams, and for no others."""
        digest = hashlib.sha256()
        settings = (self.model, self.features, self.decoding, self.tokenizer.labels)
        digest.update("\n".join(map(str, settings)).encode())
        for leaf in jax.tree.leaves(self.params):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()


def create_listener(
    trained: Recognizer,
    *,
    tokenizer: epath.PathLike = "",
    rows: int = 2,
    beam: int = 0,
    length_power: float = 0.0,
) -> Listener:
    """A listener out of a trained recogniser; as many labels a frame as at its evaluation.

    Args:
      trained: from `loading.load`, of everyone or of one speaker.
      tokenizer: folder that holds one; that of the corpus which the run was trained on unless given.
      rows: see `Decoding`.
      beam: its width; 0 decodes greedily.
      length_power: see `BeamSettings`.

    Raises:
      UserError: no such tokenizer, one that does not go with the model, or impossible settings.

    """
    most = trained.task.config.labels_per_frame
    mean, std = (
        tuple(np.asarray(trained.variables[NORMALIZATION][name], np.float64).tolist())
        for name in ("mean", "std")
    )
    return Listener(
        model=trained.task.model,
        params=jax.device_put(trained.variables["params"], jax.local_devices()[0]),
        features=dataclasses.replace(trained.task.data.features, mean=mean, std=std),
        tokenizer=trained.tokenizer(tokenizer),
        decoding=Decoding(rows, most, BeamSettings(beam, most, length_power) if beam else None),
    )
