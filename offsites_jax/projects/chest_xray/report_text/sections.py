"""The parts of a report: sections by their headings, and sentences with their places in the text."""

import re
from collections.abc import Iterator
from typing import NamedTuple

# Headings by the section they open. A heading ends in a colon and stands at the start of a line, after a
# sentence, or in capitals anywhere; or it is alone on its line.
HEADINGS = {
    "findings": ("findings", "finding", "chest findings", "report", "observations"),
    "impression": ("impression", "impressions", "conclusion", "conclusions", "opinion", "summary"),
    "indication": (
        "indication",
        "indications",
        "clinical indication",
        "reason for exam",
        "reason",
        "clinical data",
    ),
    "history": ("history", "clinical history", "clinical information", "patient history"),
    "comparison": ("comparison", "comparisons", "compared to", "prior", "prior studies"),
    "technique": ("technique", "exam", "examination", "procedure", "study", "views"),
    "other": (
        "recommendation",
        "recommendations",
        "signed by",
        "dictated by",
        "electronically signed by",
        "notification",
    ),
}
BODY = "body"

_SECTION = {name: section for section, names in HEADINGS.items() for name in names}
_ALONE = re.compile(rf"^[ \t]{{0,8}}({'|'.join(_SECTION)})[ \t]{{0,4}}$", re.IGNORECASE | re.MULTILINE)
_CAPITALS = re.compile(r"\b[A-Z][A-Z ]{2,30}$")
_LONGEST_HEADING = 40

# A full stop ends a sentence unless it follows a list number, a title or stands inside a number.
_END = re.compile(r"[.;!?](?=[\s)\]'&]|$)|[.](?=[A-Za-z])|\n(?=[ \t]{0,40}(?:\n|\d|[-*•A-Z]))")
_TITLE = re.compile(r"(?<![A-Za-z0-9])(?:dr|mr|mrs|ms|approx|vs|e\.g|i\.e|a\.m|p\.m)$", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"\s*\(?(?:\d{1,2}|[A-Za-z])$")
_VERTEBRA = re.compile(r"(?<![A-Za-z0-9])[CTLctl]\d{1,2}$")
_LONGEST = 7  # characters of a title or vertebra, with one before it


# A part of the body that a combined report turns to: "Left knee." or "Chest:".
_PARTS = (
    r"(?:(chest|thorax|lungs|heart|ribs?(?: films?)?|thoracic spine|sternum)|abdomen|pelvis|spine|"
    r"(?:lumbar|cervical|lumbosacral) spine|knees?|hips?|ankles?|foot|feet|shoulders?|elbows?|forearms?|"
    r"wrists?|hands?|femurs?|legs?|humerus|tibia|face|skull|neck|sinuses)"
)
_REGION = re.compile(
    rf"(?:\(?\d{{1,2}}[.)] {{0,3}})?(?:(?:left|right|bilateral|ap) )?{_PARTS}(?: and {_PARTS})?"
    r"(?: radiographs?| x-?rays?)? {0,3}(?::|$)",
    re.IGNORECASE,
)
_LONGEST_REGION = 60


class Span(NamedTuple):
    """A part of a text: characters start to end."""

    start: int
    end: int


class Section(NamedTuple):
    """A section of a report; `name` is a key of `HEADINGS`, or "body" before the first heading."""

    name: str
    span: Span


def sections(text: str) -> list[Section]:
    """The sections of a report, in order; one "body" where there are no headings."""
    found = sorted(_headings(text))
    starts = [0, *(end for _, end, _ in found)]
    ends = [*(start for start, _, _ in found), len(text)]
    names = [BODY, *(name for _, _, name in found)]
    parts = zip(names, starts, ends, strict=True)
    return [Section(name, Span(start, end)) for name, start, end in parts if text[start:end].strip()]


def _headings(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and section of every heading."""
    colon = text.find(":")
    while colon >= 0:
        first = max(0, colon - _LONGEST_HEADING)
        begin = max([first, *(text.rfind(end, first, colon) + 1 for end in "\n.?")])
        capitals = _CAPITALS.search(text, begin, colon)
        for start in (begin, capitals.start()) if capitals else (begin,):
            section = _SECTION.get(text[start:colon].strip().lower())
            if section:
                yield start, colon + 1, section
                break
        colon = text.find(":", colon + 1)
    if "\n" in text:
        for match in _ALONE.finditer(text):
            yield match.start(), match.end(), _SECTION[match[1].lower()]


def chosen(text: str, wanted: tuple[str, ...]) -> list[Span]:
    """The spans of the wanted sections.

    What stands before the first heading is read where no wanted section has a heading of its own: a report
    without headings is all findings.
    """
    parts = sections(text)
    named = [part.span for part in parts if part.name in wanted]
    return named or [part.span for part in parts if part.name == BODY]


def sentences(text: str, span: Span) -> Iterator[Span]:
    """The sentences of a part of a text, without the white space around them."""
    start = span.start
    for match in _END.finditer(text, span.start, span.end):
        end = match.start()
        if text[end] == "." and _goes_on(text, start, end):
            continue
        yield from _trimmed(text, start, end)
        start = match.end()
    yield from _trimmed(text, start, span.end)


def about_chest(text: str, sentence: Span, before: bool) -> bool:
    """Whether a sentence is about the chest: as before, until a combined report turns to another part.

    Args:
      text: the report.
      sentence: one of its sentences; "Left knee." or "Chest: clear." turns to another part.
      before: the same of the sentence before; True at the start of a section.

    """
    match = _REGION.match(text, sentence.start, min(sentence.end, sentence.start + _LONGEST_REGION))
    if not match or (match.end() < sentence.end and text[match.end() - 1] != ":"):
        return before
    return bool(match[1] or match[2])


def _goes_on(text: str, start: int, stop: int) -> bool:
    """Whether the full stop at `stop` ends a title, a list number or, before a small letter, a vertebra."""
    if stop - start < _LONGEST and _LIST_NUMBER.match(text, start, stop):
        return True
    if _TITLE.search(text, max(start, stop - _LONGEST), stop):
        return True
    return text[stop + 2 : stop + 3].islower() and bool(_VERTEBRA.search(text, max(start, stop - 4), stop))


def _trimmed(text: str, start: int, end: int) -> Iterator[Span]:
    part = text[start:end]
    if part and not part.isspace():
        yield Span(end - len(part.lstrip()), start + len(part.rstrip()))
