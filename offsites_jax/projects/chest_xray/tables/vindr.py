"""VinDr-CXR as VinBigData's competition released it: `train.csv`, one line per box, image and reader."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.tables.case import Case
from offsites_jax.projects.chest_xray.tables.cxr14 import Box
from offsites_jax.projects.chest_xray.tables.rows import read_table

SITE = "vindr"
NO_FINDING = "No finding"


class VinDrReading(NamedTuple):
    """What one reader marked in an image.

    Attributes:
      image: its identifier.
      reader: R1 to R17.
      findings: names of what is marked; none for a normal image.
      boxes: the marks, in pixels of the original image.

    """

    image: str
    reader: str
    findings: frozenset[str]
    boxes: tuple[Box, ...]

    @property
    def abnormal(self) -> bool:
        """Whether anything is marked."""
        return bool(self.findings)


def read_readings(path: str | os.PathLike[str]) -> list[VinDrReading]:
    """The readings, in the order of their first line.

    Raises:
      UserError: a column is missing, a box is not four numbers of a positive size, or a reader gives both "No
        finding" and a box: with its row.

    """
    table = read_table(path)
    image, finding, reader = table.column("image_id"), table.column("class_name"), table.column("rad_id")
    edges = [table.column(name) for name in ("x_min", "y_min", "x_max", "y_max")]
    boxes: dict[tuple[str, str], list[Box]] = {}
    normal: set[tuple[str, str]] = set()
    for row, cells in enumerate(table.rows):
        key = (cells[image], cells[reader])
        marked = boxes.setdefault(key, [])
        if cells[finding] == NO_FINDING:
            normal.add(key)
        else:
            try:
                marked.append(_box(cells[image], cells[finding], [float(cells[place]) for place in edges]))
            except ValueError as error:
                raise table.wrong(row, f"not a box ({error})") from None
        if marked and key in normal:
            raise table.wrong(row, f"{key[1]} gives {key[0]} a box and {NO_FINDING!r}; keep one")
    return [
        VinDrReading(name, who, frozenset(box.finding for box in found), tuple(found))
        for (name, who), found in boxes.items()
    ]


def majority_cases(readings: Iterable[VinDrReading]) -> list[Case]:
    """One case per image: abnormal, and each finding, where more than half of its readers say so."""
    cases = []
    for image, group in _by_image(readings).items():
        names = sorted(frozenset().union(*(reading.findings for reading in group)))
        findings: Mapping[str, bool | None] = {
            name: 2 * sum(name in reading.findings for reading in group) > len(group) for name in names
        }
        label = 2 * sum(reading.abnormal for reading in group) > len(group)
        # One image per patient: the release names no patients.
        cases.append(Case(image, patient_id=image, label=label, findings=findings, site=SITE))
    return cases


def abnormality_votes(readings: Iterable[VinDrReading]) -> Int[np.ndarray, "images 2"]:
    """How many readers call each image normal and abnormal, as Fleiss' kappa takes it.

    In the competition's release all readers of an image agree about that: its kappa is 1 and says nothing
    about radiologists.
    """
    votes = [
        [sum(r.abnormal is answer for r in group) for answer in (False, True)]
        for group in _by_image(readings).values()
    ]
    return np.array(votes, dtype=int).reshape(-1, 2)


def finding_votes(readings: Iterable[VinDrReading], finding: str) -> Int[np.ndarray, "images 2"]:
    """How many readers deny and affirm one finding in each image.

    Raises:
      UserError: nobody ever marked it.

    """
    groups = _by_image(readings)
    votes = [
        [sum((finding in r.findings) is answer for r in group) for answer in (False, True)]
        for group in groups.values()
    ]
    table = np.array(votes, dtype=int).reshape(-1, 2)
    if not table[:, 1].any():
        raise UserError(f"finding {finding!r}: nobody marked it; check its spelling")
    return table


def _by_image(readings: Iterable[VinDrReading]) -> dict[str, Sequence[VinDrReading]]:
    groups: dict[str, list[VinDrReading]] = defaultdict(list)
    for reading in readings:
        groups[reading.image].append(reading)
    return dict(groups)


def _box(image: str, finding: str, edges: Sequence[float]) -> Box:
    left, top, right, bottom = edges
    if not (right > left and bottom > top):
        raise ValueError(f"{edges} has no size")
    return Box(image, finding, left, top, right - left, bottom - top)
