"""CSV files with names for their columns and a place for every mistake."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.data.delimited import read_lines
from offsites_jax.errors import DamagedDataError, UserError

_YES = {
    "yes": True,
    "no": False,
    "1": True,
    "0": False,
    "true": True,
    "false": False,
    "1.0": True,
    "0.0": False,
}


class Table(NamedTuple):
    """A table of text.

    Attributes:
      file: where it comes from, for messages.
      header: names of its columns, as written.
      rows: cells; as many as the header has, each.

    """

    file: str
    header: tuple[str, ...]
    rows: list[list[str]]

    def find(self, *names: str) -> int | None:
        """Place of the first of these columns that is there, however it is capitalised or spaced."""
        places = {plain(name): place for place, name in reversed(list(enumerate(self.header)))}
        return next((places[plain(name)] for name in names if plain(name) in places), None)

    def column(self, *names: str) -> int:
        """Place of a column that has to be there.

        Raises:
          UserError: it is not.

        """
        place = self.find(*names)
        if place is None:
            raise UserError(
                f"{self.file}: no column {names[0]!r}; it has {', '.join(filter(None, self.header))}"
            )
        return place

    def place(self, row: int) -> str:
        """File and row as a spreadsheet counts: the header is row 1."""
        return f"{self.file}: row {row + 2}"

    def wrong(self, row: int, message: str) -> UserError:
        """An error about one row."""
        return UserError(f"{self.place(row)}: {message}")

    def yes(self, row: int, column: int) -> bool:
        """A cell that says yes or no: YES/NO, 1/0 or True/False.

        Raises:
          UserError: it says something else.

        """
        answer = _YES.get(self.rows[row][column].strip().lower())
        if answer is None:
            raise self.wrong(
                row, f"{self.header[column]} is {self.rows[row][column]!r}; it has to be YES or NO"
            )
        return answer


def plain(name: str) -> str:
    """A column's name without what differs between releases."""
    return name.strip().lower().replace(" ", "").replace("_", "").replace("#", "")


def read_table(path: str | os.PathLike[str]) -> Table:
    """Reads a CSV file, gzipped or not.

    Raises:
      UserError: no such file, or no header.
      DamagedDataError: not text, cut off, larger than 1 GiB, or a row of another length than the header.

    """
    lines = read_lines(path)
    header = lines[0].cells if lines else []
    if not any(header):
        raise UserError(f"{path}: empty; the first line has to name the columns")
    rows = [line.cells for line in lines[1:] if line.cells]
    table = Table(str(path), tuple(name.strip() for name in header), rows)
    for number, cells in enumerate(rows):
        if len(cells) != len(header):
            _level(table, number, cells)
    return table


def write_table(
    path: str | os.PathLike[str],
    header: Sequence[str],
    rows: Iterable[Sequence[object] | Mapping[str, object]],
) -> None:
    """Writes a CSV file at once; rows are cells in order, or mappings from column to cell."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([row.get(n, "") for n in header] if isinstance(row, Mapping) else row for row in rows)
    write_atomically(epath.Path(path), stream.getvalue().encode())


def first_twice(keys: Iterable[object]) -> Iterator[tuple[int, int]]:
    """Rows whose key an earlier row has: (row, earlier row)."""
    seen: dict[object, int] = {}
    for row, key in enumerate(keys):
        if seen.setdefault(key, row) != row:
            yield row, seen[key]


def _level(table: Table, number: int, cells: list[str]) -> None:
    """Evens out a row: empty cells may be missing or too many at the end, others not."""
    wanted = len(table.header)
    if any(cells[wanted:]):
        raise DamagedDataError(
            f"{table.place(number)}: has {len(cells)} cells for {wanted} columns; quote commas"
        )
    if len(cells) < wanted and any(table.header[len(cells) :]):
        raise DamagedDataError(
            f"{table.place(number)}: has {len(cells)} cells for {wanted} columns; complete it"
        )
    cells[:] = (cells + [""] * wanted)[:wanted]
