import pathlib

import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.export.load import load
from offsites_jax.export.manifest import verify, write_manifest
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


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """Stands in for gs://bucket: a file system of fsspec that keeps it in a local folder."""

    class Bucket(LocalFileSystem):
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(str(path).replace("gs://bucket", str(tmp_path / "bucket")))

    monkeypatch.setattr(backend._FileSystemSpecBackend, "fs", lambda self, path: Bucket(auto_mkdir=True))
    return tmp_path / "bucket"


def test_buckets_work_alike(toy, bucket):
    report = toy.write("gs://bucket/run/export")
    assert report.folder == "gs://bucket/run/export"
    assert (bucket / "run/export/manifest.json").is_file()
    batch = toy.batch(2)
    logits = load("gs://bucket/run/export").predict(batch)["logits"]
    np.testing.assert_allclose(logits, toy.closed_form(toy.variables(), batch), atol=1e-5)

    with pytest.raises(UserError, match="gs://bucket/run/export: exists already"):
        toy.write("gs://bucket/run/export")
    toy.write("gs://bucket/run/export", "orbax", overwrite=True)
    assert not (bucket / "run/export/model.stablehlo").exists()
    assert verify(bucket / "run/export")["format"] == "orbax"

    (bucket / "run/export/config.json").write_text("{}")
    with pytest.raises(DamagedDataError, match=r"gs://bucket/run/export/config\.json: damaged"):
        verify(epath.Path("gs://bucket/run/export"))


def test_an_upload_cut_short_is_no_export(toy, bucket, monkeypatch):
    copied = []

    def copy(self, path, target, overwrite):
        if len(copied) == 2:
            raise OSError(5, "Input/output error")
        copied.append(target)

    monkeypatch.setattr(backend._FileSystemSpecBackend, "copy", copy)
    with pytest.raises(UserError, match="Input/output error"):
        toy.write("gs://bucket/export", "safetensors")
    with pytest.raises(UserError, match=r"no manifest\.json here"):
        load("gs://bucket/export")
