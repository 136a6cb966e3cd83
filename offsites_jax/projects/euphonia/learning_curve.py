"""A study of how much somebody has to record: recognisers trained on nested parts of what each speaker said.

All of them train in one job, each a member of the cohort. Their development and test parts are whole whatever
the size, so that all sizes of a speaker answer the same phrases.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from offsites_jax.data.text.score import ErrorCounts, count_errors
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.analysis.data_size import ALL, SizeResult
from offsites_jax.projects.euphonia.cohort import members_of
from offsites_jax.projects.euphonia.cohort_data import Member
from offsites_jax.projects.euphonia.loading import load
from offsites_jax.projects.euphonia.personal import of_one, recognize
from offsites_jax.projects.euphonia.prepared import Prepared, read_prepared
from offsites_jax.train.config import Experiment, resolve


class Point(NamedTuple):
    """One recogniser of the study.

    Attributes:
      member: whose it is, and on how much it was trained.
      trained: training utterances.
      base: errors of the base on the test part.
      personal: errors of this recogniser there.

    """

    member: Member
    trained: int
    base: ErrorCounts
    personal: ErrorCounts

    @property
    def result(self) -> SizeResult:
        """As tables of the study take it."""
        return SizeResult(self.member.speaker, self.member.utterances or None, self.personal.rate)


def with_sizes(experiment: Experiment, sizes: Sequence[int]) -> Experiment:
    """A cohort's experiment with a member for each size that a speaker has more than, and for all there is.

    Args:
      experiment: that personalises the speakers.
      sizes: numbers of training utterances.

    Raises:
      UserError: a size below 1.

    """
    if not sizes or min(sizes) < 1:
        raise UserError(f"--sizes: {list(sizes)} are not numbers of utterances; give some such as 10 25 50")
    prepared = read_prepared(experiment.data.path)
    members = [
        (speaker, size)
        for speaker in experiment.data.speakers
        for size in (*_smaller(sizes, _trained(prepared, speaker)), 0)
    ]
    rows = -(-len(members) // jax.device_count()) * jax.device_count()
    raw = experiment.raw
    speakers, numbers = zip(*members, strict=True)
    return resolve(
        {
            **raw,
            "task": {**raw["task"], "members": rows},
            "data": {**raw["data"], "speakers": list(speakers), "train_utterances": list(numbers)},
            "train": {**raw["train"], "batch_size": rows},
        }
    )


def points(workdir: str, split: str = "test") -> Iterator[Point]:
    """Errors of every recogniser of a trained study whose members are written, and of the base."""
    base = load(workdir)
    prepared = read_prepared(base.experiment.data.path)
    predict = jax.jit(base.task.predict)
    cohort = members_of(base.experiment.task, base.experiment.data)
    for speaker, members in itertools.groupby(cohort, key=lambda member: member.speaker):
        single = of_one(base.experiment, speaker)
        truth, before = recognize(single, split, predict, base.variables)
        for member in members:
            _, after = recognize(single, split, predict, load(workdir, member.name).variables)
            trained = member.utterances or _trained(prepared, speaker)
            yield Point(member, trained, count_errors(truth, before), count_errors(truth, after))


def point_rows(found: Iterable[Point]) -> list[dict[str, Any]]:
    """A row for each recogniser, as `analyze --data-size` reads it."""
    return [
        {
            "speaker": point.member.speaker,
            "utterances": point.member.utterances or ALL,
            "wer": point.personal.rate,
            "base wer": point.base.rate,
            "trained on": point.trained,
            "test words": point.personal.reference,
        }
        for point in found
    ]


def _smaller(sizes: Sequence[int], trained: int) -> list[int]:
    return sorted({size for size in sizes if size < trained})


def _trained(prepared: Prepared, speaker: str) -> int:
    return sum(entry.speaker == speaker and entry.split == "train" for entry in prepared.entries)
