"""Radiologists' labels for ChestX-ray14 that Google released: all findings (810 images), and four findings.

The release is described on Google Cloud's page about the NIH chest X-ray data set. Names of columns differ
between its description and its files: capitals, spaces and underscores do not matter, and every answer may be
YES/NO, 1/0 or True/False.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.tables.case import FINDINGS
from offsites_jax.projects.chest_xray.tables.rows import Table, first_twice, read_table, write_table

FOLDER = "all_findings_expert_labels"
INDIVIDUAL, LABELS = "test_individual_readers.csv", "test_labels.csv"
OTHER = "Other"
COLUMNS = (*FINDINGS, OTHER)
COMPARISON_READERS = ("4343880271", "4343882583")
REFERENCE_READERS = ("4343882785", "4343883593", "4343883996")

FOUR_FINDINGS = ("Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass")
HEDGE = "HEDGE"


class Reading(NamedTuple):
    """What one reader, or the majority, says about an image.

    Attributes:
      image: its name, as in ChestX-ray14.
      patient: its number there.
      reader: of the individual readings; "" for a majority.
      abnormal: the image as a whole.
      findings: the 14 of ChestX-ray14, and "Other".

    """

    image: str
    patient: str
    reader: str
    abnormal: bool
    findings: Mapping[str, bool]


class FourReading(NamedTuple):
    """What the earlier release says about an image.

    Attributes:
      image: its name, as in ChestX-ray14.
      patient: its number there.
      reader: "" for adjudicated labels.
      split: val, test, or "".
      findings: `FOUR_FINDINGS`; None where a reader hedged.

    """

    image: str
    patient: str
    reader: str
    split: str
    findings: Mapping[str, bool | None]


def find_file(folder: str | os.PathLike[str], name: str) -> epath.Path:
    """A file of the release in or below `folder`; downloads may put the folder's name before the file's.

    Raises:
      UserError: it is not there.

    """
    root = epath.Path(folder)
    candidates = [root / name, root / FOLDER / name, root / f"{FOLDER}_{name}", root / f"{FOLDER}{name}"]
    found = next((file for file in candidates if file.exists()), None)
    if found is None:
        raise UserError(f"{root}: has no {name}; download {FOLDER}/ there")
    return found


def read_individual(path: str | os.PathLike[str]) -> list[Reading]:
    """One reading per image and reader.

    Raises:
      UserError: a column is missing, a cell is no answer, or a reader read an image twice: with its row.

    """
    return _read(read_table(path), individual=True)


def read_labels(path: str | os.PathLike[str]) -> list[Reading]:
    """One reference label per image.

    Raises:
      UserError: as `read_individual`.

    """
    return _read(read_table(path), individual=False)


def majority(readings: Iterable[Reading], readers: Sequence[str] = REFERENCE_READERS) -> list[Reading]:
    """The reference label of each image: what most of these readers say, column by column.

    "Other" is also present where most call the image abnormal but no finding has a majority.

    Raises:
      UserError: an image lacks one of the readers.

    """
    by_image: dict[str, list[Reading]] = defaultdict(list)
    for reading in readings:
        if reading.reader in readers:
            by_image[reading.image].append(reading)
    return [_majority(image, group, readers) for image, group in by_image.items()]


def write_individual(path: str | os.PathLike[str], readings: Iterable[Reading]) -> None:
    """Writes readings in the layout of `test_individual_readers.csv`: 19 columns."""
    _write(path, readings, individual=True)


def write_labels(path: str | os.PathLike[str], labels: Iterable[Reading]) -> None:
    """Writes labels in the layout of `test_labels.csv`: 18 columns."""
    _write(path, labels, individual=False)


def read_four_findings(path: str | os.PathLike[str]) -> list[FourReading]:
    """The earlier release: `validation_labels.csv`, `test_labels.csv` or `individual_readers.csv`.

    Raises:
      UserError: a column is missing, a cell is neither YES nor NO nor HEDGE, or an image is listed twice.

    """
    table = read_table(path)
    image, patient = table.column("Image Index", "Image ID"), table.column("Patient ID")
    reader, split = table.find("Reader ID"), table.find("Set Id")
    columns = {name: table.column(name) for name in FOUR_FINDINGS}
    readings = [
        FourReading(
            cells[image],
            cells[patient],
            "" if reader is None else cells[reader],
            "" if split is None else cells[split],
            {name: _hedged(table, row, place) for name, place in columns.items()},
        )
        for row, cells in enumerate(table.rows)
    ]
    _check_once(table, [(reading.image, reading.reader) for reading in readings])
    return readings


def _read(table: Table, individual: bool) -> list[Reading]:
    image, patient = table.column("Image ID", "Image Index"), table.column("Patient ID")
    reader = table.column("Reader ID") if individual else -1
    abnormal = table.column("Abnormal", "Normal/Abnormal")
    columns = {name: table.column(name) for name in COLUMNS}
    readings = [
        Reading(
            cells[image].strip(),
            cells[patient].strip(),
            cells[reader].strip() if individual else "",
            table.yes(row, abnormal),
            {name: table.yes(row, place) for name, place in columns.items()},
        )
        for row, cells in enumerate(table.rows)
    ]
    _check_once(table, [(reading.image, reading.reader) for reading in readings])
    return readings


def _majority(image: str, group: Sequence[Reading], readers: Sequence[str]) -> Reading:
    missing = set(readers) - {reading.reader for reading in group}
    if missing:
        raise UserError(
            f"{image}: not read by {sorted(missing)[0]}; a majority needs all {len(readers)} readers"
        )
    votes = Counter(name for reading in group for name in COLUMNS if reading.findings[name])
    findings = {name: 2 * votes[name] > len(group) for name in COLUMNS}
    abnormal = 2 * sum(reading.abnormal for reading in group) > len(group)
    findings[OTHER] |= abnormal and not any(findings[name] for name in FINDINGS)
    return Reading(image, group[0].patient, "", abnormal, findings)


def _write(path: str | os.PathLike[str], readings: Iterable[Reading], individual: bool) -> None:
    names = ["Image ID", "Patient ID", *(["Reader ID"] if individual else []), "Abnormal"]
    header = [*names, *(name.replace("_", " ") for name in COLUMNS)]
    rows = (
        [
            reading.image,
            reading.patient,
            *([reading.reader] if individual else []),
            int(reading.abnormal),
            *("YES" if reading.findings[name] else "NO" for name in COLUMNS),
        ]
        for reading in readings
    )
    write_table(path, header, rows)


def _hedged(table: Table, row: int, place: int) -> bool | None:
    return None if table.rows[row][place].strip().upper() == HEDGE else table.yes(row, place)


def _check_once(table: Table, keys: Sequence[tuple[str, str]]) -> None:
    for row, first in first_twice(keys):
        raise table.wrong(row, f"{keys[row][0]} was in row {first + 2} already; keep one")
