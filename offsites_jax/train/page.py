"""A report as one HTML file: text, tables and pictures, readable in any browser, offline and in print.

The page holds no script and no link to elsewhere, and tells the browser to allow none. Everything that is put
in is escaped: names of files and cells of tables may hold anything. It is well-formed XML as well as HTML.
"""

import base64
import dataclasses
import html
import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

MISSING = "\N{EN DASH}"  # what an empty cell shows

_PNG = b"\x89PNG\r\n\x1a\n"
_FIRST_CONTENTS = 4  # sections from which on a page has a table of contents
_NO_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # not allowed in XML
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1c2126; font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0.5rem 0 1.2rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 0.6rem; padding-bottom: 0.25rem; border-bottom: 1px solid #d5dae0; }
p { max-width: 48rem; margin: 0.6rem 0; white-space: pre-line; overflow-wrap: anywhere; }
.banner { max-width: none; margin: 0; padding: 0.6rem 1.25rem; background: #fff1cc; color: #4d3800;
  font-weight: 600; text-align: center; border-bottom: 1px solid #e2c46d; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; margin: 0; padding: 0; }
nav a { color: #0b57a4; }
.table { overflow-x: auto; margin: 0.8rem 0; border: 1px solid #d5dae0; border-radius: 4px; }
.long { max-height: 40rem; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { padding: 0.35rem 0.7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #e6e9ed; }
th { position: sticky; top: 0; background: #f1f4f7; white-space: nowrap; }
td { white-space: pre-line; }
tr:last-child td { border-bottom: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
figcaption { color: #505a64; font-size: 0.9rem; max-width: 48rem; overflow-wrap: anywhere; }
@media print { .table, .long { overflow: visible; max-height: none; } figure, tr { break-inside: avoid; } }
"""


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Plain text; line breaks are kept."""

    text: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows by column, over the columns of all of them; it scrolls where it is wider or longer than the page.

    Cells: text as it is, numbers right-aligned with four significant digits, `None` and what a row lacks as a
    dash, true and false as yes and no, anything else as `str` gives it.
    """

    rows: Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG file, as `offsites_jax.train.media` encodes images and figures, and what it shows."""

    png: bytes
    caption: str

    def __post_init__(self) -> None:
        if not self.png.startswith(_PNG):
            raise ValueError(f"picture {self.caption!r} is not a PNG file")


Part: TypeAlias = Paragraph | Table | Picture


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what is below it."""

    title: str
    parts: Sequence[Part]


def render(title: str, sections: Sequence[Section], banner: str = "") -> str:
    """The page as the text of an HTML file; encode it as UTF-8.

    Args:
      title: of the page, and of the browser's window.
      sections: what it holds; four or more get a table of contents.
      banner: a line across the top, such as a warning; none where empty.

    """
    strip = f'<p class="banner" role="note">{_escape(banner)}</p>\n' if banner else ""
    body = "".join(_section(number, section) for number, section in enumerate(sections))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}" />\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />\n'
        f"<title>{_escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{strip}"
        f"<main>\n<h1>{_escape(title)}</h1>\n{_contents(sections)}{body}</main>\n</body>\n</html>\n"
    )


def cell_text(value: Any) -> str:
    """A cell of a table as text: numbers with four significant digits, counts whole and grouped."""
    if value is None or (isinstance(value, str) and not value):
        return MISSING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return _float_text(float(value))
    return str(value)


def _float_text(value: float) -> str:
    if not math.isfinite(value):
        return "undefined" if math.isnan(value) else "\N{INFINITY}" if value > 0 else "-\N{INFINITY}"
    if value == 0 or 1e-4 <= abs(value) < 1e4:
        return f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}"
    return f"{value:.3e}" if abs(value) < 1e-4 else f"{value:,.0f}"


def _contents(sections: Sequence[Section]) -> str:
    if len(sections) < _FIRST_CONTENTS:
        return ""
    titles = enumerate(section.title for section in sections)
    links = "".join(
        f'<li><a href="#section-{number}">{_escape(title)}</a></li>\n' for number, title in titles
    )
    return f"<nav>\n<ul>\n{links}</ul>\n</nav>\n"


def _section(number: int, section: Section) -> str:
    parts = "".join(_part(part) for part in section.parts)
    return f'<section id="section-{number}">\n<h2>{_escape(section.title)}</h2>\n{parts}</section>\n'


def _part(part: Part) -> str:
    match part:
        case Paragraph(text):
            return f"<p>{_escape(text)}</p>\n"
        case Table(rows):
            return _table(rows)
        case Picture(png, caption):
            return _picture(png, caption)
    raise TypeError(f"a {type(part).__name__} in a section; give Paragraph, Table or Picture")


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if not columns:
        return "<p>No rows.</p>\n"
    numeric = {column: _is_numeric([row.get(column) for row in rows]) for column in columns}
    classes = {column: ' class="number"' if numeric[column] else "" for column in columns}
    head = "".join(f'<th scope="col"{classes[column]}>{_escape(column)}</th>' for column in columns)
    cells = ((f"<td{classes[c]}>{_escape(cell_text(row.get(c)))}</td>" for c in columns) for row in rows)
    lines = "".join(f"<tr>{''.join(line)}</tr>\n" for line in cells)
    return (
        '<div class="table long" tabindex="0">\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table>\n</div>\n"
    )


def _is_numeric(values: Sequence[Any]) -> bool:
    """Whether all that a column holds are numbers."""
    held = [value for value in values if value is not None and not (isinstance(value, str) and not value)]
    kinds = (int, float, np.integer, np.floating)
    return bool(held) and all(isinstance(value, kinds) and not isinstance(value, bool) for value in held)


def _picture(png: bytes, caption: str) -> str:
    width, height = struct.unpack(">II", png[16:24])
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    text = _escape(caption)
    return (
        f'<figure>\n<img src="{source}" width="{width}" height="{height}" alt="{text}" />\n'
        f"<figcaption>{text}</figcaption>\n</figure>\n"
    )


def _escape(text: str) -> str:
    """Text that means itself wherever it stands in the page; what XML cannot hold becomes U+FFFD."""
    return html.escape(_NO_TEXT.sub("\ufffd", str(text)), quote=True)
