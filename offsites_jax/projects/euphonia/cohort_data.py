"""Utterances of many speakers, each from a stream of its own: row s of every batch belongs to speaker s.

Which utterances a speaker sees at a step follows from the seed, its name and the step, whoever else is
trained.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from offsites_jax.data.pipeline import Example, Pipeline
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.prepared import Prepared, samples_of
from offsites_jax.projects.euphonia.utterances import (
    Chosen,
    DataConfig,
    augmented,
    check_lengths,
    open_prepared,
    padded,
)
from offsites_jax.train.config import Experiment


def cohort_speakers(config: DataConfig, prepared: Prepared | None, members: int) -> tuple[str, ...]:
    """The speakers of a cohort in the order of their rows.

    Raises:
      UserError: one has no utterances, comes twice, or there are more than members.

    """
    known = prepared.speakers() if prepared else ()
    chosen = config.speakers or known
    unknown = [name for name in chosen if prepared and name not in known]
    if unknown or len(set(chosen)) < len(chosen):
        said = f"{unknown[0]!r} has no utterances there" if unknown else "one comes twice"
        raise UserError(f"config.data.speakers: {said}; the corpus has {len(known)} speakers")
    if len(chosen) > members:
        raise UserError(
            f"config.task.members: is {members}, but there are {len(chosen)} speakers; raise it to a "
            "multiple of the devices"
        )
    return tuple(chosen)


def create_cohort_pipeline(experiment: Experiment, split: str, train: bool) -> Pipeline:
    """Rows of speakers for training without end, or once over a part for evaluation.

    Raises:
      UserError: the batch is not of `task.members` rows, or a speaker has nothing in the part.

    """
    config: DataConfig = experiment.data
    members, number = experiment.task.members, experiment.task.utterances
    if experiment.train.batch_size != members:
        raise UserError(
            f"config.train.batch_size: is {experiment.train.batch_size}, must be task.members = {members}: a "
            "row is a speaker"
        )
    prepared = open_prepared(config, experiment.model.vocabulary)
    speakers = cohort_speakers(config, prepared, members)
    rows = [_rows_of(prepared, split, name, config) for name in speakers]
    if train:
        steps = experiment.train.steps
        source: _Rows = _TrainRows(prepared, speakers, rows, members, number, steps, experiment.train.seed)
    else:
        steps = max(-(-len(own) // number) for own in rows)
        source = _EvalRows(prepared, speakers, rows, members, number, steps, experiment.train.seed)
    return Pipeline(source, _Examples(prepared, config, number, train), ordered=True)


def speaker_key(name: str) -> int:
    """What a speaker's random numbers follow from."""
    return zlib.crc32(name.encode())


def train_rows(rows: Sequence[int], number: int, step: int, seed: int, key: int) -> list[int]:
    """The utterances of one speaker at a step: epoch after epoch, each in an order of its own."""
    found = []
    for position in range(step * number, (step + 1) * number):
        epoch, place = divmod(position, len(rows))
        order = np.random.Generator(np.random.Philox(key=[(seed << 32) | key, epoch])).permutation(len(rows))
        found.append(rows[order[place]])
    return found


class _Rows:
    """Position `step * members + s` is what speaker s sees at a step."""

    def __init__(
        self,
        prepared: Prepared,
        speakers: tuple[str, ...],
        rows: list[list[int]],
        members: int,
        number: int,
        steps: int,
        seed: int,
    ) -> None:
        self._arguments = (prepared, speakers, rows, members, number, steps, seed)
        self._records = Chosen(prepared, range(len(prepared.entries)))
        self._speakers, self._rows = speakers, rows
        self._members, self._number, self._steps, self._seed = members, number, steps, seed

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), self._arguments

    def __len__(self) -> int:
        return self._members * self._steps

    def __getitem__(self, index: int) -> dict[str, object]:
        step, place = divmod(index, self._members)
        if place >= len(self._speakers):  # pads the cohort to a whole number of rows for each device
            return {"utterances": [], "speaker_key": 0, "step": step}
        key = speaker_key(self._speakers[place])
        chosen = self._choose(self._rows[place], step, key)
        return {"utterances": [self._records[row] for row in chosen], "speaker_key": key, "step": step}

    def _choose(self, rows: list[int], step: int, key: int) -> list[int]:
        raise NotImplementedError

    def describe(self, index: int) -> str:
        """Step and row."""
        step, place = divmod(index, self._members)
        return f"step {step}, speaker number {place}"

    def fingerprint(self) -> str:
        """That of the records, and who is in which row."""
        return f"{self._records.fingerprint()} {','.join(self._speakers)}"


class _TrainRows(_Rows):
    def _choose(self, rows: list[int], step: int, key: int) -> list[int]:
        return train_rows(rows, self._number, step, self._seed, key)


class _EvalRows(_Rows):
    def _choose(self, rows: list[int], step: int, key: int) -> list[int]:
        return rows[step * self._number : (step + 1) * self._number]


class _Examples:
    """Turns what a speaker sees at a step into one row of a batch."""

    def __init__(self, prepared: Prepared, config: DataConfig, number: int, train: bool) -> None:
        self._tokenizer = prepared.tokenizer
        self._config, self._number, self._train = config, number, train

    def __call__(self, record: dict[str, object], rng: np.random.Generator | None) -> Example:
        utterances, key = record["utterances"], int(record["speaker_key"])  # type: ignore[call-overload]
        examples = []
        for place, utterance in enumerate(utterances):  # type: ignore[arg-type, var-annotated]
            samples = samples_of(utterance)
            if self._train and self._config.augment_waveform:
                position = int(record["step"]) * self._number + place  # type: ignore[call-overload]
                own = np.random.Generator(np.random.Philox(key=[key, position]))
                samples = augmented(samples, own, self._config)
            examples.append(padded(samples, self._tokenizer.encode(utterance["text"]), self._config))
        # A frame's worth of silence keeps what pads the row computable.
        silence = padded(np.zeros(self._config.features.frame, np.int16), (), self._config)
        examples += [silence] * (self._number - len(examples))
        return {
            **{name: np.stack([one[name] for one in examples]) for name in silence},
            "real": (np.arange(self._number) < len(utterances)).astype(np.float32),  # type: ignore[arg-type]
            "speaker_key": np.asarray(key, np.uint32),
        }


def _rows_of(prepared: Prepared, split: str, speaker: str, config: DataConfig) -> list[int]:
    rows = [
        row for row, entry in enumerate(prepared.entries) if entry.split == split and entry.speaker == speaker
    ]
    if not rows:
        raise UserError(f"config.data.path: {config.path}: speaker {speaker!r} has nothing in part {split!r}")
    check_lengths(prepared, rows, config)
    return rows
