"""People who transcribed the same recordings, beside the personal recogniser (Green et al. 2021).

Three transcribers who do not know the speaker write down thirty of the test utterances. The human error rate
of a speaker is the mean of the three; the best of them and what the majority wrote are shown too.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from offsites_jax.data.text.normalise import normalise
from offsites_jax.data.text.score import ErrorCounts, count_errors
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.corpora.delimited import read_csv
from offsites_jax.projects.euphonia.manifest import Utterance

TRANSCRIBERS = 3
_NAMED = 3


class Transcript(NamedTuple):
    """What one person heard in one utterance; "" where they understood nothing."""

    speaker: str
    utt_id: str
    transcriber: str
    text: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Word error rates on the utterances of one speaker that all transcribers heard.

    Attributes:
      speaker: who spoke.
      utterances: how many.
      by_transcriber: the rate of each.
      human: mean of the rates.
      best: the lowest of them.
      majority: of what most of them wrote, or, where all differ, of what is nearest to the others.
      personal: the recogniser's.

    """

    speaker: str
    utterances: int
    by_transcriber: Mapping[str, float]
    human: float
    best: float
    majority: float
    personal: float

    @property
    def delta(self) -> float:
        """Recogniser minus people: negative where the recogniser is better."""
        return round(self.personal - self.human, 12)  # the mean of three equal rates is not quite theirs


@dataclasses.dataclass(frozen=True)
class HumanComparison:
    """A comparison over speakers.

    Attributes:
      speakers: one entry for each that could be compared.
      missing: what was not there: transcribers, transcripts of utterances.
      median_delta: over speakers; NaN without any.
      p_value: two-sided, of Wilcoxon's signed-rank test over speakers; None where nothing differs.

    """

    speakers: tuple[Comparison, ...]
    missing: tuple[str, ...]
    median_delta: float
    p_value: float | None


def read_transcripts(path: str | os.PathLike[str]) -> list[Transcript]:
    """A sheet of transcripts: columns `speaker, utt, transcriber, text`, a row for each utterance and person.

    Raises:
      UserError: no such file or column, an empty cell other than the text, or two rows of one person for one
        utterance.

    """
    found: dict[tuple[str, str], Transcript] = {}
    for row in read_csv(path, ("speaker", "utt", "transcriber", "text")):
        empty = [name for name in ("speaker", "utt", "transcriber") if not row.cells[name]]
        if empty:
            raise row.wrong(empty[0], "empty; only the text may be, where nothing was understood")
        one = Transcript(*(row.cells[name] for name in ("speaker", "utt", "transcriber", "text")))
        if (one.utt_id, one.transcriber) in found:
            raise row.wrong("transcriber", f"wrote down {one.utt_id} in an earlier row; keep one")
        found[one.utt_id, one.transcriber] = one
    return list(found.values())


def compare_humans(
    transcripts: Iterable[Transcript],
    utterances: Mapping[str, Utterance],
    personal: Mapping[str, str],
    test: Collection[str],
    transcribers: int = TRANSCRIBERS,
) -> HumanComparison:
    """Compares people and recogniser on the same utterances, against the same normalised references.

    Args:
      transcripts: of all speakers.
      utterances: by name, with the references.
      personal: what the recogniser made of each.
      test: utterances that the recogniser was not trained on.
      transcribers: least number of people for each speaker; speakers with fewer are left out and listed.

    Raises:
      UserError: an utterance that is not in the test, is of another speaker, or was not recognised.

    """
    by_speaker: dict[str, list[Transcript]] = {}
    for one in transcripts:
        by_speaker.setdefault(one.speaker, []).append(one)
    compared, missing = [], []
    for speaker, own in sorted(by_speaker.items()):
        names = {one.utt_id for one in own}
        _refuse(speaker, "not in the test", names - set(test))
        _refuse(speaker, "of another speaker", {n for n in names if utterances[n].speaker != speaker})
        _refuse(speaker, "without the recogniser's text", names - personal.keys())
        people = sorted({one.transcriber for one in own})
        if len(people) < transcribers:
            missing.append(f"{speaker}: {len(people)} of {transcribers} transcribers; left out")
            continue
        found, gaps = _compare(speaker, own, people, utterances, personal)
        if gaps:
            missing.append(f"{speaker}: {gaps} utterances that not all transcribers heard; left out")
        compared += [found] if found else []
    deltas = [found.delta for found in compared]
    median = float(np.median(deltas)) if deltas else float("nan")
    return HumanComparison(tuple(compared), tuple(missing), median, _wilcoxon(deltas))


def majority(texts: Sequence[str]) -> str:
    """What more than half wrote, else the text with the fewest edits to the others, the first of equals."""
    text, count = Counter(texts).most_common(1)[0]
    if 2 * count > len(texts):
        return text
    return min(texts, key=lambda one: sum(_edits(one, other) for other in texts))


def _compare(
    speaker: str,
    transcripts: Sequence[Transcript],
    people: Sequence[str],
    utterances: Mapping[str, Utterance],
    personal: Mapping[str, str],
) -> tuple[Comparison | None, int]:
    """The speaker's figures, and how many utterances not everybody heard."""
    texts = {(one.utt_id, one.transcriber): normalise(one.text) for one in transcripts}
    names = sorted({one.utt_id for one in transcripts})
    names = [name for name in names if normalise(utterances[name].text)]
    common = [name for name in names if all((name, person) in texts for person in people)]
    if not common:
        return None, len(names)
    references = [normalise(utterances[name].text) for name in common]

    def rate(hypotheses: Sequence[str]) -> float:
        return count_errors(references, hypotheses).rate

    by_person = {person: rate([texts[name, person] for name in common]) for person in people}
    voted = [majority([texts[name, person] for person in people]) for name in common]
    figures = Comparison(
        speaker=speaker,
        utterances=len(common),
        by_transcriber=by_person,
        human=float(np.mean(list(by_person.values()))),
        best=min(by_person.values()),
        majority=rate(voted),
        personal=rate([normalise(personal[name]) for name in common]),
    )
    return figures, len(names) - len(common)


def _edits(first: str, second: str) -> int:
    """Words to change from one text to the other; an empty one needs all words of the other."""
    if not first:
        return len(second.split())
    counts: ErrorCounts = count_errors([first], [second])
    return counts.errors


def _wilcoxon(deltas: Sequence[float]) -> float | None:
    if not np.any(deltas):
        return None
    return float(scipy.stats.wilcoxon(deltas).pvalue)


def _refuse(speaker: str, what: str, names: Collection[str]) -> None:
    if names:
        listed = ", ".join(sorted(names)[:_NAMED]) + (" ..." if len(names) > _NAMED else "")
        raise UserError(f"transcripts of {speaker}: {len(names)} are {what}: {listed}; correct these rows")
