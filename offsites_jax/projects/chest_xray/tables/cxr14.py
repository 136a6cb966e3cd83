"""ChestX-ray14 of the NIH Clinical Center: entries, official lists and boxes.

Its finding labels were mined from reports by a program. They are weak labels: good for training, no truth to
evaluate against.
"""

import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.tables.case import FINDINGS, Case, parse_age, parse_sex
from offsites_jax.projects.chest_xray.tables.rows import Table, first_twice, read_table

SITE = "cxr14"
NO_FINDING = "No Finding"
LISTS = {"train_val_list.txt": "train_val", "test_list.txt": "test"}

# The box file and the text of the paper name two of them otherwise than the entry file.
_SPELLINGS = {"infiltrate": "Infiltration", "pleuralthickening": "Pleural_Thickening"}
_KNOWN = {name.lower().replace("_", ""): name for name in FINDINGS} | _SPELLINGS


class Box(NamedTuple):
    """A finding marked by a radiologist, in pixels of the 1024x1024 image from its top left corner."""

    image: str
    finding: str
    left: float
    top: float
    width: float
    height: float


def read_entries(path: str | os.PathLike[str]) -> list[Case]:
    """The cases of `Data_Entry_2017.csv` or its correction `Data_Entry_2017_v2020.csv`.

    `label` is True unless the only label is "No Finding". Widths, heights and pixel spacings are in `extra`.

    Raises:
      UserError: a column is missing; an unknown label, a wrong age or sex, an empty patient, an image listed
        twice: each with its row.

    """
    table = read_table(path)
    image, patient = table.column("Image Index"), table.column("Patient ID")
    labels, follow_up = table.column("Finding Labels"), table.column("Follow-up #")
    age, sex = table.column("Patient Age"), table.column("Patient Sex", "Patient Gender")
    view = table.column("View Position")
    # Two names of the header hold a comma, so each of them is two columns.
    sizes = {
        "width": table.column("OriginalImage[Width"),
        "height": table.column("Height]"),
        "spacing_x": table.column("OriginalImagePixelSpacing[x"),
        "spacing_y": table.column("y]"),
    }
    cases = []
    for number, cells in enumerate(table.rows):
        if not cells[patient].strip() or not cells[image].strip():
            raise table.wrong(number, "no image or no patient; every image belongs to one")
        try:
            findings = parse_labels(cells[labels])
            years, gender = parse_age(cells[age]), parse_sex(cells[sex])
        except ValueError as error:
            raise table.wrong(number, str(error)) from None
        cases.append(
            Case(
                image=cells[image].strip(),
                patient_id=cells[patient].strip(),
                study_id=f"{cells[patient].strip()}_{cells[follow_up].strip()}",
                label=any(findings.values()),
                findings=findings,
                view=cells[view].strip(),
                age=years,
                sex=gender,
                site=SITE,
                extra={name: cells[place] for name, place in sizes.items()},
            )
        )
    _check_once(table, cases)
    return cases


def parse_labels(text: str) -> dict[str, bool]:
    """The 14 findings from labels separated by "|".

    Raises:
      ValueError: an unknown label, none at all, or "No Finding" beside a finding.

    """
    present = _present(text)
    return {name: name in present for name in FINDINGS}


@functools.lru_cache(maxsize=4096)  # 112,120 rows hold 836 combinations
def _present(text: str) -> frozenset[str]:
    names = text.split("|")
    return frozenset() if names == [NO_FINDING] else frozenset(finding_name(name) for name in names)


def finding_name(text: str) -> str:
    """A finding as the entry file spells it: "Infiltrate" is Infiltration.

    Raises:
      ValueError: it is none of the 14.

    """
    name = _KNOWN.get(text.strip().lower().replace("_", "").replace(" ", ""))
    if name is None:
        raise ValueError(
            f"unknown finding {text!r}; there are {', '.join(FINDINGS)}, and {NO_FINDING!r} alone"
        )
    return name


def assign_official_splits(cases: Sequence[Case], folder: str | os.PathLike[str]) -> list[Case]:
    """Cases with the splits "train_val" and "test" of the official lists, which are kept by patient.

    Raises:
      UserError: a list is missing, names an unknown image, leaves one out, or shares a patient with the
        other.

    """
    split_of: dict[str, str] = {}
    for name, split in LISTS.items():
        for image in read_list(epath.Path(folder) / name):
            if split_of.setdefault(image, split) != split:
                raise UserError(f"{folder}: {image} is in both official lists; fetch them again")
    assigned = [dataclasses.replace(case, split=split_of.pop(case.image, "")) for case in cases]
    missing = next((case.image for case in assigned if not case.split), "")
    if missing or split_of:
        image = missing or next(iter(split_of))
        raise UserError(
            f"{folder}: {image} is not in both the entry file and an official list; fetch them again"
        )
    where: dict[str, str] = {}
    for case in assigned:
        if where.setdefault(case.patient_id, case.split) != case.split:
            raise UserError(
                f"{folder}: patient {case.patient_id} is in both official lists; fetch them again"
            )
    return assigned


def read_list(path: str | os.PathLike[str]) -> list[str]:
    """The image names of an official list, one a line."""
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"{file}: no such file; it comes with the data set")
    return file.read_text().split()


def read_boxes(path: str | os.PathLike[str]) -> list[Box]:
    """The boxes of `BBox_List_2017.csv`: 984 on 880 images.

    Raises:
      UserError: a column is missing, an unknown finding, or a number that is none: with its row.

    """
    table = read_table(path)
    image, finding, left = table.column("Image Index"), table.column("Finding Label"), table.column("Bbox [x")
    boxes = []
    for number, cells in enumerate(table.rows):
        try:
            edges = [float(cell) for cell in cells[left : left + 4]]
            boxes.append(Box(cells[image], finding_name(cells[finding]), *edges))
        except (ValueError, TypeError) as error:
            raise table.wrong(number, str(error)) from None
    return boxes


def find_images(root: str | os.PathLike[str]) -> dict[str, str]:
    """Path below `root` of each image by its name; from `images_001/images/` to `_012`, or `images/`.

    Raises:
      UserError: no folder of images, or an image in two of them.

    """
    folder = epath.Path(root)
    numbered = sorted(folder.glob("images_[0-9][0-9][0-9]/images"))
    places = numbered or [place for place in (folder / "images",) if place.is_dir()]
    if not places:
        raise UserError(f"{folder}: has neither images/ nor images_001/images/; unpack the archives there")
    found: dict[str, str] = {}
    for file in (file for place in places for file in place.iterdir() if file.suffix == ".png"):
        path = str(file.relative_to(folder))
        if found.setdefault(file.name, path) != path:
            raise UserError(f"{folder}: {file.name} is both {found[file.name]} and {path}; keep one")
    return found


def with_paths(cases: Iterable[Case], root: str | os.PathLike[str]) -> list[Case]:
    """Cases whose `image` is the path below `root`; those without a file are an error.

    Raises:
      UserError: an image is not there.

    """
    paths = find_images(root)
    found = []
    for case in cases:
        if case.image not in paths:
            raise UserError(f"{root}: has no {case.image}; unpack all archives, or leave out its row")
        found.append(dataclasses.replace(case, image=paths[case.image]))
    return found


def _check_once(table: Table, cases: Sequence[Case]) -> None:
    for number, first in first_twice(case.image for case in cases):
        raise table.wrong(number, f"{cases[number].image} was in row {first + 2} already; keep one")
