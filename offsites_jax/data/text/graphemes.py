"""A tokenizer of single characters."""

import json
import os
import pathlib
import string
from collections import Counter
from collections.abc import Iterable, Sequence

from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.data.text.vocabulary import BLANK, refuse_unknown
from offsites_jax.errors import DamagedDataError, UserError

# 75 characters of lower-case English text, which with the blank make 76.
ENGLISH = " '" + string.ascii_lowercase + string.digits + string.punctuation.replace("'", "") + "éèñüçï"

_KIND = "graphemes"


class GraphemeTokenizer:
    """Each character is a label; 0 is the blank of the transducer and stands for nothing.

    Args:
      characters: of labels 1, 2, ...

    Raises:
      UserError: a character twice, or an entry that is not one character.

    """

    def __init__(self, characters: Sequence[str] = ENGLISH):
        self._characters = tuple(characters)
        self._label = {character: label for label, character in enumerate(self._characters, BLANK + 1)}
        if len(self._label) != len(self._characters) or any(len(c) != 1 for c in self._characters):
            raise UserError("graphemes: every entry must be one character, and no character come twice")

    @property
    def size(self) -> int:
        """Labels, with the blank."""
        return len(self._characters) + 1

    @property
    def labels(self) -> tuple[str, ...]:
        """What each label stands for; "" for the blank."""
        return ("", *self._characters)

    def encode(self, text: str) -> list[int]:
        """Labels of a text.

        Raises:
          UserError: characters that there is no label for; the message lists them.

        """
        refuse_unknown(text, self._label)
        return [self._label[character] for character in text]

    def decode(self, labels: Iterable[int]) -> str:
        """Text of labels; blanks are passed over."""
        return "".join(self.labels[label] for label in labels)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the characters as JSON."""
        content = {"kind": _KIND, "characters": "".join(self._characters)}
        write_atomically(epath.Path(path), json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "GraphemeTokenizer":
        """What `save` wrote.

        Raises:
          DamagedDataError: another kind of file.

        """
        try:
            content = json.loads(pathlib.Path(path).read_text("utf-8"))
            if content["kind"] != _KIND:
                raise ValueError(f"its kind is {content['kind']!r}")
            return cls(content["characters"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedDataError(f"{path}: no list of graphemes ({error}); train it again") from error


def train_graphemes(texts: Iterable[str], size: int | None = None) -> GraphemeTokenizer:
    """The characters of texts in order of Unicode.

    Args:
      texts: to be encoded later.
      size: labels with the blank; all characters when left out. Characters that fall short of it are
        filled up from `ENGLISH`, so that models of one size can be trained on little text.

    Raises:
      UserError: more characters than `size` has room for, listed by falling frequency; or no text.

    """
    counts = Counter(character for text in texts for character in text)
    if not counts:
        raise UserError("graphemes: no text to train on; check the manifest")
    found = set(counts)
    if size is None:
        return GraphemeTokenizer(sorted(found))
    if len(found) > size - 1:
        rare = "".join(character for character, _ in counts.most_common()[size - 1 :])
        raise UserError(
            f"graphemes: {len(found)} characters for {size - 1} labels; normalise the text or drop {rare!r}"
        )
    spare = [character for character in ENGLISH if character not in found]
    chosen = found | set(spare[: size - 1 - len(found)])
    if len(chosen) < size - 1:
        raise UserError(
            f"graphemes: only {len(chosen)} characters for {size - 1} labels; take a smaller size"
        )
    return GraphemeTokenizer(sorted(chosen))
