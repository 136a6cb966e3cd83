import io
import tarfile

import pytest

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.export.importers.archive import unpack_checkpoint


def pack(file, members, mode="w:gz"):
    """An archive of (name, content or TarInfo fields) pairs."""
    with tarfile.open(file, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return file


def unpacked(archive, tmp_path, **settings):
    folder = tmp_path / "a/b"
    folder.mkdir(parents=True)
    unpack_checkpoint(archive, folder, **settings)
    everything = sorted(path for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in everything
        if path != archive and path.is_relative_to(folder)
    }, everything


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_takes_the_files_of_a_checkpoint_out_of_their_folder(tmp_path, mode):
    members = [
        ("model/checkpoint", b"name"),
        ("model/model.index", b"index"),
        ("model/model.data-00000-of-00001", b"data"),
        ("model/model.meta", b"graph"),
        ("model/eval/events.out", b"events"),
    ]
    found, _ = unpacked(pack(tmp_path / "m.tgz", members, mode), tmp_path)
    assert found == {"checkpoint": b"name", "model.index": b"index", "model.data-00000-of-00001": b"data"}


def test_nothing_leaves_the_folder(tmp_path):
    (tmp_path / "secret.index").write_bytes(b"secret")
    members = [
        ("../../escaped.index", b"1"),
        (f"{tmp_path}/absolute.index", b"2"),
        ("link.index", (tarfile.SYMTYPE, str(tmp_path / "secret.index"))),
        ("hard.index", (tarfile.LNKTYPE, "../../secret.index")),
        ("pipe.index", (tarfile.FIFOTYPE, "")),
        ("checkpoint", (tarfile.DIRTYPE, "")),
    ]
    archive = pack(tmp_path / "m.tgz", members)
    found, everything = unpacked(archive, tmp_path)
    assert found == {"escaped.index": b"1", "absolute.index": b"2"}
    assert len(everything) == 4  # the two, the archive and the secret


def test_a_bomb_is_refused_before_it_is_written(tmp_path):
    archive = pack(tmp_path / "m.tgz", [("a/small.index", b"x"), ("b/other.txt", bytes(2_000_000))])
    assert archive.stat().st_size < 10_000
    with pytest.raises(UserError, match="unpacks to more than 1,000,000 bytes"):
        unpacked(archive, tmp_path, limit=1_000_000)


def test_two_checkpoints_of_one_name(tmp_path):
    archive = pack(tmp_path / "m.tgz", [("a/model.index", b"1"), ("b/model.index", b"2")])
    with pytest.raises(UserError, match=r"holds two files model\.index"):
        unpacked(archive, tmp_path)


@pytest.mark.parametrize("cut", [10, 200, -30])
def test_an_archive_cut_short(tmp_path, cut):
    noise = bytes(range(256)) * 40
    archive = pack(tmp_path / "m.tgz", [("model.index", noise), ("model.data-00000-of-00001", noise)])
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(DamagedDataError, match="cannot be unpacked"):
        unpacked(archive, tmp_path)
