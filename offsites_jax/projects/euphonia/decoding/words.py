"""Words of labels, and when each was said."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from offsites_jax.data.text.vocabulary import Tokenizer

_SPACE = "▁"  # of word pieces


class Word(NamedTuple):
    """A word with its time.

    Attributes:
      text: without spaces.
      start: seconds from the start of the recording, of the frame that emitted its first label.
      end: likewise, the end of the frame that emitted its last.

    """

    text: str
    start: float
    end: float


class Caption(NamedTuple):
    """Words that are on the screen together."""

    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """With one space between words."""
        return " ".join(word.text for word in self.words)


def spellings_of(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Each label as it stands in a text, with its spaces; decoders drop those at the ends."""
    found = []
    for label, piece in enumerate(tokenizer.labels):
        spelt, alone = piece.replace(_SPACE, " "), tokenizer.decode([label])
        # What stands for the unknown is not spelt as it is called.
        found.append(spelt if spelt.strip() == alone.strip() else f" {alone.strip()} ")
    return tuple(found)


def text_of(labels: Sequence[int], spellings: Sequence[str]) -> str:
    """Words with one space between them. More labels only add to it."""
    return " ".join("".join(spellings[label] for label in labels).split())


def words_of(
    labels: Sequence[int], frames: Sequence[int], spellings: Sequence[str], frame_seconds: float
) -> tuple[Word, ...]:
    """The words of `text_of` with their times.

    A transducer emits a label when it has heard enough, so times are a little late rather than early.

    Args:
      labels: of a text.
      frames: that emitted them.
      spellings: of the labels, from `spellings_of`.
      frame_seconds: from one frame to the next.

    """
    words: list[tuple[str, int, int]] = []
    open_word = False
    for character, frame in _characters(labels, frames, spellings):
        if character.isspace():
            open_word = False
        elif open_word:
            text, first, _ = words[-1]
            words[-1] = (text + character, first, frame)
        else:
            words.append((character, frame, frame))
            open_word = True
    return tuple(
        Word(text, round(first * frame_seconds, 3), round((last + 1) * frame_seconds, 3))
        for text, first, last in words
    )


def captions_of(
    words: Sequence[Word], silence: float, most_seconds: float = 7.0, most_characters: int = 84
) -> tuple[Caption, ...]:
    """Words in groups that fit on the screen: a new one after a silence, or where one has grown too long.

    Args:
      words: in order.
      silence: seconds between two words that part them.
      most_seconds: of a group.
      most_characters: of a group, likewise; two lines of 42 unless told.

    """
    groups: list[list[Word]] = []
    for word in words:
        if groups:
            group = groups[-1]
            length = len(Caption((*group, word)).text)
            fits = length <= most_characters and word.end - group[0].start <= most_seconds
            if fits and word.start - group[-1].end < silence:
                group.append(word)
                continue
        groups.append([word])
    return tuple(Caption(tuple(group)) for group in groups)


def _characters(
    labels: Sequence[int], frames: Sequence[int], spellings: Sequence[str]
) -> Iterator[tuple[str, int]]:
    for label, frame in zip(labels, frames, strict=True):
        for character in spellings[label]:
            yield character, frame
