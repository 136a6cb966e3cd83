"""The phrases of the report labeler: read from YAML, checked, and compiled.

Phrases are kept in buckets by their first two letters, each one regular expression that is tried where a word
begins so: most words of a report cost one look into a dictionary. Every phrase is one capturing group of its
bucket: the number of the group that matched is the number of the rule.
"""

import functools
import importlib.resources
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import yaml

CUES = ("negate", "deny", "settle", "doubt", "question", "old", "affirm", "skip", "stop")
FORMS = ("phrases", "absent", "only_absent", "ignore")
COLUMNS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)

_GAP_WORDS = 6
_REST_OF_WORD = "[a-z]{0,14}"
_START = re.compile("[a-z]{2}")
_WORD = re.compile(r"\b[a-z]{2}")

Kind = Literal["finding", "device", "postoperative", "technical"]


class Observation(NamedTuple):
    """Something reports speak of.

    Attributes:
      name: such as "lung_opacity".
      column: its CheXpert column, or "".
      kind: what a policy can leave out.

    """

    name: str
    column: str
    kind: Kind


class Rule(NamedTuple):
    """A phrase and what it means.

    Attributes:
      name: for evidence: the list it stands in and its place there, such as "cardiomegaly/2".
      action: one of `CUES`, or "mention", "absent", "only_absent", "ignore", "normal".
      observation: position in `Lexicon.observations`; -1 for cues.
      phrase: as written.

    """

    name: str
    action: str
    observation: int
    phrase: str


class Bucket(NamedTuple):
    """The phrases that begin with the same two letters, the longest first; rule n is group n + 1."""

    pattern: re.Pattern[str]
    rules: tuple[Rule, ...]


class Lexicon(NamedTuple):
    """All rules, ready to scan.

    Attributes:
      observations: in the order of the file.
      buckets: by the first two letters of their phrases.

    """

    observations: tuple[Observation, ...]
    buckets: dict[str, Bucket]

    def scan(self, text: str) -> Iterator[tuple[Rule, re.Match[str]]]:
        """The phrases of a lower-case text from left to right; none overlaps another."""
        buckets, end = self.buckets, 0
        for word in _WORD.finditer(text):
            bucket = buckets.get(word[0])
            start = word.start()
            if bucket is None or start < end:
                continue
            match = bucket.pattern.match(text, start)
            if match:
                end = match.end()
                yield bucket.rules[(match.lastindex or 1) - 1], match


@functools.cache
def read_lexicon() -> Lexicon:
    """The lexicon that comes with the package."""
    folder = importlib.resources.files(__package__) / "phrases"
    cues, findings, normal = (
        yaml.safe_load((folder / f"{name}.yaml").read_text("utf-8"))
        for name in ("cues", "findings", "normal")
    )
    return build_lexicon(cues, findings, normal)


def build_lexicon(
    cues: Mapping[str, Sequence[str]],
    findings: Mapping[str, Mapping[str, Any]],
    normal: Mapping[str, Sequence[str]],
) -> Lexicon:
    """Compiles cues, observations and normal statements, written as in the package's YAML files.

    Raises:
      ValueError: a list or column that does not exist, or a phrase that does not begin with two letters.

    """
    observations = tuple(
        Observation(name, about.get("column", ""), about.get("kind", "finding"))
        for name, about in findings.items()
    )
    unknown = {o.column for o in observations} - {"", *COLUMNS}
    if unknown:
        raise ValueError(f"findings.yaml: no CheXpert column {sorted(unknown)[0]!r}")
    rules = [*_cue_rules(cues), *_finding_rules(findings)]
    rules += [Rule(f"normal/{n}", "normal", -1, phrase) for n, phrase in enumerate(normal["normal"])]
    gap = f"(?: {_either(cues['filler'])}){{0,{_GAP_WORDS}}} "
    by_start: dict[str, list[Rule]] = {}
    for rule in rules:
        by_start.setdefault(_first_two(rule), []).append(rule)
    return Lexicon(observations, {start: _bucket(same, gap) for start, same in by_start.items()})


def _cue_rules(cues: Mapping[str, Sequence[str]]) -> Iterator[Rule]:
    for action in CUES:
        for number, phrase in enumerate(cues[action]):
            yield Rule(f"{action}/{number}", action, -1, phrase)


def _finding_rules(findings: Mapping[str, Mapping[str, Any]]) -> Iterator[Rule]:
    for place, (name, about) in enumerate(findings.items()):
        wrong = set(about) - {"column", "kind", *FORMS}
        if wrong:
            raise ValueError(f"findings.yaml: {name} has no list {sorted(wrong)[0]!r}; there are {FORMS}")
        for form in FORMS:
            action = "mention" if form == "phrases" else form
            for number, phrase in enumerate(about.get(form, ())):
                yield Rule(f"{name}/{form}/{number}", action, place, phrase)


def _first_two(rule: Rule) -> str:
    if not _START.match(rule.phrase):
        raise ValueError(f"{rule.name}: {rule.phrase!r} does not begin with two plain letters")
    return rule.phrase[:2]


def _bucket(rules: list[Rule], gap: str) -> Bucket:
    # The longer phrase first: "no change" before "no", "lungs are clear of" before "lungs are clear".
    ordered = sorted(rules, key=lambda rule: -len(rule.phrase))
    bodies = (rule.phrase.replace("*", _REST_OF_WORD).replace(" ~ ", gap) for rule in ordered)
    return Bucket(re.compile(rf"{_either(f'({body})' for body in bodies)}\b"), tuple(ordered))


def _either(patterns: Iterable[str]) -> str:
    return f"(?:{'|'.join(patterns)})"
