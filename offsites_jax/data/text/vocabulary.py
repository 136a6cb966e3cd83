"""What tokenizers have in common."""

import os
from collections.abc import Container, Iterable
from typing import Protocol

from offsites_jax.errors import UserError

BLANK = 0  # of a transducer or CTC: counted in the size, never in a text

_SHOWN = 20


class Tokenizer(Protocol):
    """Text to labels and back."""

    @property
    def size(self) -> int:
        """Labels, with the blank."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What each label stands for; "" for the blank."""

    def encode(self, text: str) -> list[int]:
        """Labels of a text; UserError for characters that there is no label for."""

    def decode(self, labels: Iterable[int]) -> str:
        """Text of labels; blanks are passed over."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a file."""


def refuse_unknown(text: str, known: Container[str]) -> None:
    """Raise UserError with the characters of a text that are not known."""
    unknown = sorted({character for character in text if character not in known})
    if unknown:
        listed = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in unknown[:_SHOWN])
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise UserError(f"no label for {listed}{more}; normalise the text or train the tokenizer on it")
