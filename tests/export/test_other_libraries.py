"""Folders that Keras and TensorFlow load; tools/checks/other_libraries.py lets them."""

import functools
import json
import pathlib

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax import weights
from offsites_jax.errors import UserError
from offsites_jax.export.bundle_file import write_bundle
from offsites_jax.export.importers.bundle import read_bundle
from offsites_jax.export.inference import Inference
from offsites_jax.export.keras import keras_network
from offsites_jax.export.write import write_folder
from offsites_jax.models.registry import create_model
from offsites_jax.train.state import flatten

GOLDEN = pathlib.Path(__file__).parent / "golden"
FACTS = {"project": "toy", "config": {}, "step": 1, "params": "raw", "metrics": {}}
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


def variables_of(model, channels=3):
    """Drawn leaves of the model's shapes."""
    images = jnp.zeros((1, 32, 32, channels))
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: draw.uniform(0.1, 0.5, leaf.shape).astype(leaf.dtype), shapes)


def export(model, variables, folder, form):
    def predict(variables, batch):  # of the numbers read back, without a network to compile
        return {"sum": batch["image"].sum() + variables["params"]["classifier"]["bias"].sum()}

    def input_spec(rows):
        return {"image": jax.ShapeDtypeStruct((rows, 32, 32, 3), jnp.float32)}

    inference = Inference(predict, variables, input_spec, model=model, batch=1)
    return write_folder(inference, folder, format=form, facts=FACTS)


def assert_equal(found, variables):
    found, wanted = flatten(found), flatten(variables)
    assert set(found) == set(wanted)
    for name, leaf in wanted.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)


def texts(attribute):
    """Names in an attribute, which some versions of h5py give as bytes."""
    return [name.decode() if isinstance(name, bytes) else str(name) for name in attribute]


@pytest.mark.parametrize("name", ["efficientnet_v2_b0", "efficientnet_b0"])
def test_layers_of_keras_applications_in_their_order(name, tmp_path):
    model = create_model(name)
    variables = variables_of(model)
    export(model, variables, tmp_path / "out", "keras")
    golden = json.loads((GOLDEN / f"keras_{name}.json").read_text())["shapes"]
    with h5py.File(tmp_path / "out/model.h5") as file:
        layers = texts(file.attrs["layer_names"])
        found = {
            (layer, weight.removesuffix(":0").rpartition("/")[2]): list(file[layer][weight].shape)
            for layer in layers
            for weight in texts(file[layer].attrs["weight_names"])
        }
    assert list(found.items()) == [(tuple(path.split("/")), shape) for path, shape in golden.items()]
    assert_equal(weights.load(name, tmp_path / "out/model.h5", source="keras"), variables)
    network = json.loads((tmp_path / "out/keras.json").read_text())
    assert network == keras_network(model, 3)
    assert 'model.load_weights("model.h5")' in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    ("name", "settings", "channels", "function", "arguments"),
    [
        ("efficientnet_v2_s", {}, 3, "EfficientNetV2S", {"input_shape": [384, 384, 3], "classes": 1000}),
        ("efficientnet_v2_b3", {"num_classes": 7}, 1, "EfficientNetV2B3", {"input_shape": [300, 300, 1]}),
        ("efficientnet_b7", {"num_classes": 0}, 3, "EfficientNetB7", {"include_top": False}),
    ],
)
def test_functions_of_keras_applications(name, settings, channels, function, arguments):
    found = keras_network(create_model(name, **settings), channels)
    assert found["function"] == function
    assert found["arguments"].items() >= {"weights": None, **arguments}.items()
    assert ("include_preprocessing" in found["arguments"]) == ("_v2_" in name)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("efficientnet_v2_xl", {}, "no efficientnet_v2_xl"),
        ("efficientnet_b0", {"depth": 2.5}, "no EfficientNet of these blocks"),
    ],
)
def test_what_keras_does_not_have(name, settings, message):
    with pytest.raises(UserError, match=f"--format keras: keras.applications has {message}"):
        keras_network(create_model(name, **settings), 3)


@pytest.mark.parametrize("form", ["keras", "automl"])
def test_other_families_are_refused(form, tmp_path):
    model = create_model("resnet_10")
    with pytest.raises(UserError, match=f"--format {form}: knows EfficientNet, not ResNet"):
        export(model, variables_of(model), tmp_path / "out", form)


def test_a_checkpoint_under_the_names_of_google_automl(tmp_path):
    model = create_model("efficientnet_v2_b0", **TINY)
    variables = variables_of(model)
    report = export(model, variables, tmp_path / "out", "automl")
    assert report.max_abs_diff == 0
    for params in ("ema", "raw"):
        found = weights.load("efficientnet_v2_b0", tmp_path / "out", "automl", params=params, **TINY)
        assert_equal(found, variables)
    theirs = read_bundle(GOLDEN / "automl_tiny/model.ckpt-12345").shapes
    ours = read_bundle(tmp_path / "out/model.ckpt").shapes
    rest = {name for name in theirs if "/RMSProp" in name or "/Momentum" in name} | {"global_step"}
    plain = {name.partition("/")[2]: shape for name, shape in ours.items()}
    assert plain == {name.partition("/")[2]: theirs[name] for name in set(theirs) - rest}
    data = tmp_path / "out/model.ckpt.data-00000-of-00001"
    assert data.stat().st_size == 4 * sum(leaf.size for leaf in flatten(variables).values())


def test_a_published_network_has_its_scope_of_google_automl(tmp_path):
    for name, scope in (("efficientnet_v2_b0", "efficientnetv2-b0"), ("efficientnet_b0", "efficientnet-b0")):
        model = create_model(name, num_classes=3)
        export(model, variables_of(model), tmp_path / name, "automl")
        names = read_bundle(tmp_path / name / "model.ckpt").shapes
        assert {tensor.partition("/")[0] for tensor in names} == {scope}


def test_tensors_of_all_types_are_read_as_they_were_written(tmp_path):
    """Those of a checkpoint that TensorFlow wrote, and names longer than a byte can count."""
    there = read_bundle(GOLDEN / "numbers")
    tensors = {name: there.read(name) for name in there.shapes if name not in ("first/text", "sliced")}
    tensors |= {"z" * 300: np.arange(5, dtype=np.int32), "a": np.zeros((2, 0, 3), np.float32)}
    write_bundle(tmp_path / "model.ckpt", tensors, {"a": "b"})
    found = read_bundle(tmp_path / "model.ckpt")
    assert list(found.shapes) == sorted([*tensors, "b"])
    for name, tensor in tensors.items():
        again = found.read(name)
        assert (again.dtype, again.shape, again.tobytes()) == (tensor.dtype, tensor.shape, tensor.tobytes())
    assert (tmp_path / "checkpoint").read_text() == 'model_checkpoint_path: "model.ckpt"\n'
