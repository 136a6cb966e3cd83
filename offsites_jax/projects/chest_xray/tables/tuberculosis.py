"""The tuberculosis sets of Shenzhen and Montgomery County, as the NLM released them; one image per patient.

File names say whether a patient has tuberculosis. That is not whether the image is abnormal: one without
tuberculosis may show something else. Labels of abnormality come from a table of their own.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.tables.case import Case, parse_age, parse_sex
from offsites_jax.projects.chest_xray.tables.rows import first_twice, read_table

TUBERCULOSIS = "Tuberculosis"

_SHENZHEN = re.compile(r"CHNCXR_(\d{4})_([01])\.png")
_MONTGOMERY = re.compile(r"MCUCXR_(\d{4})_([01])\.png")
_SEX_AGE = re.compile(r"\s*(male|female|m|f)\b[\s,:]*(\d{1,3}\s?[a-z]*)?", re.IGNORECASE)
_SEX_LINE = re.compile(r"Patient'?s?\s?Sex:\s?(\S+)", re.IGNORECASE)
_AGE_LINE = re.compile(r"Patient'?s?\s?Age:\s?(\S+)", re.IGNORECASE)


class Reading(NamedTuple):
    """What a text file of clinical readings says.

    Attributes:
      sex: M, F or "".
      age: in years; None when not told.
      text: the rest.

    """

    sex: str
    age: float | None
    text: str


def read_shenzhen(root: str | os.PathLike[str]) -> list[Case]:
    """The 662 images of `ChinaSet_AllFiles/{CXR_png,ClinicalReadings}`.

    Args:
      root: that folder, or the one above.

    Raises:
      UserError: no folder CXR_png, or a file that is not named CHNCXR_NNNN_L.png.

    """
    return _read(root, "ChinaSet_AllFiles", _SHENZHEN, "shenzhen", parse_shenzhen)


def read_montgomery(root: str | os.PathLike[str]) -> list[Case]:
    """The 138 images of `MontgomerySet/{CXR_png,ClinicalReadings}`.

    Args:
      root: that folder, or the one above.

    Raises:
      UserError: no folder CXR_png, or a file that is not named MCUCXR_NNNN_L.png.

    """
    return _read(root, "MontgomerySet", _MONTGOMERY, "montgomery", parse_montgomery)


def find_masks(root: str | os.PathLike[str], image: str) -> tuple[epath.Path, epath.Path]:
    """Masks of the left and the right lung of an image of Montgomery, by its name.

    Raises:
      UserError: there are none.

    """
    folder = _folder(root, "MontgomerySet") / "ManualMask"
    left, right = (folder / side / epath.Path(image).name for side in ("leftMask", "rightMask"))
    if not (left.exists() and right.exists()):
        raise UserError(f"{folder}: has no masks of {image} in leftMask/ and rightMask/")
    return left, right


def with_abnormality(cases: Sequence[Case], path: str | os.PathLike[str]) -> list[Case]:
    """Cases with the labels of a table `image,abnormal` (YES/NO or 1/0); the others keep None.

    Raises:
      UserError: a column is missing; an unknown image, one listed twice or a wrong answer: with its row.

    """
    table = read_table(path)
    image, abnormal = table.column("image", "Image ID"), table.column("abnormal")
    known = {epath.Path(case.image).name for case in cases}
    names = [epath.Path(cells[image].strip()).name for cells in table.rows]
    for row, first in first_twice(names):
        raise table.wrong(row, f"{names[row]} was in row {first + 2} already; keep one")
    label: dict[str, bool] = {}
    for row, name in enumerate(names):
        if name not in known:
            raise table.wrong(row, f"{name!r} is none of the {len(known)} images")
        label[name] = table.yes(row, abnormal)
    return [dataclasses.replace(case, label=label.get(epath.Path(case.image).name)) for case in cases]


def parse_shenzhen(text: str) -> Reading:
    """Sex and age of the first line, such as "male 45yrs" or "Female, 29yr", and what follows."""
    match = _SEX_AGE.match(text)
    if not match:
        return Reading("", None, text.strip())
    return Reading(parse_sex(match[1]), _age(match[2] or ""), text[match.end() :].strip(" ,\t\r\n"))


def parse_montgomery(text: str) -> Reading:
    """The lines `Patient's Sex: F` and `Patient's Age: 027Y`, and what follows."""
    sex, age = _SEX_LINE.search(text), _AGE_LINE.search(text)
    rest = [line for line in text.splitlines() if not (_SEX_LINE.search(line) or _AGE_LINE.search(line))]
    return Reading(_sex(sex[1]) if sex else "", _age(age[1]) if age else None, "\n".join(rest).strip())


def _read(
    root: str | os.PathLike[str],
    name: str,
    pattern: re.Pattern[str],
    site: str,
    parse: Callable[[str], Reading],
) -> list[Case]:
    folder = _folder(root, name)
    files = sorted((folder / "CXR_png").iterdir())
    return [_case(folder, file, pattern, site, parse) for file in files if file.suffix == ".png"]


def _case(
    folder: epath.Path,
    file: epath.Path,
    pattern: re.Pattern[str],
    site: str,
    parse: Callable[[str], Reading],
) -> Case:
    match = pattern.fullmatch(file.name)
    if not match:
        raise UserError(
            f"{file}: not named as {pattern.pattern}; its name has to say whether there is tuberculosis"
        )
    notes = folder / "ClinicalReadings" / f"{file.stem}.txt"
    reading = parse(notes.read_bytes().decode(errors="replace")) if notes.exists() else Reading("", None, "")
    return Case(
        image=f"CXR_png/{file.name}",
        patient_id=match[1],
        findings={TUBERCULOSIS: match[2] == "1"},
        age=reading.age,
        sex=reading.sex,
        report=reading.text,
        site=site,
    )


def _folder(root: str | os.PathLike[str], name: str) -> epath.Path:
    found = next((f for f in (epath.Path(root), epath.Path(root) / name) if (f / "CXR_png").is_dir()), None)
    if found is None:
        raise UserError(f"{root}: has no folder CXR_png; unpack {name} there")
    return found


def _age(text: str) -> float | None:
    """An age, or None: notes are written by hand, and a strange age is no reason to lose the image."""
    try:
        return parse_age(text)
    except ValueError:
        return None


def _sex(text: str) -> str:
    try:
        return parse_sex(text)
    except ValueError:
        return ""
