import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.export.load import load
from offsites_jax.export.manifest import write_json, write_manifest


def reseal(folder):
    """Makes a changed folder consistent with its manifest again."""
    facts = json.loads((folder / "manifest.json").read_text())
    del facts["files"]
    write_manifest(folder, facts)


@pytest.mark.parametrize("rows", [1, 5])
def test_any_batch_size_predicts_as_the_closed_form(toy, finished, rows):
    batch = toy.batch(rows)
    outputs = load(finished).predict(batch)
    assert isinstance(outputs, dict)
    assert {type(value) for value in outputs.values()} == {np.ndarray}
    assert outputs["logits"].shape == (rows, 3)
    assert str(outputs["hidden"].dtype) == "bfloat16"
    np.testing.assert_allclose(outputs["logits"], toy.closed_form(toy.variables(), batch), atol=1e-5)


def test_rows_do_not_see_each_other(toy, finished):
    exported, batch = load(finished), toy.batch(5)
    whole = exported.predict(batch)["logits"]
    for row in range(5):
        alone = exported.predict({name: values[row : row + 1] for name, values in batch.items()})["logits"]
        np.testing.assert_allclose(alone[0], whole[row], atol=1e-6)


def test_compiles_once_per_batch_size(toy, finished):
    compiled = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    exported = load(finished)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        counts = []
        for rows in (2, 2, 7, 2, 7):
            exported.predict(toy.batch(rows, seed=len(counts)))
            counts.append(len(compiled))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert counts[0] > 0
    assert counts[1] == counts[0]
    assert counts[2] > counts[1]
    assert counts[4] == counts[3] == counts[2]


def test_needs_no_model_code(toy, finished):
    code = f"""
import sys, numpy as np
from offsites_jax.export.load import load
batch = {{"pixels": np.zeros((2, 4), np.uint8), "word": np.zeros(2, np.int32)}}
print(load({str(finished)!r}).predict(batch)["logits"].tolist())
rooms = {{name.split(".")[1] for name in sys.modules if name.startswith("offsites_jax.")}}
assert rooms == {{"errors", "export"}}, rooms
assert not {{"flax", "orbax", "optax", "grain"}} & set(sys.modules)
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    zeros = {"pixels": np.zeros((2, 4), np.uint8), "word": np.zeros(2, np.int32)}
    np.testing.assert_allclose(json.loads(run.stdout), toy.closed_form(toy.variables(), zeros), atol=1e-5)


@pytest.mark.parametrize(
    "name", ["model.stablehlo", "params.safetensors", "signature.json", "config.json", "README.md"]
)
def test_one_flipped_bit_is_noticed_and_named(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(DamagedDataError, match=rf"{name}: damaged \(sha256"):
        load(folder)


def test_truncated_parameters_are_noticed(folder):
    file = folder / "params.safetensors"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DamagedDataError, match=rf"{size - 100} bytes, manifest.json says {size} bytes"):
        load(folder)


def test_missing_file_is_named(folder):
    (folder / "params.safetensors").unlink()
    with pytest.raises(DamagedDataError, match=r"params\.safetensors: missing"):
        load(folder)


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe", b"[]", b"{}", b'{"files": {"../../etc/passwd": {}}}'])
def test_damaged_manifest(folder, text):
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(DamagedDataError, match=r"manifest\.json: damaged"):
        load(folder)


def test_no_export_here(tmp_path):
    with pytest.raises(UserError, match=r"no manifest\.json here"):
        load(tmp_path)


def test_parameters_alone_cannot_be_called(toy, tmp_path):
    toy.write(tmp_path / "out", "safetensors")
    with pytest.raises(UserError, match="'safetensors' holds no function to call"):
        load(tmp_path / "out")


def test_a_model_of_a_newer_jax_is_explained(folder):
    """A later jax writes later versions of operations, which this one does not know."""
    signature = json.loads((folder / "signature.json").read_text())
    write_json(folder / "signature.json", {**signature, "jax_version": "99.1"})
    program = folder / "model.stablehlo"
    data = program.read_bytes()
    assert data.count(b"dot_general_v2") == 1
    program.write_bytes(data.replace(b"dot_general_v2", b"dot_general_v9"))
    reseal(folder)
    with pytest.raises(UserError, match=rf"written by jax 99\.1 .* cannot be read by jax {jax.__version__}"):
        load(folder)


def test_garbage_under_a_right_checksum_is_one_line_too(folder):
    (folder / "model.stablehlo").write_bytes(b"garbage")
    reseal(folder)
    with pytest.raises(UserError, match="cannot be read") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_other_platform(folder):
    signature = json.loads((folder / "signature.json").read_text())
    write_json(folder / "signature.json", {**signature, "platforms": ["tpu"]})
    reseal(folder)
    with pytest.raises(UserError, match="exported for tpu, but this process runs on cpu"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"word": None}, r"got \['pixels'\], the model takes \['pixels', 'word'\]"),
        ({"label": np.zeros(2)}, r"got \['label', 'pixels', 'word'\]"),
        ({"pixels": np.zeros((2, 4), np.float32)}, "'pixels': dtype float32, the model takes uint8"),
        ({"word": [0, 1]}, "'word': dtype int64, the model takes int32"),
        ({"pixels": np.zeros((2, 5), np.uint8)}, r"shape \(2, 5\), the model takes \(batch=2, 4\)"),
        ({"pixels": np.zeros(4, np.uint8)}, r"shape \(4\), the model takes \(batch, 4\)"),
        ({"word": np.zeros(3, np.int32)}, r"'word': shape \(3\), the model takes \(batch=2\)"),
        ({"pixels": np.zeros((0, 4), np.uint8), "word": np.zeros(0, np.int32)}, r"shape \(0, 4\)"),
    ],
)
def test_wrong_inputs_are_named(toy, finished, changes, message):
    batch = {name: value for name, value in {**toy.batch(2), **changes}.items() if value is not None}
    with pytest.raises(UserError, match=message):
        load(finished).predict(batch)
