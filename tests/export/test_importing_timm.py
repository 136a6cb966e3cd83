"""CoAtNet and ResNet against timm: logits, gradients, and the way back into its names.

Reference numbers are made by tools/golden/timm_models.py.
"""

import functools
import json
import math
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from offsites_jax import weights
from offsites_jax.cli.main import run
from offsites_jax.errors import UserError
from offsites_jax.export.importers.coatnet import TIMM_PAPER
from offsites_jax.export.timm import timm_tensors
from offsites_jax.models.registry import create_model
from offsites_jax.models.stacked import stack_blocks
from offsites_jax.nn.relative_tables import resize_table
from offsites_jax.train.state import flatten

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden/timm_models.json").read_text())
SMALL = {
    "coatnet": {
        "stages": ("c1_d32", "c2_d64", "t2_d96", "t2_d128"),
        "stem_widths": (16, 32),
        "num_classes": 10,
    },
    "resnet": {"depths": (1, 2, 1, 1), "num_classes": 10},
}
PAPER = "small/coatnet_0"


def drawn(name, shape):
    """One tensor, from a generator seeded by its name; scales and variances are around 1."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rsplit(".", 1)[-1]
    if leaf in ("gamma", "running_var") or (leaf == "weight" and len(shape) == 1):
        values = draw.uniform(0.5, 1.5, shape)
    elif leaf == "relative_position_bias_table":
        values = draw.standard_normal(shape)
    elif len(shape) == 1:
        values = 0.1 * draw.standard_normal(shape)
    else:
        values = draw.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    return values.astype(np.float32)


def images_of(count, size):
    """The images of the reference."""
    draw = np.random.default_rng(7)
    coarse = draw.standard_normal((count, size[0] // 32, size[1] // 32, 3)).repeat(32, 1).repeat(32, 2)
    return (coarse + draw.standard_normal((count, *size, 3))).astype(np.float32)


def state_dict(golden):
    """The tensors of the reference."""
    tensors = {name: np.asarray(drawn(name, shape)) for name, shape in golden["shapes"].items() if shape}
    for layer, scale in golden["scales"].items():
        tensors[f"{layer}.running_var"] *= np.float32(scale)
    return tensors


def settings_of(name):
    family = "resnet" if "resnet" in name else "coatnet"
    settings = dict(SMALL[family]) if name.startswith("small/") else {}
    if family == "coatnet" and not name.endswith(("_224", "_384")):
        settings |= TIMM_PAPER
    if name == PAPER:
        settings["table_image_size"] = GOLDEN[name]["size"]
    return settings


def load(name, folder, **changes):
    """Model and variables of a reference, through a file as timm publishes it."""
    file = folder / "published.safetensors"
    counters = {n: np.asarray(np.int64(0)) for n, shape in GOLDEN[name]["shapes"].items() if not shape}
    save_file(state_dict(GOLDEN[name]) | counters, file)
    ours, settings = name.removeprefix("small/"), settings_of(name) | changes
    return create_model(ours, **settings), weights.load(ours, file, source="timm", **settings)


@functools.cache
def forward(model):
    return jax.jit(functools.partial(model.apply, train=False))


def logits_of(model, variables, name):
    return np.asarray(forward(model)(variables, images_of(2, GOLDEN[name]["size"])))


def distance(logits, name):
    """Largest difference from the reference, as a share of what tells its two images apart."""
    golden = GOLDEN[name]
    return np.abs(logits[:, :4] - golden["logits"]).max() / golden["spread"]


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_are_those_of_timm(name, tmp_path):
    model, variables = load(name, tmp_path)
    if name == "coatnet_1":  # the deepest, as a loop over its equal blocks
        model = model.clone(scan=True)
        images = jax.ShapeDtypeStruct((1, *GOLDEN[name]["size"], 3), jnp.float32)
        like = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
        variables = stack_blocks(variables, like)
    logits = logits_of(model, variables, name)
    assert logits.shape == (2, model.num_classes)
    np.testing.assert_allclose(np.abs(logits).max(), GOLDEN[name]["largest"], rtol=2e-5)
    assert distance(logits, name) < 2e-5


@pytest.mark.parametrize(
    "change",
    [
        {"pool_type": "avg2"},
        {"padding": "same"},
        {"norm": {"epsilon": 1e-3}},
        {"attention": {"activation": "gelu_tanh"}},
    ],
    ids=str,
)
def test_every_other_setting_shows(change, tmp_path):
    _, variables = load(PAPER, tmp_path)
    other = create_model("coatnet_0", **(settings_of(PAPER) | change))
    assert distance(logits_of(other, variables, PAPER), PAPER) > 1e-4


def test_orientation_of_the_biases_shows(tmp_path):
    model, variables = load(PAPER, tmp_path)
    for axis in (1, 2):
        leaves = flatten(variables)
        for path, leaf in leaves.items():
            if path.endswith("/relative_bias"):
                leaves[path] = np.flip(leaf, axis)
        flipped = jax.tree.unflatten(jax.tree.structure(variables), list(leaves.values()))
        assert distance(logits_of(model, flipped, PAPER), PAPER) > 1e-2


def test_gradients_of_a_training_step_are_those_of_timm(tmp_path):
    golden = GOLDEN[PAPER]
    model, variables = load(PAPER, tmp_path, stochastic_depth_rate=0.0)
    images, labels = images_of(4, golden["size"]), jnp.arange(4)

    @jax.jit
    @jax.value_and_grad
    def step(params):
        stats = {"batch_stats": variables["batch_stats"]}
        logits, _ = model.apply({"params": params, **stats}, images, train=True, mutable="batch_stats")
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, gradients = step(variables["params"])
    assert loss == pytest.approx(golden["loss"], rel=1e-5)
    there = timm_tensors(model, {"params": gradients, "batch_stats": variables["batch_stats"]})
    norms = {name: np.linalg.norm(there[name]) for name in golden["gradient_norms"]}
    # In front of a batch norm with batch statistics a bias has no gradient but rounding.
    floor = 1e-6 * max(golden["gradient_norms"].values())
    assert norms == pytest.approx(golden["gradient_norms"], rel=1e-3, abs=floor)


@pytest.mark.parametrize("name", [PAPER, "small/coatnet_rmlp_2_rw_224", "small/resnet_50"])
def test_names_of_timm_and_back(name, tmp_path):
    model, variables = load(name, tmp_path)
    there, wanted = timm_tensors(model, variables), state_dict(GOLDEN[name])
    assert set(there) == set(wanted)
    for tensor, value in wanted.items():
        np.testing.assert_array_equal(there[tensor], value, err_msg=tensor)


def test_an_import_for_images_of_another_size(tmp_path, capsys):
    tensors, file, output = state_dict(GOLDEN["coatnet_0"]), tmp_path / "w.safetensors", tmp_path / "out"
    save_file(tensors, file)
    arguments = ["import", "coatnet_0", str(file), "--from", "timm", "--output", str(output)]
    assert run([*arguments, "--image-size", "96", "--new-head"]) == 0
    assert "without params/head/logits/" in capsys.readouterr().out
    applied = json.loads((output / "manifest.json").read_text())["settings"]
    assert applied == TIMM_PAPER
    assert f"config.model.overrides.update({dict(TIMM_PAPER)})" in (output / "README.md").read_text()
    found = load_file(output / "params.safetensors")["params/stage_3/block_2/attn/relative_bias"]
    table = tensors["stages.2.blocks.2.attn.rel_pos.relative_position_bias_table"]
    expected = resize_table(jnp.asarray(table.T.reshape(-1, 7, 7)), (6, 6))
    np.testing.assert_array_equal(found, expected)


def test_what_cannot_be_imported(tmp_path):
    file = tmp_path / "w.safetensors"
    tensors = state_dict(GOLDEN[PAPER])
    settings = settings_of(PAPER)
    save_file(tensors, file)
    table = "stages.2.blocks.0.attn.rel_pos.relative_position_bias_table"
    with pytest.raises(UserError, match=f"{table} is for maps that are not square.*table_image_size"):
        weights.load("coatnet_0", file, **(settings | {"table_image_size": ()}))
    with pytest.raises(UserError, match="20 missing"):
        weights.load("coatnet_0", file, **(settings | {"stages": ("c2_d32", *settings["stages"][1:])}))
    save_file(tensors | {"stages.0.blocks.0.ls.gamma": np.ones(3, np.float32)}, file)
    with pytest.raises(UserError, match=r"1 unknown \(stages.0.blocks.0.ls.gamma\)"):
        weights.load("coatnet_0", file, **settings)
    save_file(state_dict(GOLDEN["small/resnet_50"]), file)
    with pytest.raises(UserError, match="--image-size: the weights of ResNet serve images of any size"):
        weights.load("resnet_50", file, image_size=96, **SMALL["resnet"])
