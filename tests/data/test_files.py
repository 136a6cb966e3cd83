"""Which files a user means, and in which order."""

import os

import pytest

from offsites_jax.data import files
from offsites_jax.data.files import FilesSource
from offsites_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    for name in ("b.png", "a/z.png", "a/deep/y.png", "a.png", ".hidden.png", ".git/x.png", "c/only.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def names(source, root):
    return [os.path.relpath(source[index]["path"], root) for index in range(len(source))]


def test_a_folder_stands_for_all_files_below_it(folder):
    source = FilesSource([str(folder)])
    assert names(source, folder) == ["a.png", "a/deep/y.png", "a/z.png", "b.png", "c/only.txt"]
    assert source[1]["content"] == b"a/deep/y.png"
    assert source.describe(1) == str(folder / "a/deep/y.png")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["a.png", "b.png"]),
        ("**/*.png", ["a.png", "a/deep/y.png", "a/z.png", "b.png"]),
        ("[ac]", ["a/deep/y.png", "a/z.png", "c/only.txt"]),  # folders that match stand for their files
        ("a/**", ["a/deep/y.png", "a/z.png"]),  # each once, though its folder matches as well
        ("?/*.txt", ["c/only.txt"]),
    ],
)
def test_a_pattern_stands_for_what_matches(folder, pattern, expected):
    assert names(FilesSource([f"{folder}/{pattern}"]), folder) == expected


def test_a_pattern_may_be_relative(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert [FilesSource(["*.png"]).describe(index) for index in range(2)] == ["a.png", "b.png"]


def test_a_file_with_the_name_of_a_pattern_is_that_file(folder):
    (folder / "a[1].png").write_bytes(b"really")
    assert FilesSource([str(folder / "a[1].png")])[0]["content"] == b"really"


def test_paths_keep_their_order_and_may_repeat(folder):
    first, second = str(folder / "b.png"), str(folder / "a.png")
    assert names(FilesSource([first, second, first]), folder) == ["b.png", "a.png", "b.png"]


def test_a_link_back_to_its_own_folder_ends(folder):
    (folder / "a" / "back").symlink_to(folder)
    (folder / "elsewhere").symlink_to(folder / "c")
    assert names(FilesSource([str(folder)]), folder)[-2:] == ["c/only.txt", "elsewhere/only.txt"]


def test_what_is_not_there_is_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for path, said in (("x.png", "no such file"), ("*.gif", "no file matches")):
        with pytest.raises(UserError, match=said):
            FilesSource([str(folder / path)])
    with pytest.raises(UserError, match="no files to read"):
        FilesSource([str(tmp_path / "empty")])


def test_a_file_too_large_is_refused_before_it_is_read(folder, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 4)
    with pytest.raises(UserError, match="larger than 1 GiB"):
        FilesSource([str(folder / "a.png")])[0]
