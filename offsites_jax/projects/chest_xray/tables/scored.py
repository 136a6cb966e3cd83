"""Scored and labelled cases, from `predictions.csv` and a table of labels.

Tables are lists of rows as `csv.DictReader` gives them. Columns are found by name, in any case, with spaces
and underscores alike. Row numbers in messages count the header as row 1.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int

from offsites_jax.errors import DamagedDataError, UserError

Row = Mapping[str, str]
Rows = Sequence[Row]

FAILED = "error"  # status of an image that could not be scored
YES = frozenset({"yes", "1", "1.0", "true", "abnormal", "positive"})
NO = frozenset({"no", "0", "0.0", "false", "normal", "negative"})
OPEN = frozenset({"", "-1", "-1.0", "nan", "hedge", "uncertain", "unreadable"})  # neither yes nor no


_OPTIONAL = ("patientid", "logit", "status", "message")


class Scored(NamedTuple):
    """A row of `predictions.csv`.

    Attributes:
      image: its name.
      patient: whose it is; blank where not said.
      score: probability given to abnormal; None of an image that failed.
      logit: the same before the sigmoid; NaN of an image that failed.
      text: the score as it is written.
      status: of scoring.
      message: why it failed.

    """

    image: str
    patient: str
    score: float | None
    logit: float
    text: str
    status: str
    message: str


@dataclasses.dataclass(frozen=True)
class Cases:
    """Cases with a score and a label.

    Attributes:
      images: name of each.
      patients: whose it is.
      labels: whether it is abnormal.
      scores: probability given to abnormal.
      logits: the same before the sigmoid.
      columns: the other columns of the labels, by name.
      failed: images that have a label, but no score because they could not be read.
      open: images that have a score, but a label that is neither yes nor no.
      unlabelled: images that have a score and no row among the labels.

    """

    images: tuple[str, ...]
    patients: tuple[str, ...]
    labels: Bool[np.ndarray, "cases"]
    scores: Float[np.ndarray, "cases"]
    logits: Float[np.ndarray, "cases"]
    columns: dict[str, tuple[str, ...]]
    failed: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    unlabelled: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def keep(self, rows: Bool[np.ndarray, "cases"] | Int[np.ndarray, "kept"]) -> "Cases":
        """Some of the cases."""
        kept = np.arange(len(self))[rows].tolist()
        return dataclasses.replace(
            self,
            images=tuple(self.images[row] for row in kept),
            patients=tuple(self.patients[row] for row in kept),
            labels=self.labels[kept],
            scores=self.scores[kept],
            logits=self.logits[kept],
            columns={name: tuple(values[row] for row in kept) for name, values in self.columns.items()},
        )

    def column(self, name: str) -> tuple[str, ...] | None:
        """A column of the labels by its name in any case; None where there is none."""
        return {_plain(own): values for own, values in self.columns.items()}.get(_plain(name))

    @property
    def clustered(self) -> bool:
        """Whether a patient has several images."""
        return len(set(self.patients)) < len(self)


def read_rows(path: epath.PathLike) -> list[dict[str, str]]:
    """Rows of a CSV file.

    Raises:
      UserError: no such file.
      DamagedDataError: no UTF-8, no header, no rows, or a row of another width than the header.

    """
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"{file}: no such file; give a CSV table")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedDataError(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""))
    header = [name.strip() for name in next(reader, [])]
    if not any(header) or len(set(header)) < len(header):
        raise DamagedDataError(f"{file}: needs a header line with a different name for each column")
    rows = []
    for number, cells in enumerate((line for line in reader if line), start=2):
        if len(cells) != len(header):
            raise DamagedDataError(
                f"{file}: row {number} has {len(cells)} cells, the header {len(header)}; quote cells that "
                "hold commas"
            )
        rows.append(dict(zip(header, cells, strict=True)))
    if not rows:
        raise DamagedDataError(f"{file}: a header and no rows; give a table with at least one")
    return rows


def join(predictions: Rows, labels: Rows, column: str = "label") -> Cases:
    """Cases that have a score and a label, in the order of the labels.

    Args:
      predictions: columns `image`, `score`, and where present `patient_id`, `logit` and `status`.
      labels: columns `image`, `patient_id`, the label, and any others.
      column: of the labels that says yes or no; 1, 0, true, false, abnormal and normal do as well.

    Raises:
      UserError: a column that is missing, a label that is none of these, an image twice or without a
        prediction, no patient, or another patient than the predictions say; with the row.

    """
    scored = {row.image: row for row in scored_rows(predictions)}
    names, label = columns_of(labels, ("image", "patient_id"), "labels"), column_name(labels, column)
    found: list[tuple[Scored, str, bool | None, Row]] = []
    seen: set[str] = set()
    for number, row in enumerate(labels, start=2):
        where, image, patient = (
            f"labels row {number}",
            row[names["image"]].strip(),
            row[names["patient_id"]].strip(),
        )
        _check_image(where, image, seen)
        if image not in scored:
            raise UserError(f"{where}: image {image!r} has no prediction; score all images first")
        _check_patient(where, patient, scored[image])
        found.append((scored[image], patient, truth_of(row[label], f"{where}, column {label!r}"), row))
    kept = [case for case in found if case[0].score is not None and case[2] is not None]
    others = [name for name in (labels[0] if labels else {}) if name not in (*names.values(), label)]
    return Cases(
        tuple(case.image for case, _, _, _ in kept),
        tuple(patient for _, patient, _, _ in kept),
        np.array([truth for _, _, truth, _ in kept], bool),
        np.array([case.score for case, _, _, _ in kept], np.float64),
        np.array([case.logit for case, _, _, _ in kept], np.float64),
        {name: tuple(row[name] for _, _, _, row in kept) for name in others},
        tuple(case.image for case, _, _, _ in found if case.score is None),
        tuple(case.image for case, _, truth, _ in found if case.score is not None and truth is None),
        len(scored.keys() - seen),
    )


def findings_of(cases: Cases, columns: Sequence[str]) -> list[list[str]]:
    """Findings of each case, from YES/NO columns and from columns that list them with `|` between.

    Raises:
      UserError: no such column.

    """
    found: list[list[str]] = [[] for _ in cases.images] if columns else []
    for column in columns:
        cells = cases.column(column)
        if cells is None:
            raise UserError(f"labels: no column {column!r} for findings; it has {', '.join(cases.columns)}")
        says_yes_or_no = all(cell.strip().lower() in YES | NO | OPEN for cell in cells)
        for own, cell in zip(found, cells, strict=True):
            if not says_yes_or_no:
                own += [name.strip() for name in cell.split("|") if name.strip()]
            elif cell.strip().lower() in YES:
                own.append(column)
    return found


def truth_of(cell: str, where: str) -> bool | None:
    """What a label says; None for one that leaves it open.

    Raises:
      UserError: a word that is no label; says where.

    """
    word = cell.strip().lower()
    if word in OPEN:
        return None
    if word not in YES | NO:
        raise UserError(f"{where}: label {cell!r}; use YES or NO, 1 or 0, true or false, abnormal or normal")
    return word in YES


def column_name(rows: Rows, wanted: str, table: str = "labels") -> str:
    """The table's own spelling of a column.

    Raises:
      UserError: it has none; lists those it has.

    """
    return columns_of(rows, (wanted,), table)[wanted]


def columns_of(rows: Rows, wanted: Sequence[str], table: str) -> dict[str, str]:
    """The table's own spelling of each column; errors as `column_name`."""
    if not rows:
        raise UserError(f"{table}: no rows")
    own = {_plain(name): name for name in rows[0]}
    for name in wanted:
        if _plain(name) not in own:
            raise UserError(f"{table}: no column {name!r}; it has {', '.join(rows[0])}")
    return {name: own[_plain(name)] for name in wanted}


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "").replace("_", "")


def scored_rows(predictions: Rows) -> list[Scored]:
    """Rows of `predictions.csv`, checked; other columns than `image` and `score` may be missing.

    Raises:
      UserError: a column that is missing, an image twice, a score that is no finite number, or a blank score
        of an image that did not fail; with the row.

    """
    names = columns_of(predictions, ("image", "score"), "predictions")
    own = {_plain(name): name for name in predictions[0]}
    found: list[Scored] = []
    seen: set[str] = set()
    for number, row in enumerate(predictions, start=2):
        cells = {name: row.get(own.get(name, ""), "").strip() for name in _OPTIONAL}
        image, text = row[names["image"]].strip(), row[names["score"]].strip()
        _check_image(f"predictions row {number}", image, seen)
        score = _score(text, cells["status"], number)
        logit = _logit(cells["logit"], score, number)
        found.append(Scored(image, cells["patientid"], score, logit, text, cells["status"], cells["message"]))
    return found


def _check_patient(where: str, patient: str, scored: Scored) -> None:
    if not patient:
        raise UserError(f"{where}: image {scored.image!r} has no patient_id; give one, they are compared")
    if scored.patient not in ("", patient):
        raise UserError(
            f"{where}: image {scored.image!r} is of patient {patient!r}, but of {scored.patient!r} in the "
            "predictions"
        )


def _score(cell: str, status: str, number: int) -> float | None:
    failed = status.strip().lower() == FAILED
    if failed != (not cell.strip()):
        raise UserError(
            f"predictions row {number}: status {status!r} with score {cell!r}; exactly the images with "
            f"status {FAILED!r} have no score"
        )
    return None if failed else _number(cell, f"predictions row {number}: score")


def _logit(cell: str, score: float | None, number: int) -> float:
    """The logit, or what the probability says it was; NaN without a score."""
    if cell.strip():
        return _number(cell, f"predictions row {number}: logit")
    if score is None:
        return math.nan
    if not 0 < score < 1:
        return math.copysign(math.inf, score - 0.5)
    return math.log(score / (1 - score))


def _number(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where} {cell!r} is no finite number")
    return value


def _check_image(where: str, image: str, seen: set[str]) -> None:
    if not image or image in seen:
        raise UserError(f"{where}: image {image!r} is blank or there twice; keep one row")
    seen.add(image)


def check_apart(tuning: Cases, test: Cases) -> None:
    """Refuses tuning and test cases that share a patient or an image.

    Patients are compared by ID, and by site as well where both have a column `site`.

    Raises:
      UserError: they share some; counts them and names one.

    """
    for what, first, second in (
        ("images", tuning.images, test.images),
        ("patients", _persons(tuning, test), _persons(test, tuning)),
    ):
        shared = sorted(set(first) & set(second))
        if shared:
            raise UserError(
                f"tuning and test share {len(shared)} {what}, such as {shared[0]!r}; split by patient before "
                "evaluating"
            )


def _persons(cases: Cases, other: Cases) -> tuple[str, ...]:
    sites = cases.column("site")
    if sites is None or other.column("site") is None:
        return cases.patients
    return tuple(f"{site}/{patient}" for site, patient in zip(sites, cases.patients, strict=True))
