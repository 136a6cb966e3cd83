"""One image and what is known about it, whichever data set it comes from."""

import dataclasses
import re
from collections.abc import Mapping

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)

_AGE = re.compile(
    r"0{0,3}(\d{1,3}(?:\.\d{1,6})?)(?:\s?(y|yr|yrs|years?|m|mos?|months?|w|weeks?|d|days?))?", re.IGNORECASE
)
_PER_YEAR = {"m": 12, "w": 52.1786, "d": 365.25}


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """An image.

    Attributes:
      image: its path below the data set's folder, or its name.
      patient_id: who it shows; splits go by it.
      study_id: of the examination.
      split: train, tune, test or another name; "" when not assigned.
      label: whether it is abnormal; None when not known.
      findings: by name: present, absent, or None when not known or doubtful.
      view: PA, AP, LATERAL ...; "" when not known.
      age: in years.
      sex: M, F or "".
      report: text of the report.
      site: which hospital or data set; patients of two sites are never the same.
      extra: columns that are none of the above.

    """

    image: str
    patient_id: str
    study_id: str = ""
    split: str = ""
    label: bool | None = None
    findings: Mapping[str, bool | None] = dataclasses.field(default_factory=dict)
    view: str = ""
    age: float | None = None
    sex: str = ""
    report: str = ""
    site: str = ""
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)


def parse_age(text: str) -> float | None:
    """Years from "58", "058Y", "006M", "29yr"; None from an empty cell.

    Raises:
      ValueError: it is no age.

    """
    if not text.strip():
        return None
    match = _AGE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not an age, as 58 or 058Y")
    return float(match[1]) / _PER_YEAR.get((match[2] or "y")[0].lower(), 1)


def parse_sex(text: str) -> str:
    """M or F from "M", "female", "F "...; "" from an empty cell, "O" or "Unknown".

    Raises:
      ValueError: it is none of these.

    """
    first = text.strip()[:1].upper()
    if first not in ("", "M", "F", "O", "U"):
        raise ValueError(f"{text!r} is not a sex, as M or F")
    return first if first in ("M", "F") else ""
