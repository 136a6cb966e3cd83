"""Reference numbers are made by tools/golden/{published_efficientnet,tensorflow_checkpoint}.py."""

import functools
import hashlib
import json
import math
import pathlib
import shutil
import zlib

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from offsites_jax import weights
from offsites_jax.cli.main import run
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.export.importers.efficientnet import SOURCES, abstract_variables, automl_names, timm_names
from offsites_jax.export.importing import import_weights
from offsites_jax.models.registry import create_model
from offsites_jax.train.state import flatten, unflatten
from offsites_jax.train.warm_start import InitFrom, warm_start

GOLDEN = pathlib.Path(__file__).parent / "golden"
IMAGES = np.random.default_rng(7).standard_normal((2, 64, 64, 3)).astype(np.float32)
TINY = {
    "blocks": (
        "r1_k3_s1_e1_i8_o8_c1",
        "r1_k3_s2_e2_i8_o16_c1",
        "r1_k3_s1_e1_i16_o16_se0.25",
        "r2_k5_s2_e2_i16_o16_se0.25",
    ),
    "head_width": 24,
    "num_classes": 5,
}
AVERAGED = "/ExponentialMovingAverage"


def drawn(name, shape, fan_in, gain):
    """One tensor, from a generator seeded by its name; scales and variances are around 1."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rsplit("/", 1)[-1].rsplit(".", 1)[-1]
    if leaf in ("gamma", "moving_variance", "running_var") or (leaf == "weight" and len(shape) == 1):
        values = draw.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        values = 0.1 * draw.standard_normal(shape)
    else:
        values = draw.standard_normal(shape) * math.sqrt(gain / fan_in)
    return values.astype(np.float32)


def read_golden(source, name):
    return json.loads((GOLDEN / f"{source}_{name}.json").read_text())


def write_timm(golden, file):
    """A state dict as timm publishes it."""
    tensors = {
        name: drawn(name, shape, math.prod(shape[1:]), golden["gain"]) if shape else np.int64(0)
        for name, shape in golden["shapes"].items()
    }
    save_file({name: np.asarray(value) for name, value in tensors.items()}, file)
    return file


def write_keras(golden, file):
    """A weights file as keras.applications publishes it."""
    layers = {}
    with h5py.File(file, "w") as target:
        for name, shape in golden["shapes"].items():
            fan_in = math.prod(shape[:2]) if shape[-1:] == [1] else math.prod(shape[:-1])
            value = drawn(name, shape, fan_in, golden["gain"]) if shape else np.int64(0)
            layer = name.split("/")[0]
            target[f"{layer}/{name}:0"] = value
            layers.setdefault(layer, []).append(f"{name}:0".encode())
        for layer, names in layers.items():
            target[layer].attrs["weight_names"] = names
    return file


WRITERS = {"timm": (write_timm, ".safetensors"), "keras": (write_keras, ".h5")}


@functools.cache
def forward(name):
    model = create_model(name)
    return jax.jit(lambda variables, images: model.apply(variables, images, train=False))


@pytest.mark.parametrize("source", ["timm", "keras"])
@pytest.mark.parametrize("name", ["efficientnet_v2_b0", "efficientnet_b0"])
def test_logits_are_those_of_the_source(tmp_path, source, name):
    golden = read_golden(source, name)
    write, suffix = WRITERS[source]
    file = write(golden, tmp_path / f"published{suffix}")
    variables = weights.load(name, file, source=source)
    logits = forward(name)(variables, IMAGES)
    assert logits.shape == (2, 1000)
    largest = golden["largest"]
    np.testing.assert_allclose(np.abs(logits).max(), largest, rtol=1e-4)
    np.testing.assert_allclose(logits[:, :4], golden["logits"], atol=1e-4 * largest, rtol=0)


def test_logits_from_names_of_google_automl():
    """Those of Keras, from a checkpoint as training leaves it, whose raw values are far from the averages."""
    variables = weights.load("efficientnet_v2_b0", GOLDEN / "automl_tiny", source="automl", **TINY)
    images = np.random.default_rng(7).standard_normal((2, 37, 50, 3)).astype(np.float32)
    logits = create_model("efficientnet_v2_b0", **TINY).apply(variables, images, train=False)
    expected = json.loads((GOLDEN / "automl_tiny/logits.json").read_text())
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_raw_values_under_names_of_google_automl():
    """The reference added 1 to every raw value after averaging."""
    averaged, raw = (
        flatten(weights.load("efficientnet_v2_b0", GOLDEN / "automl_tiny", "automl", params=params, **TINY))
        for params in ("ema", "raw")
    )
    for name, value in averaged.items():
        np.testing.assert_allclose(raw[name], value + 1, atol=1e-6)


@pytest.mark.parametrize("scope", ["head", "head_1"])
def test_both_scopes_of_google_automls_classifier_are_known(scope):
    """Some versions of TensorFlow number the head's scope, which is opened twice."""
    model = create_model("efficientnet_v2_b0", **TINY)
    tensors = ["net/stem/conv2d/kernel", f"net/{scope}/dense/kernel", f"net/{scope}/dense/bias"]
    origins = automl_names(model, abstract_variables(model), tensors, "ema").origins
    assert origins["params/classifier/kernel"].name == f"net/{scope}/dense/kernel"
    assert origins["params/classifier/bias"].name == f"net/{scope}/dense/bias"
    assert origins["params/head/conv/kernel"].name == "net/head/conv2d/kernel"


@pytest.mark.parametrize("name", ["efficientnet_v2_s", "efficientnet_b1"])
def test_every_leaf_of_deeper_variants_has_a_name_of_its_own(name):
    model = create_model(name)
    wanted = abstract_variables(model)
    for source, names in SOURCES.items():
        table = names(model, wanted, ["net/stem/conv2d/kernel"], "ema")
        assert set(table.origins) == set(wanted)
        assert len({origin.name for origin in table.origins.values()}) == len(wanted), source


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A timm file of the tiny network, made by turning the one in google/automl's layout around."""
    model = create_model("efficientnet_v2_b0", **TINY)
    leaves = flatten(weights.load("efficientnet_v2_b0", GOLDEN / "automl_tiny", "automl", **TINY))
    origins = timm_names(model, abstract_variables(model), (), "ema").origins
    tensors = {}
    for name, origin in origins.items():
        back = leaves[name] if origin.axes is None else leaves[name].transpose(np.argsort(origin.axes))
        tensors[origin.name] = np.ascontiguousarray(back)
    return tensors


def load_changed(published, tmp_path, changes, **settings):
    tensors = {name: array for name, array in {**published, **changes}.items() if array is not None}
    save_file(tensors, tmp_path / "w.safetensors")
    return weights.load("efficientnet_v2_b0", tmp_path / "w.safetensors", **{**TINY, **settings})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"bn1.bias": None}, UserError, r"1 missing \(bn1\.bias\)"),
        ({"conv_stem.bias": np.zeros(8, "f4")}, UserError, r"1 unknown \(conv_stem\.bias\)"),
        ({"bn1.bias": None, "extra": np.zeros(8, "f4")}, UserError, r"1 missing \(bn1.*1 unknown \(extra\)"),
        (
            {"conv_head.weight": np.zeros((24, 8, 1, 1), "f4")},
            UserError,
            r"conv_head\.weight is \[24, 8, 1, 1\], but params/head/conv/kernel needs \[24, 16, 1, 1\]",
        ),
        ({"bn1.weight": np.full(8, np.nan, "f4")}, DamagedDataError, r"bn1\.weight is not finite"),
        ({"bn1.weight": np.ones(8, "i4")}, UserError, r"bn1\.weight is of int32, not of a floating type"),
        ({"classifier.weight": np.zeros((7, 24), "f4")}, UserError, r"\[7, 24\].*--classes.*--new-head"),
    ],
)
def test_strict_about_every_tensor(published, tmp_path, changes, error, message):
    with pytest.raises(error, match=message) as caught:
        load_changed(published, tmp_path, changes)
    assert "\n" not in str(caught.value)


def test_counters_of_batches_are_no_weights(published, tmp_path):
    changes = {"bn1.num_batches_tracked": np.array(7), "classifier.bias": np.arange(5, dtype="f4")}
    found = load_changed(published, tmp_path, changes)
    np.testing.assert_array_equal(found["params"]["classifier"]["bias"], range(5))


def test_half_precision_becomes_float32(published, tmp_path):
    found = load_changed(published, tmp_path, {"bn1.bias": published["bn1.bias"].astype(np.float16)})
    assert found["params"]["stem"]["bn"]["bias"].dtype == np.float32
    np.testing.assert_allclose(found["params"]["stem"]["bn"]["bias"], published["bn1.bias"], rtol=1e-3)


@pytest.mark.parametrize("num_classes", [0, 3, 5])
def test_a_new_head_leaves_the_classifier_out(published, tmp_path, num_classes):
    found = load_changed(published, tmp_path, {}, new_head=True, num_classes=num_classes)
    assert "classifier" not in found["params"]
    without = load_changed(
        published,
        tmp_path,
        {"classifier.weight": None, "classifier.bias": None},
        new_head=True,
        num_classes=3,
    )
    jax.tree.map(np.testing.assert_array_equal, found, without)


def test_wrong_model_and_wrong_source(published, tmp_path):
    with pytest.raises(UserError, match=r"not the weights of this model: .*missing \(conv_stem|blocks"):
        load_changed(published, tmp_path, {}, blocks=(*TINY["blocks"][:2], "r1_k3_s1_e2_i16_o16_c1"))
    file = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match=r"0 tensors are called \.\.\./stem/conv2d/kernel.*check --from"):
        weights.load("efficientnet_v2_b0", file, source="automl")
    with pytest.raises(UserError, match="no source 'torchvision'; known: automl, keras, timm"):
        weights.load("efficientnet_v2_b0", file, source="torchvision")


def test_command_line_to_warm_start(published, tmp_path, capsys, monkeypatch):
    """What is imported is what a training run then starts from."""
    monkeypatch.chdir(tmp_path)
    name, shapes = "efficientnet_v2_b0", read_golden("timm", "efficientnet_v2_b0")
    source = write_timm(shapes, tmp_path / "tf_efficientnetv2_b0.safetensors")
    arguments = ["import", "--from", "timm", name, str(source), "--output", "out"]
    assert run([*arguments, "--new-head"]) == 0
    said = capsys.readouterr().out
    leaves = load_file(tmp_path / "out/params.safetensors")
    assert f"{len(leaves)} tensors, without params/classifier/" in said
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert manifest["source_files"] == {source.name: {"sha256": digest, "size": source.stat().st_size}}
    assert manifest["origins"]["batch_stats/blocks_3/expand_bn/var"] == "blocks.2.0.bn1.running_var"
    assert manifest["skipped"] == ["params/classifier/bias", "params/classifier/kernel"]
    assert manifest["pixels"]["mean"] == [123.675, 116.28, 103.53]
    assert manifest["pixels"]["preprocess"] == "v1"
    assert "config.data.std = (58.395, 57.12, 57.375)" in (tmp_path / "out/README.md").read_text()
    assert '"skip": ("^params/classifier/",)' in (tmp_path / "out/README.md").read_text()

    specs = abstract_variables(create_model(name, num_classes=3))
    fresh = unflatten({name: jnp.zeros(spec.shape) for name, spec in specs.items()})
    rules = InitFrom(path=str(tmp_path / "out"), skip=("^params/classifier/",))
    filled, report = warm_start(fresh, rules)
    assert set(report.loaded) == set(leaves)
    assert not report.unused
    kernel = filled["params"]["blocks_6"]["depthwise_conv"]["kernel"]
    wanted = load_file(source)["blocks.3.1.conv_dw.weight"]
    np.testing.assert_array_equal(kernel[:, :, 0, :], wanted[:, 0].transpose(1, 2, 0))

    with pytest.raises(UserError, match="exists already"):
        run([*arguments, "--new-head"])
    assert run([*arguments, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"] == 7_200_312


def test_a_failed_import_leaves_nothing(published, tmp_path):
    shutil.copytree(GOLDEN / "automl_tiny", tmp_path / "in")
    with pytest.raises(UserError, match="not the weights of this model"):
        import_weights("efficientnet_v2_b0", tmp_path / "in", tmp_path / "out", "automl")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
