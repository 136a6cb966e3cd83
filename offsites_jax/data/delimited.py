"""Files of text, gzipped or not, and the cells of the tables in them; what is damaged is said in one line."""

import csv
import gzip
import io
import os
import zlib
from typing import NamedTuple

from etils import epath

from offsites_jax.errors import DamagedDataError, UserError

MAX_BYTES = 2**30

_GZIP = b"\x1f\x8b"


class Line(NamedTuple):
    """A line of a table.

    Attributes:
      number: from 1, as a spreadsheet counts: cells that hold line breaks are still in one line.
      cells: none where the line is empty.

    """

    number: int
    cells: list[str]


def read_text(path: str | os.PathLike[str]) -> str:
    """A whole file of UTF-8 text, with or without a byte order mark.

    Raises:
      UserError: no such file.
      DamagedDataError: not UTF-8, a gzip file that is cut off, or more than 1 GiB of text.

    """
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"{file}: no such file; check the path")
    with file.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if content.startswith(_GZIP):
        try:
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise DamagedDataError(f"{file}: damaged gzip file ({error}); fetch it again") from error
    if len(content) > MAX_BYTES:
        raise DamagedDataError(f"{file}: larger than 1 GiB; split it")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedDataError(f"{file}: byte {error.start} is not UTF-8 text; save it as UTF-8") from error


def read_lines(path: str | os.PathLike[str], *, delimiter: str = ",", quoted: bool = True) -> list[Line]:
    """The lines of a table, empty ones too.

    Args:
      path: of the file.
      delimiter: between cells.
      quoted: whether quotation marks enclose cells; else they are characters like any other.

    Raises:
      UserError: no such file.
      DamagedDataError: as `read_text`; or a cell that is too large, mostly for want of a quotation mark.

    """
    stream = io.StringIO(read_text(path), newline="")
    reader = csv.reader(stream, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    try:
        return [Line(number, cells) for number, cells in enumerate(reader, start=1)]
    except csv.Error as error:
        raise DamagedDataError(f"{path}: line {reader.line_num}: {error}; save it again") from error
