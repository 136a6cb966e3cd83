"""Tables of text, comma or tab separated, with a place for every mistake."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from offsites_jax.data.delimited import read_lines
from offsites_jax.errors import UserError


class Row(NamedTuple):
    """A line of a table.

    Attributes:
      file: it stands in.
      number: as a spreadsheet counts: the header is row 1.
      cells: by column, without spaces around them.

    """

    file: str
    number: int
    cells: dict[str, str]

    def wrong(self, field: str, message: str) -> UserError:
        """An error that names file, row and field."""
        return UserError(f"{self.file}: row {self.number}: {field}: {message}")


class Table(NamedTuple):
    """A table.

    Attributes:
      header: names of its columns.
      rows: with a cell for each column.
      ragged: rows with another number of cells than columns; they are not among `rows`.

    """

    header: tuple[str, ...]
    rows: list[Row]
    ragged: list[int]


def read_csv(path: str | os.PathLike[str], required: Sequence[str] = ()) -> list[Row]:
    """The rows of a comma-separated file.

    Raises:
      UserError: no such file, a column is missing or comes twice, or a row has more or fewer cells than
        there are columns.
      DamagedDataError: not text.

    """
    table = read_table(path, required)
    if table.ragged:
        raise UserError(
            f"{path}: row {table.ragged[0]}: not {len(table.header)} cells as in the first line; "
            "complete it, or quote its commas"
        )
    return table.rows


def read_table(
    path: str | os.PathLike[str], required: Sequence[str] = (), *, delimiter: str = ",", quoted: bool = True
) -> Table:
    """A table whose first line names the columns.

    Args:
      path: of the file, UTF-8, with or without a byte order mark.
      required: columns that have to be there.
      delimiter: between cells.
      quoted: whether quotation marks enclose cells; else they are characters like any other.

    Raises:
      UserError: no such file, or a column is missing or comes twice.
      DamagedDataError: not text, or larger than 1 GiB.

    """
    file = epath.Path(path)
    lines = [line for line in read_lines(file, delimiter=delimiter, quoted=quoted) if any(line.cells)]
    header = tuple(name.strip() for name in lines[0].cells) if lines else ()
    missing = [name for name in required if name not in header]
    if missing:
        raise UserError(f"{file}: no column {missing[0]!r}; the first line has to name {', '.join(required)}")
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise UserError(f"{file}: column {twice[0]!r} comes twice; rename or remove one")
    rows, ragged = [], []
    for number, cells in lines[1:]:
        if len(cells) == len(header):
            rows.append(Row(str(file), number, dict(zip(header, map(str.strip, cells), strict=True))))
        else:
            ragged.append(number)
    return Table(header, rows, ragged)
