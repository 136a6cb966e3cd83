"""Keras files of tests/export/golden were written by Keras, see tools/golden/keras_files.py."""

import pathlib
import pickle
import shutil
import struct
import sys
import tarfile
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.export.importers.files import open_tensors

GOLDEN = pathlib.Path(__file__).parent / "golden"
KERAS = {
    "stem_conv/0": (3, 3, 1, 2),
    "stem_bn/0": (2,),
    "stem_bn/1": (2,),
    "stem_bn/2": (2,),
    "stem_bn/3": (2,),
    "block1a_dwconv2/0": (2, 2, 2, 1),
    "predictions/0": (2, 3),
    "predictions/1": (3,),
}


def read_all(path):
    with open_tensors(pathlib.Path(path)) as tensors:
        return {name: tensors.read(name) for name in tensors.shapes}


def keras_2(tmp_path):
    return GOLDEN / "keras_2.h5"


def keras_2_whole(tmp_path):
    """A saved model keeps the same groups one level down."""
    with h5py.File(GOLDEN / "keras_2.h5") as source, h5py.File(tmp_path / "whole.h5", "w") as target:
        source.copy(source["/"], target, "model_weights")
    return tmp_path / "whole.h5"


def keras_3(tmp_path):
    return GOLDEN / "keras_3.keras"


def keras_3_weights(tmp_path):
    with zipfile.ZipFile(GOLDEN / "keras_3.keras") as archive:
        (tmp_path / "small.weights.h5").write_bytes(archive.read("model.weights.h5"))
    return tmp_path / "small.weights.h5"


@pytest.mark.parametrize("make", [keras_2, keras_2_whole, keras_3, keras_3_weights])
def test_keras_files_of_every_layout(tmp_path, make):
    found = read_all(make(tmp_path))
    assert {name: array.shape for name, array in found.items()} == KERAS
    for index, name in enumerate(KERAS):
        np.testing.assert_array_equal(found[name].ravel(), 100 * index + np.arange(found[name].size))


def test_keras_links_lead_nowhere(tmp_path):
    """A file may claim that its weights are in another file of the reader's machine."""
    np.arange(4, dtype=np.float32).tofile(tmp_path / "secret")
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.arange(4)
    with h5py.File(tmp_path / "evil.h5", "w") as file:
        for layer in ("soft", "external", "raw"):
            file.create_group(layer).attrs["weight_names"] = ["kernel"]
        file["soft/kernel"] = h5py.SoftLink("/raw/kernel")
        file["external/kernel"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")
        file.create_dataset("raw/kernel", (4,), "f4", external=[(str(tmp_path / "secret"), 0, 16)])
    with pytest.raises(UserError, match=r"keeps no Keras weights external/kernel, raw/kernel, soft/kernel"):
        read_all(tmp_path / "evil.h5")


def test_a_keras_file_without_weights(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(UserError, match="keeps no Keras weights by layer"):
        read_all(tmp_path / "data.h5")


@pytest.mark.parametrize("name", ["keras_2.h5", "keras_3.keras"])
@pytest.mark.parametrize("keep", [0, 100, 9000])
def test_a_keras_file_cut_short(tmp_path, name, keep):
    file = tmp_path / name
    file.write_bytes((GOLDEN / name).read_bytes()[:keep])
    with pytest.raises(DamagedDataError, match="no whole"):
        read_all(file)


def test_keras_files_need_h5py(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        UserError, match=r"keras_2\.h5: reading Keras files needs h5py; pip install 'offsites-jax\[keras\]'"
    ):
        read_all(GOLDEN / "keras_2.h5")


def test_safetensors(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3).astype(ml_dtypes.bfloat16)}
    save_file(arrays, tmp_path / "w.safetensors")
    found = read_all(tmp_path / "w.safetensors")
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].tobytes()) == (array.dtype, array.tobytes())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 99_000_000) + b"{" + bytes(100),
        struct.pack("<Q", 59) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,9000]}}  ' + bytes(8),
    ],
)
def test_safetensors_whose_header_promises_more_than_there_is(tmp_path, data):
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(DamagedDataError, match="no whole safetensors file"):
        read_all(tmp_path / "w.safetensors")


def test_safetensors_of_a_type_that_numpy_lacks(tmp_path):
    header = b'{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}'
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(UserError, match="save it in float32"):
        read_all(tmp_path / "w.safetensors")


@pytest.mark.parametrize("content", [pickle.dumps({"a": 1}, 2), b"PK\x03\x04" + bytes(30)])
def test_a_pickle_called_safetensors_is_told_how_to_be_converted(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"a PyTorch pickle .*safetensors\.torch\.save_file"):
        read_all(tmp_path / "w.safetensors")


@pytest.mark.parametrize("length", [0x80, 0x4B50])
def test_a_header_whose_length_looks_like_a_pickle_is_none(tmp_path, length):
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(length)
    content = struct.pack("<Q", length) + header + np.ones(2, np.float32).tobytes()
    assert content[:1] in b"\x80P"
    (tmp_path / "w.safetensors").write_bytes(content)
    np.testing.assert_array_equal(read_all(tmp_path / "w.safetensors")["a"], [1, 1])
    (tmp_path / "w.safetensors").write_bytes(content[:-1])
    with pytest.raises(DamagedDataError, match="no whole safetensors file"):
        read_all(tmp_path / "w.safetensors")


class Trap:
    """Unpickling it leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return pathlib.Path.touch, (self.mark,)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar"])
def test_pickles_are_never_loaded_by_ourselves(tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / f"w{suffix}").write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    with pytest.raises(UserError, match="read only where torch is installed"):
        read_all(tmp_path / f"w{suffix}")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.h5", "w.keras", "w.index", "w.tgz", "w.npz", "w"])
def test_a_pickle_under_another_name_is_refused_and_never_loaded(tmp_path, name):
    content = pickle.dumps(Trap(tmp_path / "mark"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises((UserError, DamagedDataError)) as error:
        read_all(tmp_path / name)
    assert str(tmp_path / name.removesuffix(".index")) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("form", ["folder", "prefix", "index", "tgz"])
def test_a_tensorflow_checkpoint_is_found_however_it_is_given(tmp_path, form):
    folder = pathlib.Path(shutil.copytree(GOLDEN / "automl_tiny", tmp_path / "tiny"))
    with tarfile.open(tmp_path / "tiny.tgz", "w:gz") as tar:
        tar.add(folder, "efficientnetv2-tiny")
    paths = {
        "folder": folder,
        "prefix": folder / "model.ckpt-12345",
        "index": folder / "model.ckpt-12345.index",
        "tgz": tmp_path / "tiny.tgz",
    }
    with open_tensors(paths[form]) as tensors:
        assert tensors.read("global_step") == 12345
        assert tensors.files[0].name == ("tiny.tgz" if form == "tgz" else "model.ckpt-12345.index")


def test_the_file_checkpoint_says_which_of_several(tmp_path):
    folder = pathlib.Path(shutil.copytree(GOLDEN / "automl_tiny", tmp_path / "tiny"))
    for file in folder.glob("model*"):
        shutil.copy(file, folder / file.name.replace("12345", "7"))
    with open_tensors(folder) as tensors:
        assert tensors.files[0].name == "model.ckpt-12345.index"
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-7"\n')
    with open_tensors(folder) as tensors:
        assert tensors.files[0].name == "model.ckpt-7.index"
    (folder / "checkpoint").unlink()
    with pytest.raises(UserError, match=r"found model\.ckpt-12345, model\.ckpt-7; name one's \.index"):
        read_all(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.safetensors", "no such file"),
        ("none.h5", "no such file"),
        ("none.index", "no such file"),
        ("none.tgz", "no such file"),
        ("notes.txt", "weights are read from"),
        ("empty", "one TensorFlow checkpoint is wanted, found none"),
    ],
)
def test_no_weights_here(tmp_path, name, message):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        read_all(tmp_path / name)
