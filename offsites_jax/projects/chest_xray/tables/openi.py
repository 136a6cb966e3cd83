"""Reports of the Open-i Indiana University chest X-rays: `NLMCXR_reports.tgz` or `ecgen-radiology/`.

The collection is CC BY-NC-ND and not part of this project; https://openi.nlm.nih.gov has it.
"""

import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from offsites_jax.errors import DamagedDataError
from offsites_jax.projects.chest_xray.report_text.labeler import Label
from offsites_jax.projects.chest_xray.tables.archives import parse_xml, read_members

NORMAL = "normal"
NOT_INDEXED = "No Indexing"

_NUMBER = re.compile(r"(?:^|/)(\d{1,9})\.xml$")


class OpenIReport(NamedTuple):
    """One report.

    Attributes:
      number: of its file.
      comparison: a section; "" where it has none. So are the next three.
      indication: why the image was made.
      findings: what is seen.
      impression: what it means.
      major: terms that people gave it, such as ("Opacity/lung/base/left",) or ("normal",).
      automatic: terms that a program gave it.
      images: names of its images.

    """

    number: int
    comparison: str
    indication: str
    findings: str
    impression: str
    major: tuple[str, ...]
    automatic: tuple[str, ...]
    images: tuple[str, ...]

    @property
    def text(self) -> str:
        """The report with headings, as `reports.label` reads it."""
        sections = ("comparison", "indication", "findings", "impression")
        return "\n".join(f"{name.upper()}: {getattr(self, name)}" for name in sections)

    @property
    def abnormal(self) -> bool | None:
        """Whether its major terms are anything but "normal"; None where nobody indexed it."""
        if not self.major or NOT_INDEXED in self.major:
            return None
        return self.major != (NORMAL,)


class Agreement(NamedTuple):
    """Labels against the terms people gave.

    Attributes:
      true_positive: abnormal reports labelled abnormal or uncertain.
      false_negative: abnormal reports labelled normal.
      true_negative: normal reports labelled normal.
      false_positive: normal reports labelled abnormal or uncertain.
      uncertain: reports labelled uncertain; counted above as abnormal.
      left_out: reports that are unreadable or not indexed.

    """

    true_positive: int
    false_negative: int
    true_negative: int
    false_positive: int
    uncertain: int
    left_out: int

    @property
    def sensitivity(self) -> float:
        """Share of the abnormal reports that were found; nan without any."""
        return _share(self.true_positive, self.false_negative)

    @property
    def specificity(self) -> float:
        """Share of the normal reports that were left alone; nan without any."""
        return _share(self.true_negative, self.false_positive)


def read_reports(path: str | os.PathLike[str]) -> Iterator[OpenIReport]:
    """The reports of the archive, or of the folder it was unpacked to, in its order.

    Raises:
      UserError: no such file.
      DamagedDataError: an unsafe archive, or a file that is not a report.

    """
    found = False
    for name, content in read_members(path, ".xml"):
        found = True
        yield parse_report(content, name)
    if not found:
        raise DamagedDataError(f"{path}: holds no .xml files; the archive is named NLMCXR_reports.tgz")


def parse_report(content: bytes, name: str) -> OpenIReport:
    """The report of one file; `name` ends in its number, as `ecgen-radiology/12.xml`."""
    number = _NUMBER.search(name)
    if not number:
        raise DamagedDataError(f"{name}: not named by a number, as 12.xml; reports of Open-i are")
    root = parse_xml(content, name)
    sections = {part.get("Label", ""): (part.text or "").strip() for part in root.iter("AbstractText")}
    return OpenIReport(
        number=int(number[1]),
        comparison=sections.get("COMPARISON", ""),
        indication=sections.get("INDICATION", ""),
        findings=sections.get("FINDINGS", ""),
        impression=sections.get("IMPRESSION", ""),
        major=tuple((term.text or "").strip() for term in root.iter("major")),
        automatic=tuple((term.text or "").strip() for term in root.iter("automatic")),
        images=tuple(image.get("id", "") for image in root.iter("parentImage")),
    )


def agreement(pairs: Iterable[tuple[OpenIReport, Label]]) -> Agreement:
    """Counts how labels agree with the indexing."""
    counts = dict.fromkeys(Agreement._fields, 0)
    for report, found in pairs:
        if report.abnormal is None or found.decision == "unreadable":
            counts["left_out"] += 1
            continue
        counts["uncertain"] += found.decision == "uncertain"
        if report.abnormal:
            counts["false_negative" if found.decision == "normal" else "true_positive"] += 1
        else:
            counts["true_negative" if found.decision == "normal" else "false_positive"] += 1
    return Agreement(**counts)


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part + rest else float("nan")
