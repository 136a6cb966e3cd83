"""Radiology reports to labels: normal, abnormal, uncertain or unreadable, with the words that decided.

    >>> label("FINDINGS: Mild cardiomegaly. No effusion.").decision
    'abnormal'

Findings and impression are read; indication, comparison, history and technique are not. Research use only.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Literal, NamedTuple

from offsites_jax.projects.chest_xray.report_text.lexicon import COLUMNS, Lexicon, read_lexicon
from offsites_jax.projects.chest_xray.report_text.mentions import Mention, Status, read_sentence
from offsites_jax.projects.chest_xray.report_text.sections import about_chest, chosen, sentences

MAX_BYTES = 20_000
OUTPUT_COLUMNS = ("report_id", "label", "evidence_json", *COLUMNS)

Decision = Literal["normal", "abnormal", "uncertain", "unreadable"]
Mark = Literal[1, 0, -1] | None

_MARKS: Mapping[Status, Mark] = {"present": 1, "absent": 0, "doubtful": -1}
_FIRM = {1: 3, -1: 2, 0: 1, None: 0}  # what beats what within an observation


@dataclasses.dataclass(frozen=True)
class Policy:
    """What is read, and what counts as abnormal.

    Attributes:
      sections: keys of `sections.HEADINGS`; text without any heading is always read.
      devices: tubes, lines, pacemakers, clips and other foreign material alone make a report abnormal.
      postoperative: so do a sternotomy, a bypass and other operations of the past.
      technical: so do rotation, motion and other limits of the image.

    """

    sections: tuple[str, ...] = ("findings", "impression")
    devices: bool = True
    postoperative: bool = False
    technical: bool = False

    def counts(self, kind: str) -> bool:
        """Whether a mention of this kind makes a report abnormal."""
        return {"device": self.devices, "postoperative": self.postoperative, "technical": self.technical}.get(
            kind, True
        )


class Evidence(NamedTuple):
    """Words that a label rests on.

    Attributes:
      observation: such as "effusion"; "chest" for a normal statement about everything.
      status: present, absent, doubtful or normal.
      start: first character in the report.
      end: character after the last.
      text: the words.
      rule: the phrase that matched, by list and number, such as "effusion/phrases/0".
      cue: the phrase that decided the status, such as "negate/3"; "" where none did.

    """

    observation: str
    status: Status
    start: int
    end: int
    text: str
    rule: str
    cue: str


class Label(NamedTuple):
    """What a report says.

    Attributes:
      decision: abnormal if anything abnormal is present; else uncertain if anything is doubtful; else normal
        if anything is said to be normal or absent; unreadable without text, beyond 20 kB, or when no phrase
        is known.
      evidence: every mention, in order.
      findings: the 14 CheXpert columns: 1 present, 0 absent, -1 doubtful, None not mentioned.
      reason: why a report is unreadable, else "".

    """

    decision: Decision
    evidence: tuple[Evidence, ...]
    findings: dict[str, Mark]
    reason: str = ""


def label(text: str, policy: Policy = Policy()) -> Label:
    """Labels one report.

    Args:
      text: the report, with or without headings.
      policy: what is read, and what counts as abnormal.

    """
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return _unreadable(f"longer than {MAX_BYTES} bytes")
    lexicon = read_lexicon()
    found: list[tuple[int, Mention]] = []
    for part in chosen(text, policy.sections):
        chest = True
        for sentence in sentences(text, part):
            chest = about_chest(text, sentence, before=chest)
            if chest:
                found += [(sentence.start, mention) for mention in read_sentence(text[slice(*sentence)])]
    if not found:
        return _unreadable("no findings or impression that say anything known")
    evidence = tuple(_evidence(lexicon, text, offset, mention) for offset, mention in found)
    mentions = [mention for _, mention in found]
    return Label(_decide(lexicon, mentions, policy), evidence, _table(lexicon, mentions))


def output_row(report_id: str, found: Label) -> list[str | int]:
    """A label as a row of `OUTPUT_COLUMNS`."""
    evidence = json.dumps([piece._asdict() for piece in found.evidence])
    marks = ["" if mark is None else mark for mark in found.findings.values()]
    return [report_id, found.decision, evidence, *marks]


def _unreadable(reason: str) -> Label:
    return Label("unreadable", (), dict.fromkeys(COLUMNS), reason)


def _decide(lexicon: Lexicon, mentions: list[Mention], policy: Policy) -> Decision:
    seen = {
        mention.status
        for mention in mentions
        if mention.observation < 0 or policy.counts(lexicon.observations[mention.observation].kind)
    }
    if "present" in seen:
        return "abnormal"
    return "uncertain" if "doubtful" in seen else "normal"


def _table(lexicon: Lexicon, mentions: list[Mention]) -> dict[str, Mark]:
    """The 14 columns; "No Finding" is 1 where nothing but devices is present or doubtful."""
    table: dict[str, Mark] = dict.fromkeys(COLUMNS)
    nothing = True
    for mention in mentions:
        if mention.observation < 0:
            continue
        observation, mark = lexicon.observations[mention.observation], _MARKS[mention.status]
        nothing &= mark == 0 or observation.kind in ("device", "technical")
        if observation.column and _FIRM[mark] > _FIRM[table[observation.column]]:
            table[observation.column] = mark
    if nothing:
        table["No Finding"] = 1
    return table


def _evidence(lexicon: Lexicon, text: str, offset: int, mention: Mention) -> Evidence:
    name = lexicon.observations[mention.observation].name if mention.observation >= 0 else "chest"
    start, end = offset + mention.start, offset + mention.end
    return Evidence(name, mention.status, start, end, text[start:end], mention.rule, mention.cue)
