"""Utterances of many speakers, each from a stream of its own: row s of every batch belongs to member s.

A member is a speaker, or a speaker with a part of the training utterances. Which of them it sees at a step
follows from the seed, the speaker and the step, whoever else is trained.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from offsites_jax.data.pipeline import Example, Pipeline
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.prepared import Prepared, samples_of
from offsites_jax.projects.euphonia.splits import nested_subsets
from offsites_jax.projects.euphonia.utterances import (
    Chosen,
    DataConfig,
    augmented,
    check_lengths,
    open_prepared,
    padded,
)
from offsites_jax.train.config import Experiment


class Member(NamedTuple):
    """One of the recognisers that are trained side by side.

    Attributes:
      name: of its scores and files.
      speaker: whose it is.
      utterances: of the training part that it learns from; 0 for all.

    """

    name: str
    speaker: str
    utterances: int = 0


def cohort_members(config: DataConfig, prepared: Prepared | None, most: int) -> tuple[Member, ...]:
    """The members of a cohort in the order of their rows.

    Raises:
      UserError: a speaker has no utterances, a member comes twice, or there are more than `most`.

    """
    known = prepared.speakers() if prepared else ()
    chosen = config.speakers or known
    sizes = config.train_utterances or (0,) * len(chosen)
    if len(sizes) != len(chosen):
        raise UserError(
            f"config.data.train_utterances: has {len(sizes)} numbers for {len(chosen)} speakers; give as many"
        )
    members = tuple(
        Member(f"{speaker}-{size}" if size else speaker, speaker, size)
        for speaker, size in zip(chosen, sizes, strict=True)
    )
    unknown = [name for name in chosen if prepared and name not in known]
    if unknown or len({member.name for member in members}) < len(members):
        said = f"{unknown[0]!r} has no utterances there" if unknown else "one comes twice"
        raise UserError(f"config.data.speakers: {said}; the corpus has {len(known)} speakers")
    if len(members) > most:
        raise UserError(
            f"config.task.members: is {most}, but there are {len(members)} speakers; raise it to a "
            "multiple of the devices"
        )
    return members


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
    cohort = cohort_members(config, prepared, members)
    rows = [_rows_of(prepared, split, member.speaker, config) for member in cohort]
    choose: Callable[[list[int], int, int], list[int]]
    if train:
        rows = [_subset(prepared, own, member) for own, member in zip(rows, cohort, strict=True)]
        steps = experiment.train.steps
        choose = functools.partial(train_rows, number=number, seed=experiment.train.seed)
    else:
        steps = max(-(-len(own) // number) for own in rows)
        choose = functools.partial(eval_rows, number=number)
    records = Chosen(prepared, range(len(prepared.entries)))
    source = _Rows(records, cohort, rows, members, steps, choose)
    return Pipeline(source, _Examples(prepared, config, number, train), ordered=True)


def speaker_key(name: str) -> int:
    """What a speaker's random numbers follow from."""
    return zlib.crc32(name.encode())


def train_rows(rows: Sequence[int], step: int, key: int, *, number: int, seed: int) -> list[int]:
    """The utterances of one speaker at a step: epoch after epoch, each in an order of its own."""
    found = []
    for position in range(step * number, (step + 1) * number):
        epoch, place = divmod(position, len(rows))
        order = np.random.Generator(np.random.Philox(key=[(seed << 32) | key, epoch])).permutation(len(rows))
        found.append(rows[order[place]])
    return found


def eval_rows(rows: Sequence[int], step: int, key: int, *, number: int) -> list[int]:
    """The utterances of one speaker in turn; none after the last."""
    return list(rows[step * number : (step + 1) * number])


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Position `step * members + s` is what member s sees at a step: what `choose(rows, step, key)` says."""

    records: Chosen
    cohort: tuple[Member, ...]
    rows: list[list[int]]
    members: int
    steps: int
    choose: Callable[[list[int], int, int], list[int]]

    def __len__(self) -> int:
        return self.members * self.steps

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, place = divmod(index, self.members)
        if place >= len(self.cohort):  # pads the cohort to a whole number of rows for each device
            return {"utterances": [], "speaker_key": 0, "step": step}
        key = speaker_key(self.cohort[place].speaker)
        chosen = self.choose(self.rows[place], step, key)
        return {"utterances": [self.records[row] for row in chosen], "speaker_key": key, "step": step}

    def describe(self, index: int) -> str:
        """Step and row."""
        step, place = divmod(index, self.members)
        return f"step {step}, member number {place}"

    def fingerprint(self) -> str:
        """That of the records, and who is in which row."""
        return f"{self.records.fingerprint()} {','.join(member.name for member in self.cohort)}"


class _Examples:
    """Turns what a speaker sees at a step into one row of a batch."""

    def __init__(self, prepared: Prepared, config: DataConfig, number: int, train: bool) -> None:
        self._tokenizer = prepared.tokenizer
        self._config, self._number, self._train = config, number, train

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None) -> Example:
        utterances, key = record["utterances"], int(record["speaker_key"])
        examples = []
        for place, utterance in enumerate(utterances):
            samples = samples_of(utterance)
            if self._train and self._config.augment_waveform:
                position = int(record["step"]) * self._number + place
                own = np.random.Generator(np.random.Philox(key=[key, position]))
                samples = augmented(samples, own, self._config)
            examples.append(padded(samples, self._tokenizer.encode(utterance["text"]), self._config))
        # A frame's worth of silence keeps what pads the row computable.
        silence = padded(np.zeros(self._config.features.frame, np.int16), (), self._config)
        examples += [silence] * (self._number - len(examples))
        return {
            **{name: np.stack([one[name] for one in examples]) for name in silence},
            "real": (np.arange(self._number) < len(utterances)).astype(np.float32),
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


def _subset(prepared: Prepared, rows: list[int], member: Member) -> list[int]:
    """The rows that a member learns from, in their order; those of a smaller number are among them."""
    if not member.utterances:
        return rows
    if not 0 < member.utterances <= len(rows):
        raise UserError(
            f"config.data.train_utterances: is {member.utterances} for {member.speaker!r}, who has "
            f"{len(rows)}; give 0 for all"
        )
    names = [prepared.entries[row].utt_id for row in rows]
    chosen = set(nested_subsets(names, (member.utterances,))[member.utterances])
    return [row for row, name in zip(rows, names, strict=True) if name in chosen]
