"""CheXpert's `train.csv` and `valid.csv`: 14 observations a study, 1, 0, -1 (doubtful) or blank."""

import os
import re
from typing import Literal

from offsites_jax.projects.chest_xray.report_text.lexicon import COLUMNS
from offsites_jax.projects.chest_xray.tables.case import Case, parse_age, parse_sex
from offsites_jax.projects.chest_xray.tables.rows import Table, first_twice, read_table

SITE = "chexpert"
NO_FINDING, DEVICES = "No Finding", "Support Devices"

Doubt = Literal["ignore", "zero", "one"]

_STUDY = re.compile(r"(?:^|/)(patient\d{1,9})/(study\d{1,9})/[^/]+$")
_DOUBTFUL: dict[Doubt, bool | None] = {"ignore": None, "zero": False, "one": True}
_MARKS = {"1": True, "1.0": True, "0": False, "0.0": False, "": None}


def read_chexpert(path: str | os.PathLike[str], doubt: Doubt = "ignore") -> list[Case]:
    """The cases of a CheXpert table.

    `label` is False where "No Finding" is 1, True where any other observation but a device is present, else
    None. Lateral images have view "LATERAL".

    Args:
      path: the CSV file.
      doubt: what -1 stands for: not known, absent or present.

    Raises:
      UserError: a column is missing; a mark, age, sex or path that is none; an image listed twice: with its
        row.

    """
    table = read_table(path)
    image, sex, age = table.column("Path"), table.column("Sex"), table.column("Age")
    side, view = table.column("Frontal/Lateral"), table.column("AP/PA")
    columns = {name: table.column(name) for name in COLUMNS}
    marks = _MARKS | dict.fromkeys(("-1", "-1.0"), _DOUBTFUL[doubt])
    cases = []
    for row, cells in enumerate(table.rows):
        study = _STUDY.search(cells[image])
        if not study:
            raise table.wrong(
                row, f"path {cells[image]!r} names no patient and study, as patient00001/study1/a.jpg"
            )
        findings = {name: _mark(table, row, place, marks) for name, place in columns.items()}
        try:
            years, gender = parse_age(cells[age]), parse_sex(cells[sex])
        except ValueError as error:
            raise table.wrong(row, str(error)) from None
        cases.append(
            Case(
                image=cells[image],
                patient_id=study[1],
                study_id=f"{study[1]}/{study[2]}",
                label=_abnormal(findings),
                findings=findings,
                view=cells[view] if cells[side] == "Frontal" else "LATERAL",
                age=years,
                sex=gender,
                site=SITE,
            )
        )
    for row, first in first_twice(case.image for case in cases):
        raise table.wrong(row, f"{cases[row].image} was in row {first + 2} already; keep one")
    return cases


def _mark(table: Table, row: int, place: int, marks: dict[str, bool | None]) -> bool | None:
    text = table.rows[row][place].strip()
    if text not in marks:
        raise table.wrong(row, f"{table.header[place]} is {text!r}; it has to be 1, 0, -1 or blank")
    return marks[text]


def _abnormal(findings: dict[str, bool | None]) -> bool | None:
    if any(present for name, present in findings.items() if name not in (NO_FINDING, DEVICES)):
        return True
    return False if findings[NO_FINDING] else None
