"""Manifests: a table of one's own images, CSV or Parquet.

Columns `image, patient_id`, and as far as known `study_id, split, label, view, age, sex, report, site`.
Others are kept as they are. `image` is a path below the manifest's folder, or below the root that is given.
"""

import os
from collections.abc import Iterable, Sequence

from etils import epath

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.tables.archives import safe_path
from offsites_jax.projects.chest_xray.tables.case import Case, parse_age, parse_sex
from offsites_jax.projects.chest_xray.tables.rows import Table, first_twice, read_table, write_table

REQUIRED = ("image", "patient_id")
COLUMNS = (*REQUIRED, "study_id", "split", "label", "view", "age", "sex", "report", "site")

_UNKNOWN = ("", "nan", "na", "-1", "hedge")
_LABELS = {
    "1": True, "1.0": True, "yes": True, "true": True, "abnormal": True,
    "0": False, "0.0": False, "no": False, "false": False, "normal": False,
}  # fmt: skip


def read_manifest(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, check_files: bool = True
) -> list[Case]:
    """The cases of a manifest.

    Args:
      path: a .csv, .csv.gz or .parquet file.
      root: folder of the images; the manifest's own unless told.
      check_files: every image has to exist.

    Raises:
      UserError: a column is missing; a path that leaves the root, does not exist or comes twice; an empty
        patient; a label, age or sex that is none: with its row.

    """
    file = epath.Path(path)
    table = _read_parquet(file) if file.suffix == ".parquet" else read_table(file)
    folder = epath.Path(root) if root is not None else file.parent
    places = {name: table.find(name) for name in COLUMNS}
    for name in REQUIRED:
        table.column(name)
    known = set(places.values())
    others = [(name, place) for place, name in enumerate(table.header) if name and place not in known]
    cases = [_case(table, row, places, others) for row in range(len(table.rows))]
    for row, first in first_twice(case.image for case in cases):
        raise table.wrong(row, f"{cases[row].image} was in row {first + 2} already; keep one")
    if check_files:
        for row, case in enumerate(cases):
            if not (folder / case.image).exists():
                raise table.wrong(row, f"no file {folder / case.image}; paths are below that folder")
    return cases


def write_manifest(path: str | os.PathLike[str], cases: Iterable[Case]) -> None:
    """Writes cases as a CSV manifest; findings and extras become columns of their own."""
    rows = [
        {**case.extra, **{name: _cell(value) for name, value in case.findings.items()}, **_known(case)}
        for case in cases
    ]
    others = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    write_table(path, [*COLUMNS, *others], rows)


def _case(table: Table, row: int, places: dict[str, int | None], others: Sequence[tuple[str, int]]) -> Case:
    cells = table.rows[row]
    text = {name: "" if place is None else cells[place].strip() for name, place in places.items()}
    if not text["patient_id"]:
        raise table.wrong(row, "patient_id is empty; splits go by patient, so every image needs one")
    label = text["label"].lower()
    if label not in _UNKNOWN and label not in _LABELS:
        raise table.wrong(
            row, f"label is {text['label']!r}; it has to be 1, 0, YES, NO, normal, abnormal or empty"
        )
    try:
        return Case(
            image=safe_path(text["image"]),
            patient_id=text["patient_id"],
            study_id=text["study_id"],
            split=text["split"],
            label=_LABELS.get(label),
            view=text["view"],
            age=parse_age(text["age"]),
            sex=parse_sex(text["sex"]),
            report=text["report"],
            site=text["site"],
            extra={name: cells[place] for name, place in others},
        )
    except ValueError as error:
        raise table.wrong(row, str(error)) from None


def _known(case: Case) -> dict[str, str]:
    return {name: _cell(getattr(case, name)) for name in COLUMNS}


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read_parquet(file: epath.Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{file}: reading Parquet needs pyarrow; pip install pyarrow, or save it as CSV"
        ) from None
    if not file.exists():
        raise UserError(f"{file}: no such file; check the path")
    try:
        columns = pyarrow.parquet.read_table(os.fspath(file)).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise DamagedDataError(f"{file}: not a readable Parquet file ({error})".splitlines()[0]) from error
    rows = [[_cell(cell) for cell in cells] for cells in zip(*columns.values(), strict=True)]
    return Table(str(file), tuple(columns), rows)
