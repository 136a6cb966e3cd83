"""Word and character error rates, counted by jiwer.

Errors and reference lengths are summed over all utterances of a speaker, then divided. A mean of the rates of
single utterances is another, worse figure: it weighs a word of a short one more.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from offsites_jax.errors import UserError

Unit = Literal["word", "character"]


@dataclasses.dataclass(frozen=True)
class ErrorCounts:
    """Errors against a reference; counts add up.

    Attributes:
      substitutions: units said as others.
      deletions: units that are missing.
      insertions: units too many.
      reference: units of the reference.
      utterances: that were counted.

    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0
    utterances: int = 0

    @property
    def errors(self) -> int:
        """All three kinds."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors over the length of the reference; above 1 where much was inserted, NaN without reference."""
        return self.errors / self.reference if self.reference else float("nan")

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            *(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True))
        )


@dataclasses.dataclass(frozen=True)
class Scores:
    """Errors of a test set.

    Attributes:
      total: of all utterances together.
      speakers: of each speaker, in order of first appearance.
      dropped: positions of utterances with an empty reference, which have no rate and are not counted.

    """

    total: ErrorCounts
    speakers: dict[str, ErrorCounts]
    dropped: tuple[int, ...]

    def warning(self) -> str:
        """One line about what was dropped, "" where nothing was."""
        if not self.dropped:
            return ""
        listed = ", ".join(map(str, self.dropped[:20])) + (" ..." if len(self.dropped) > 20 else "")
        return f"{len(self.dropped)} utterances have an empty reference and are not scored: rows {listed}"


def score(
    references: Sequence[str], hypotheses: Sequence[str], speakers: Sequence[str], unit: Unit = "word"
) -> Scores:
    """Errors by speaker, of texts as they are: normalise both sides before.

    Args:
      references: what was said.
      hypotheses: what was recognised.
      speakers: of each utterance.
      unit: "word" gives the word error rate, "character" the character error rate, spaces included.

    Raises:
      UserError: lists of different lengths.

    """
    lengths = len(references), len(hypotheses), len(speakers)
    if len(set(lengths)) > 1:
        raise UserError(
            f"{lengths[0]} references, {lengths[1]} hypotheses, {lengths[2]} speakers; give as many of each"
        )
    rows: dict[str, list[int]] = {}
    dropped = []
    for row, (reference, speaker) in enumerate(zip(references, speakers, strict=True)):
        if reference.strip():
            rows.setdefault(speaker, []).append(row)
        else:
            dropped.append(row)
    by_speaker = {
        speaker: count_errors([references[row] for row in own], [hypotheses[row] for row in own], unit)
        for speaker, own in rows.items()
    }
    return Scores(sum(by_speaker.values(), ErrorCounts()), by_speaker, tuple(dropped))


def count_errors(references: Sequence[str], hypotheses: Sequence[str], unit: Unit = "word") -> ErrorCounts:
    """Errors of utterances together; none of the references may be empty.

    Raises:
      ValueError: an empty reference, or lists of different lengths.

    """
    jiwer = _library()
    process = jiwer.process_words if unit == "word" else jiwer.process_characters
    if not all(map(str.strip, references)):
        raise ValueError("an empty reference has no error rate; drop it, as score does")
    if not references:
        return ErrorCounts()
    found = process(list(references), list(hypotheses))
    return ErrorCounts(
        substitutions=found.substitutions,
        deletions=found.deletions,
        insertions=found.insertions,
        reference=found.hits + found.substitutions + found.deletions,
        utterances=len(references),
    )


def _library() -> Any:
    try:
        import jiwer
    except ImportError as error:
        raise UserError("error rates need jiwer; pip install 'offsites-jax[speech]'") from error
    return jiwer
