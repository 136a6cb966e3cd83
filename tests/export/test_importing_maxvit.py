"""CoAtNets in checkpoints of google-research/maxvit.

The reference is made by tools/golden/maxvit_checkpoint.py, with TensorFlow's own operations.
"""

import functools
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from offsites_jax import weights
from offsites_jax.cli.main import run
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.export.importers.bundle import read_bundle
from offsites_jax.export.importing import read
from offsites_jax.models.coatnet_blocks import AttentionSettings
from offsites_jax.models.coatnet_variants import VARIANTS
from offsites_jax.models.registry import create_model
from offsites_jax.train.state import flatten, unflatten

GOLDEN = pathlib.Path(__file__).parent / "golden/maxvit_tiny"
IMAGES = np.random.default_rng(7).standard_normal((2, 32, 48, 3)).astype(np.float32)
TINY = {
    "stages": ("c1_d16", "t2_d24"),
    "stem_widths": (8, 8),
    "attention": {"head_size": 8},
    "num_classes": 5,
}


@functools.cache
def forward():
    model = create_model("coatnet_0", stem_bias=True, **TINY)
    return jax.jit(functools.partial(model.apply, train=False))


def logits_of(variables):
    return forward()(variables, IMAGES)


@pytest.fixture(scope="module")
def variables():
    return weights.load("coatnet_0", GOLDEN, source="maxvit", **TINY)


def test_logits_are_those_of_the_reference(variables):
    """Maps of 4 x 6 pixels: an axis of a table left as it is, or taken for the other, shows."""
    expected = np.array(json.loads((GOLDEN / "logits.json").read_text()))
    np.testing.assert_allclose(logits_of(variables), expected, atol=2e-5 * np.abs(expected).max())
    for axis in (1, 2):
        leaves = flatten(variables)
        leaves |= {name: np.flip(leaf, axis) for name, leaf in leaves.items() if "relative_bias" in name}
        assert np.abs(logits_of(unflatten(leaves)) - expected).max() > 1e-3 * np.abs(expected).max()


def test_tables_turn_round_on_both_axes(variables):
    tensors = read_bundle(GOLDEN / "model.ckpt-12345")
    name = "maxvit/block_01_01/attention/relative_bias/ExponentialMovingAverage"
    found = variables["params"]["stage_2"]["block_1"]["attn"]["relative_bias"]
    assert found.shape == (3, 7, 11)
    np.testing.assert_array_equal(found, tensors.read(name)[:, ::-1, ::-1])


def test_raw_values(variables):
    """In the file they are half of the averages."""
    raw = weights.load("coatnet_0", GOLDEN, source="maxvit", params="raw", **TINY)
    averaged = flatten(variables)
    for name, leaf in flatten(raw).items():
        np.testing.assert_array_equal(2 * leaf, averaged[name], err_msg=name)


def test_every_leaf_comes_from_one_tensor():
    model = create_model("coatnet_0", stem_bias=True, **TINY)
    filled, _ = read(model, GOLDEN, "maxvit")
    names = [name for name in read_bundle(GOLDEN / "model.ckpt-12345").shapes if name.endswith("Average")]
    assert sorted(filled.origins.values()) == sorted(names)


def test_another_network_is_refused():
    with pytest.raises(UserError, match=r"missing \(.*block_02_00"):
        weights.load(
            "coatnet_0", GOLDEN, source="maxvit", **(TINY | {"stages": ("c1_d16", "t2_d24", "t1_d24")})
        )
    with pytest.raises(UserError, match=r"unknown .*conv_0/bias"):
        weights.load("coatnet_0", GOLDEN, source="maxvit", stem_bias=False, **TINY)
    with pytest.raises(UserError, match="google-research/maxvit has no such CoAtNet"):
        weights.load("coatnet_0", GOLDEN, source="maxvit", patch_size=16, **TINY)
    with pytest.raises(UserError, match=r"block_00_00/\S+ is \[.* needs"):
        weights.load("coatnet_0", GOLDEN, source="maxvit", **(TINY | {"stem_widths": (8, 24)}))


def test_damage_is_found(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "in")
    data = tmp_path / "in/model.ckpt-12345.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1000])
    with pytest.raises(DamagedDataError, match="ends inside tensor"):
        weights.load("coatnet_0", tmp_path / "in", source="maxvit", **TINY)


def test_import_from_the_command_line(tmp_path, monkeypatch, capsys):
    """The folder says which setting the network needs."""
    settings = TINY | {"attention": AttentionSettings(head_size=8)}
    monkeypatch.setitem(VARIANTS, "coatnet_0", (settings, 32))
    output = tmp_path / "out"
    command = ["import", "--from", "maxvit", "coatnet_0", str(GOLDEN), "--output", str(output)]
    assert run([*command, "--classes", "5"]) == 0
    assert "coatnet_0 from maxvit" in capsys.readouterr().out
    assert "config.model.overrides.update({'stem_bias': True})" in (output / "README.md").read_text()
    assert "params/stem/conv_0/bias" in load_file(output / "params.safetensors")
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["settings"] == {"stem_bias": True, "num_classes": 5}
