import pathlib

import pytest

from offsites_jax.errors import UserError
from offsites_jax.export.manifest import write_manifest
from offsites_jax.export.publish import published


def names(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def old_export(folder):
    folder.mkdir()
    (folder / "old").write_text("old")
    write_manifest(folder, {})
    return folder


def test_appears_only_when_whole(tmp_path):
    output = tmp_path / "not/yet/there"
    with published(output, overwrite=False) as folder:
        (folder / "a").write_text("a")
        assert not output.exists()
        assert folder.parent == output.parent
    assert names(tmp_path) == ["not/yet/there/a"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_failure_leaves_what_was_there(tmp_path, error):
    output = old_export(tmp_path / "out")

    def interrupted():
        with published(output, overwrite=True) as folder:
            (folder / "new").write_text("new")
            raise error("stop")

    with pytest.raises(UserError if error is OSError else error):
        interrupted()
    assert names(tmp_path) == ["out/manifest.json", "out/old"]


def test_overwrites_an_export_whole(tmp_path):
    output = old_export(tmp_path / "out")
    with published(output, overwrite=True) as folder:
        (folder / "new").write_text("new")
    assert names(tmp_path) == ["out/new"]


def test_old_export_returns_when_the_last_rename_fails(tmp_path, monkeypatch):
    output = old_export(tmp_path / "out")
    rename = pathlib.Path.rename

    def failing(self, target):
        if self.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", failing)
    with pytest.raises(UserError, match="Input/output error"), published(output, overwrite=True):
        pass
    assert names(tmp_path) == ["out/manifest.json", "out/old"]


@pytest.mark.parametrize("manifest", [None, '{"name": "a web app"}'])
def test_never_overwrites_what_is_no_export(tmp_path, manifest):
    (tmp_path / "thesis.tex").write_text("years of work")
    if manifest:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match="no export of ours"), published(tmp_path, overwrite=True):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_existing_folder_needs_overwrite(tmp_path):
    output = old_export(tmp_path / "out")
    with pytest.raises(UserError, match="exists already"), published(output, overwrite=False):
        pass
    assert names(output) == ["manifest.json", "old"]
