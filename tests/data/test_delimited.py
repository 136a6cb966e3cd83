"""Text files and tables of cells, as they are and as they are damaged."""

import csv
import gzip
import io

import numpy as np
import pytest

from offsites_jax.data import delimited
from offsites_jax.data.delimited import read_lines, read_text
from offsites_jax.errors import DamagedDataError, UserError


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_text_is_read_however_it_is_packed(tmp_path, pack, encoding):
    (tmp_path / "t").write_bytes(pack("grün\r\nÄpfel\n".encode(encoding)))
    assert read_text(tmp_path / "t") == "grün\r\nÄpfel\n"


def test_what_is_no_text_is_said(tmp_path, monkeypatch):
    file = tmp_path / "t"
    with pytest.raises(UserError, match="t: no such file"):
        read_text(file)
    file.write_bytes(b"abc\xff")
    with pytest.raises(DamagedDataError, match="byte 3 is not UTF-8 text"):
        read_text(file)
    file.write_bytes(gzip.compress(b"a" * 1000)[:-9])
    with pytest.raises(DamagedDataError, match="damaged gzip file"):
        read_text(file)
    monkeypatch.setattr(delimited, "MAX_BYTES", 100)
    for content in (b"a" * 101, gzip.compress(b"a" * 101)):
        file.write_bytes(content)
        with pytest.raises(DamagedDataError, match="larger than 1 GiB"):
            read_text(file)


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_any_table_comes_back(tmp_path, delimiter):
    marks = [*"ab,;\t\"'", "\n", "ü"]
    rng = np.random.default_rng(0)
    rows = [["".join(rng.choice(marks, rng.integers(6))) for _ in range(3)] for _ in range(200)]
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter).writerows(rows)
    (tmp_path / "t").write_text(stream.getvalue(), newline="")
    assert read_lines(tmp_path / "t", delimiter=delimiter) == [
        (number, cells) for number, cells in enumerate(rows, start=1)
    ]


def test_empty_lines_count(tmp_path):
    (tmp_path / "t").write_text('a,b\n\n,\n"c\nd",e\n')
    assert read_lines(tmp_path / "t") == [(1, ["a", "b"]), (2, []), (3, ["", ""]), (4, ["c\nd", "e"])]
    (tmp_path / "t").write_text('say "go"\t"\n')
    assert read_lines(tmp_path / "t", delimiter="\t", quoted=False) == [(1, ['say "go"', '"'])]


def test_a_cell_without_end_is_damage(tmp_path):
    (tmp_path / "t").write_text('a,b\n"' + "c" * 200_000)
    with pytest.raises(DamagedDataError, match=r"line 2: .*; save it again"):
        read_lines(tmp_path / "t")
