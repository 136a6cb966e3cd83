"""What one sentence says: its mentions, each present, absent or doubtful.

As in NegBio and the CheXpert labeler (ncbi-nlp/NegBio, stanfordmlgroup/chexpert-labeler), phrases are found
first and then classified in the order doubt before negation, negation, doubt after the mention. Where those
follow grammatical dependencies, a cue here holds from its place to the end of its clause.
"""

import functools
import re
from typing import Literal, NamedTuple

from offsites_jax.projects.chest_xray.report_text.lexicon import Rule, read_lexicon

Status = Literal["present", "absent", "doubtful", "normal"]

_CACHED_LENGTH = 400  # longer sentences hardly ever come again, and would let the cache grow large
_SOUND: dict[str, Status] = {"absent": "absent", "normal": "normal"}  # actions that are statuses
_DENIAL = re.compile(r" (?:not|no) ")
_WIDE_SPACE = re.compile(r"[^\S ]|  ")
# After a comma: what starts something new rather than going on with a list under the same "no".
_BREAK = re.compile(
    r",\s{1,4}(?:and |with |but )?(?:(?:the|there|heart|lungs|cardiac|mediastinum|possibl[ey]|probabl[ey]|"
    r"likely|mild|mildly|minimal|stable|unchanged|chronic|old|prior|low|persistent|status)\b"
    r"|(?:an? )?(?:small|tiny|trace|moderate|left|right|bilateral)\b(?![^.;]{0,80} n?or ))"
)


class Mention(NamedTuple):
    """Something a sentence says about the image.

    Attributes:
      observation: position in `Lexicon.observations`; -1 for a normal statement about everything.
      status: what is said of it.
      start: first character in the sentence.
      end: character after the last.
      rule: name of the phrase that found it.
      cue: name of the phrase that decided the status, or "".

    """

    observation: int
    status: Status
    start: int
    end: int
    rule: str
    cue: str


def read_sentence(sentence: str) -> tuple[Mention, ...]:
    """The mentions of a sentence; case and kinds of white space do not matter."""
    text = sentence.lower()
    if len(text) != len(sentence):  # a few capitals, as the dotted I, are longer in lower case
        text = sentence.encode("ascii", "replace").decode().lower()
    if _WIDE_SPACE.search(text):
        return _read_wide(text)
    return _read(text) if len(text) > _CACHED_LENGTH else _read_cached(text)


def _read_wide(text: str) -> tuple[Mention, ...]:
    """Reads a sentence with line ends or runs of spaces as if they were single spaces."""
    places = [match.start() for match in re.finditer(r"\S|\s(?=\S)", text)]
    narrow = "".join(" " if text[place].isspace() else text[place] for place in places)
    return tuple(
        mention._replace(start=places[mention.start], end=places[mention.end - 1] + 1)
        for mention in _read(narrow)
    )


class _Clause:
    """Mentions since the last clause began, and the cue that holds now."""

    def __init__(self) -> None:
        self.mentions: list[Mention] = []
        self.first = 0  # of this clause
        self.status: Status | Literal["skipped"] = "present"
        self.cue = ""

    def begin(self) -> None:
        self.first = len(self.mentions)
        self.hold("present", "")

    def hold(self, status: "Status | Literal['skipped']", cue: str) -> None:
        self.status, self.cue = status, cue

    def add(self, rule: Rule, status: Status, start: int, end: int, cue: str) -> None:
        self.mentions.append(Mention(rule.observation, status, start, end, rule.name, cue))

    def change(self, status: Status, cue: str, since: int = 0) -> None:
        """Gives the clause's earlier mentions another status, but leaves what is absent absent."""
        for place in range(self.first, len(self.mentions)):
            mention = self.mentions[place]
            if mention.start >= since and mention.status in ("present", "doubtful"):
                self.mentions[place] = mention._replace(status=status, cue=cue)


def _read(text: str) -> tuple[Mention, ...]:
    clause = _Clause()
    breaks = [match.start() for match in _BREAK.finditer(text)] if "," in text else []
    for rule, match in read_lexicon().scan(text):
        if breaks and breaks[0] < match.start():
            clause.begin()
            breaks = [place for place in breaks if place > match.start()]
        _apply(clause, rule, match, text)
    return tuple(clause.mentions)


_read_cached = functools.lru_cache(maxsize=1 << 15)(_read)


def forget() -> None:
    """Empties the cache of sentences read before, for measurements."""
    _read_cached.cache_clear()


def _apply(clause: _Clause, rule: Rule, match: re.Match[str], text: str) -> None:
    """What one phrase does to its clause."""
    action = rule.action
    if action == "mention":
        _mention(clause, rule, match)
    elif action == "only_absent":
        if clause.status == "absent":
            clause.add(rule, "absent", *match.span(), clause.cue)
    elif action == "negate":
        if clause.status != "skipped":
            clause.hold("absent", rule.name)
    elif action in ("absent", "normal"):
        denied = _DENIAL.search(match[0]) or text.endswith(" not ", 0, match.start())
        clause.add(rule, "present" if denied else _SOUND[action], *match.span(), rule.name)
    elif action in ("doubt", "old"):
        if clause.status == "present":
            clause.hold("doubtful", rule.name)
    elif action == "affirm":
        clause.hold("present", rule.name)
    elif action == "skip":
        clause.hold("skipped", rule.name)
    elif action == "stop":
        clause.begin()
    elif action == "deny":
        clause.change("absent", rule.name)
    elif action == "settle":
        clause.change("absent", rule.name, since=text.rfind(",", 0, match.start()) + 1)
        clause.add(rule, "normal", *match.span(), rule.name)
    elif action == "question":
        clause.change("doubtful", rule.name)


def _mention(clause: _Clause, rule: Rule, match: re.Match[str]) -> None:
    if clause.status == "skipped":
        return
    status: Status = "absent" if _DENIAL.search(match[0]) else clause.status
    clause.add(rule, status, *match.span(), clause.cue)
