"""Error rates of speakers: errors and words are summed over a speaker's utterances, then divided."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from offsites_jax.data.text.normalise import normalise
from offsites_jax.data.text.score import ErrorCounts, Unit, count_errors
from offsites_jax.errors import UserError


class Pair(NamedTuple):
    """What was said, and what was recognised.

    Attributes:
      utt_id: of the utterance.
      speaker: who spoke.
      domain: what about.
      reference: what was said.
      hypothesis: what was recognised.

    """

    utt_id: str
    speaker: str
    domain: str
    reference: str
    hypothesis: str


@dataclasses.dataclass(frozen=True)
class Scored:
    """Errors of one utterance.

    Attributes:
      utt_id: of the utterance.
      speaker: who spoke.
      domain: what about.
      words: errors in words of normalised text.
      characters: errors in its characters.
      raw: errors in words of the text as it is, capitals and punctuation included.

    """

    utt_id: str
    speaker: str
    domain: str
    words: ErrorCounts
    characters: ErrorCounts
    raw: ErrorCounts


def word_error_rate(
    references: Sequence[str], hypotheses: Sequence[str], *, normalised: bool = True
) -> float:
    """Errors of all utterances over words of all references; NaN where no reference holds a word.

    Args:
      references: what was said.
      hypotheses: what was recognised.
      normalised: whether both are normalised first.

    Raises:
      UserError: lists of different lengths.

    """
    return _rate(references, hypotheses, "word", normalised)


def character_error_rate(
    references: Sequence[str], hypotheses: Sequence[str], *, normalised: bool = True
) -> float:
    """`word_error_rate` in characters, spaces included."""
    return _rate(references, hypotheses, "character", normalised)


def score_utterances(pairs: Iterable[Pair]) -> tuple[list[Scored], list[str]]:
    """Errors of each utterance.

    Returns:
      The scores, and the names of utterances whose reference holds no words: they have no rate and are left
      out.

    """
    scored, empty = [], []
    for pair in pairs:
        reference, hypothesis = normalise(pair.reference), normalise(pair.hypothesis)
        if not reference:
            empty.append(pair.utt_id)
            continue
        scored.append(
            Scored(
                pair.utt_id,
                pair.speaker,
                pair.domain,
                count_errors([reference], [hypothesis]),
                count_errors([reference], [hypothesis], "character"),
                count_errors([pair.reference], [pair.hypothesis]),
            )
        )
    return scored, empty


def by_speaker(
    scored: Iterable[Scored], counts: Callable[[Scored], ErrorCounts] = lambda one: one.words
) -> dict[str, ErrorCounts]:
    """Counts summed over each speaker, in order of name.

    Args:
      scored: utterances.
      counts: which of the counts of an utterance.

    """
    found: dict[str, list[ErrorCounts]] = {}
    for one in scored:
        found.setdefault(one.speaker, []).append(counts(one))
    return {speaker: _total(own) for speaker, own in sorted(found.items())}


def speaker_rates(pairs: Iterable[Pair]) -> dict[str, float]:
    """The word error rate of each speaker, in order of name."""
    scored, _ = score_utterances(pairs)
    return rates(by_speaker(scored))


def rates(counts: Mapping[str, ErrorCounts]) -> dict[str, float]:
    """Rates of counts."""
    return {name: found.rate for name, found in counts.items()}


def _total(counts: Sequence[ErrorCounts]) -> ErrorCounts:
    return ErrorCounts(
        substitutions=sum(one.substitutions for one in counts),
        deletions=sum(one.deletions for one in counts),
        insertions=sum(one.insertions for one in counts),
        reference=sum(one.reference for one in counts),
        utterances=sum(one.utterances for one in counts),
    )


def _rate(references: Sequence[str], hypotheses: Sequence[str], unit: Unit, normalised: bool) -> float:
    if len(references) != len(hypotheses):
        raise UserError(f"{len(references)} references, {len(hypotheses)} hypotheses; give as many of each")
    texts = zip(references, hypotheses, strict=True)
    pairs = [(normalise(a), normalise(b)) if normalised else (a, b) for a, b in texts]
    held = [pair for pair in pairs if pair[0].strip()]
    return count_errors([a for a, _ in held], [b for _, b in held], unit).rate
