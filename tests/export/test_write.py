import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import AxisType
from safetensors.numpy import load_file

from offsites_jax.errors import DamagedDataError, OffsitesError, UserError
from offsites_jax.export import formats
from offsites_jax.export.inference import Inference
from offsites_jax.export.load import load
from offsites_jax.export.manifest import verify
from offsites_jax.export.write import write_folder


def test_folder_describes_itself(toy, finished):
    """Checked with the standard library alone, against the files as they lie there."""
    manifest = json.loads((finished / "manifest.json").read_text())
    signature = json.loads((finished / "signature.json").read_text())
    assert {key: manifest[key] for key in toy.facts} == toy.facts
    assert json.loads((finished / "config.json").read_text()) == toy.facts["config"]
    for name in ("model.stablehlo", "params.safetensors", "signature.json", "config.json", "README.md"):
        data = (finished / name).read_bytes()
        assert manifest["files"][name] == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert set(manifest["files"]) == {file.name for file in finished.iterdir()} - {"manifest.json"}
    assert signature["inputs"] == {
        "pixels": {"shape": ["batch", 4], "dtype": "uint8"},
        "word": {"shape": ["batch"], "dtype": "int32"},
    }
    assert signature["outputs"] == {
        "logits": {"shape": ["batch", 3], "dtype": "float32"},
        "hidden": {"shape": ["batch", 4], "dtype": "bfloat16"},
    }
    assert signature["platforms"] == ["cpu", "tpu", "cuda"]
    assert signature["jax_version"] == jax.__version__
    assert set(manifest["differences"]) == {"logits", "hidden"}


def test_exported_function_is_unsharded_and_takes_its_parameters(toy):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):  # as in a notebook that has just trained
        exported = toy.inference(platforms=("cpu", "tpu")).export()
    assert exported.nr_devices == 1
    assert exported.platforms == ("cpu", "tpu")
    names = set(traverse_util.flatten_dict(toy.variables(), sep="/"))
    arguments = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0]
    assert set(arguments[0]) == names
    assert "params/head/kernel" in names
    assert "batch_stats/norm/mean" in names
    # Nothing baked in: other parameters, other result.
    leaves = traverse_util.flatten_dict(toy.variables(), sep="/")
    batch = toy.batch(2)
    shifted = exported.call({**leaves, "params/head/bias": leaves["params/head/bias"] + 1}, batch)
    np.testing.assert_allclose(shifted["logits"], toy.closed_form(toy.variables(), batch) + 1, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_parameters_keep_their_bits(toy, tmp_path, dtype):
    write_folder(toy.inference(dtype), tmp_path / "out", format="safetensors", facts=toy.facts)
    read = load_file(tmp_path / "out/params.safetensors")
    wanted = traverse_util.flatten_dict(toy.variables(dtype), sep="/")
    assert set(read) == set(wanted)
    for name, leaf in wanted.items():
        assert read[name].dtype == (dtype if name.startswith("params/") else np.float32)
        assert read[name].shape == leaf.shape
        assert read[name].tobytes() == leaf.tobytes()


def test_bfloat16_parameters_predict(toy, tmp_path):
    write_folder(toy.inference(ml_dtypes.bfloat16), tmp_path / "out", format="stablehlo", facts=toy.facts)
    exported = load(tmp_path / "out")
    assert exported.params["params/head/kernel"].dtype == jnp.bfloat16
    batch = toy.batch(5)
    wanted = toy.closed_form(toy.variables(ml_dtypes.bfloat16), batch)
    np.testing.assert_allclose(exported.predict(batch)["logits"], wanted, atol=1e-5)


def snippet(folder):
    return re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]


def run_python(code, folder):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_readme_of_stablehlo_reproduces_the_model_in_a_fresh_process(toy, finished, tmp_path):
    batch = toy.batch(6)
    np.savez(tmp_path / "in.npz", **batch)
    code = f"""{snippet(finished)}
outputs = predict(params, dict(np.load({str(tmp_path / "in.npz")!r})))
np.save({str(tmp_path / "logits.npy")!r}, outputs["logits"])
import sys
assert not {{"flax", "offsites_jax", "orbax"}} & set(sys.modules)
"""
    shown = run_python(code, finished)
    assert "logits float32 (1, 3)" in shown
    assert "hidden bfloat16 (1, 4)" in shown
    live = jax.jit(toy.predict)(toy.variables(), batch)["logits"]
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), live)
    np.testing.assert_allclose(live, toy.closed_form(toy.variables(), batch), atol=1e-5)


@pytest.mark.parametrize("format", ["safetensors", "orbax"])
def test_readme_of_parameters_lists_them_in_a_fresh_process(toy, tmp_path, format):
    report = toy.write(tmp_path / "out", format)
    shown = run_python(snippet(tmp_path / "out"), tmp_path / "out")
    assert "params/head/kernel float32 (4, 3)" in shown
    assert "batch_stats/norm/var float32 (4,)" in shown
    assert report.differences == {"logits": 0, "hidden": 0}


def test_orbax_folder_restores_the_variables(toy, tmp_path):
    import orbax.checkpoint as ocp

    toy.write(tmp_path / "out", "orbax")
    with ocp.StandardCheckpointer() as checkpointer:
        read = checkpointer.restore(tmp_path / "out/params")
    jax.tree.map(np.testing.assert_array_equal, read, toy.variables())
    array_file = max((tmp_path / "out/params").rglob("d/*"), key=lambda file: file.stat().st_size)
    data = bytearray(array_file.read_bytes())
    data[len(data) // 2] ^= 1
    array_file.write_bytes(data)
    with pytest.raises(DamagedDataError, match=array_file.name):
        verify(tmp_path / "out")


def test_report(toy, tmp_path):
    report = toy.write(tmp_path / "out", batches=[{**toy.batch(4), "label": np.zeros(4)}])
    assert (report.folder, report.format, report.step) == (str(tmp_path / "out"), "stablehlo", 7)
    assert set(report.differences) == {"logits", "hidden"}
    assert report.max_abs_diff == max(report.differences.values()) <= 1e-5
    sizes = [file.stat().st_size for file in (tmp_path / "out").iterdir() if file.name != "manifest.json"]
    assert report.size == sum(sizes)


def wrong(self):
    """An exporter that gets the numbers wrong."""

    def shifted(variables, batch):
        return {name: x + jnp.asarray(1e-2, x.dtype) for name, x in self.predict(variables, batch).items()}

    return EXPORT(dataclasses.replace(self, predict=shifted))


EXPORT = Inference.export


def test_mismatch_fails_and_leaves_nothing(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(Inference, "export", wrong)
    with pytest.raises(OffsitesError, match=r"output '(logits|hidden)' is 0\.01"):
        toy.write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    toy.write(tmp_path / "out", tolerance=0.1)
    assert load(tmp_path / "out").manifest["differences"]["logits"] == pytest.approx(0.01, abs=1e-4)


def test_a_mismatch_on_given_batches_only_fails_too(toy, tmp_path, monkeypatch):
    def export(self):
        return EXPORT(dataclasses.replace(self, predict=first_word_only))

    def first_word_only(variables, batch):
        return toy.predict(variables, {**batch, "word": jnp.minimum(batch["word"], 0)})

    monkeypatch.setattr(Inference, "export", export)
    monkeypatch.setattr(
        Inference, "random_batch", lambda self: {**toy.batch(2), "word": np.zeros(2, np.int32)}
    )
    toy.write(tmp_path / "unnoticed")
    real = {**toy.batch(2), "word": np.ones(2, np.int32)}
    with pytest.raises(OffsitesError, match="off the live model"):
        toy.write(tmp_path / "out", batches=[real])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["stablehlo", "safetensors"])
def test_parameters_that_change_on_the_way_to_disk_fail(toy, tmp_path, monkeypatch, format):
    def save_file(leaves, file):
        SAVE_FILE({**leaves, "params/head/bias": np.nextafter(leaves["params/head/bias"], 9)}, file)

    monkeypatch.setattr(formats, "save_file", save_file)
    with pytest.raises(DamagedDataError, match="params/head/bias"):
        toy.write(tmp_path / "out", format)
    assert list(tmp_path.iterdir()) == []


SAVE_FILE = formats.save_file


def test_full_disk_is_one_line_and_leaves_nothing(toy, tmp_path, monkeypatch):
    def write_bytes(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pathlib.Path, "write_bytes", write_bytes)
    with pytest.raises(UserError, match="No space left on device") as caught:
        toy.write(tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_kept_unless_told(toy, tmp_path):
    output = tmp_path / "out"
    toy.write(output, "safetensors")
    before = (output / "manifest.json").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        toy.write(output)
    assert (output / "manifest.json").read_bytes() == before
    toy.write(output, overwrite=True)
    assert load(output).manifest["format"] == "stablehlo"
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"platforms": ("cpu", "gpu")}, "platforms: gpu; known: cpu, tpu, cuda, rocm"),
        ({"platforms": ()}, "platforms: none given"),
        ({"batch": 0}, "batch: 0 is neither"),
        ({"batch": "8"}, "batch: '8' is neither"),
    ],
)
def test_impossible_wishes(toy, changes, message):
    with pytest.raises(UserError, match=message):
        toy.inference(**changes)


def test_unknown_format_and_unchecked_platform(toy, tmp_path):
    with pytest.raises(UserError, match=r"no export format 'stablehol'; did you mean stablehlo"):
        toy.write(tmp_path / "out", "stablehol")
    with pytest.raises(UserError, match="platforms: cpu is missing"):
        write_folder(toy.inference(platforms=("tpu",)), tmp_path / "out", format="stablehlo", facts=toy.facts)
    with pytest.raises(UserError, match=r"lacks word; it has \['pixels'\]"):
        toy.write(tmp_path / "out", batches=[{"pixels": toy.batch(2)["pixels"]}])
    assert list(tmp_path.iterdir()) == []


def pairwise(variables, batch):
    """A model that has to know its batch size."""
    logits = batch["x"].reshape(batch["x"].shape[0] // 2, 2, -1).sum(1) * variables["params"]["scale"]
    return {"logits": jnp.repeat(logits, 2, axis=0)}


@pytest.mark.parametrize(
    "predict",
    [
        pairwise,
        lambda v, batch: {"logits": jnp.stack(list(batch["x"])) * v["params"]["scale"]},
        lambda v, batch: {"logits": batch["x"] + np.zeros(batch["x"].shape)},
    ],
)
def test_a_model_that_needs_its_batch_size(toy, tmp_path, predict):

    def spec(rows):
        return {"x": jax.ShapeDtypeStruct((rows, 3), jnp.float32)}

    variables = {"params": {"scale": np.float32(2)}}
    with pytest.raises(UserError, match="needs to know the batch size") as caught:
        write_folder(
            Inference(predict, variables, spec), tmp_path / "out", format="stablehlo", facts=toy.facts
        )
    assert "\n" not in str(caught.value)
    write_folder(
        Inference(predict, variables, spec, batch=4), tmp_path / "out", format="stablehlo", facts=toy.facts
    )
    exported = load(tmp_path / "out")
    assert exported.signature.inputs["x"].shape == (4, 3)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_allclose(exported.predict({"x": x})["logits"], predict(variables, {"x": x})["logits"])
    with pytest.raises(UserError, match=r"'x': shape \(2, 3\), the model takes \(4, 3\)"):
        exported.predict({"x": x[:2]})


def test_a_mistake_in_predict_is_not_blamed_on_the_batch_size(toy, tmp_path):
    def predict(variables, batch):
        return {"logits": batch["pixels"] @ variables["params"]["head"]["bias"][None]}

    inference = dataclasses.replace(toy.inference(), predict=predict)
    with pytest.raises(TypeError, match="dot_general"):
        write_folder(inference, tmp_path / "out", format="stablehlo", facts=toy.facts)
    assert list(tmp_path.iterdir()) == []
