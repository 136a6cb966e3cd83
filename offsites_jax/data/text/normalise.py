"""What is made equal in references and hypotheses before errors are counted.

A word error rate is comparable only where the same was done to the text, so every rule set has a number that
results are reported with. A published set is never changed: a better one gets the next number.
"""

import re
import unicodedata
from collections.abc import Callable

from offsites_jax.data.text.numbers import spell_numbers
from offsites_jax.errors import UserError

LATEST = 1

_APOSTROPHES = dict.fromkeys(map(ord, "\u2018\u2019\u201b\u02bc\u2032`\u00b4"), "'")
_MARKUP = re.compile(r"\[[^\]]*\]|\{[^}]*\}|<[^>]*>")
_INITIALS = re.compile(r"\b(?:[^\W\d_]\.){2,}")
_SPOKEN = {"&": " and ", "%": " percent "}
_LONE_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")

_CONTRACTIONS = (
    (re.compile(r"\bcan't\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"\bshan't\b"), "shall not"),
    (re.compile(r"\blet's\b"), "let us"),
    (re.compile(r"\bcannot\b"), "can not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"'re\b"), " are"),
    (re.compile(r"'ll\b"), " will"),
    (re.compile(r"'ve\b"), " have"),
    (re.compile(r"\bi'm\b"), "i am"),
    (re.compile(r"\b(it|that|what|there|here|he|she|who|where|how)'s\b"), r"\1 is"),
)


def normalise(
    text: str, *, version: int = LATEST, english_numbers: bool = True, contractions: bool = False
) -> str:
    """Text as words with one space between them, "" where nothing is said.

    Version 1: markup in [], {} and <> goes; compatibility forms of characters are resolved (NFKC); lower
    case; all apostrophes become '; initials are joined; numbers are spelled; then every character that is no
    letter, digit, accent or apostrophe within a word becomes a space.

    Args:
      text: as it was transcribed or recognised.
      version: of the rules.
      english_numbers: spell numbers in digits 0 to 9 as English does.
      contractions: also write out contractions that have one reading: "don't" as "do not".

    Raises:
      UserError: no such version.

    """
    if version not in _VERSIONS:
        raise UserError(f"text normalisation has no version {version}; take one of {sorted(_VERSIONS)}")
    return _VERSIONS[version](text, english_numbers, contractions)


def _version_1(text: str, english_numbers: bool, contractions: bool) -> str:
    text = unicodedata.normalize("NFKC", _MARKUP.sub(" ", text).translate(_APOSTROPHES)).lower()
    text = _INITIALS.sub(lambda match: match.group().replace(".", "") + " ", text)
    for symbol, words in _SPOKEN.items():
        text = text.replace(symbol, words)
    if english_numbers:
        text = spell_numbers(text)
    text = "".join(character if _is_kept(character) else " " for character in text)
    text = _LONE_APOSTROPHE.sub(" ", text)
    for pattern, words in _CONTRACTIONS if contractions else ():
        text = pattern.sub(words, text)
    return " ".join(text.split())


def _is_kept(character: str) -> bool:
    return character == "'" or unicodedata.category(character)[0] in "LMN"


_VERSIONS: dict[int, Callable[[str, bool, bool], str]] = {1: _version_1}
