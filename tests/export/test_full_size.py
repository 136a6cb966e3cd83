"""Published networks at full width and depth against timm, through the importer.

Reference numbers are made by tools/golden/timm_full_size.py.
"""

import functools
import hashlib
import json
import math
import pathlib
import zlib

import jax
import numpy as np
import pytest

from offsites_jax.export.importers import coatnet, efficientnet
from offsites_jax.export.importers.mapping import fill
from offsites_jax.export.importers.settings import merged, unmet
from offsites_jax.export.importers.tensors import Tensors
from offsites_jax.models.registry import create_model
from offsites_jax.train.state import unflatten

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden/timm_full_size.json").read_text())
SMALL = {"stages": ("c1_d32", "c2_d64", "t2_d96", "t2_d128"), "stem_widths": (16, 32), "num_classes": 10}


def drawn(name, shape):
    """One tensor, from a generator seeded by its name; scales and variances are around 1."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
        return draw.uniform(0.5, 1.5, shape).astype(np.float32)
    values = draw.standard_normal(shape, np.float32)
    if leaf == "relative_position_bias_table":
        return values
    return values * np.float32(0.1 if len(shape) == 1 else math.sqrt(2 / math.prod(shape[1:])))


def images_of(size):
    """The images of the reference."""
    draw = np.random.default_rng(7)
    side = -(-size // 32)
    coarse = draw.standard_normal((2, side, side, 3)).repeat(32, 1).repeat(32, 2)[:, :size, :size]
    return (coarse + draw.standard_normal((2, size, size, 3))).astype(np.float32)


@functools.cache
def model_of(name):
    """Our network of that name, and the module that knows what others call its leaves."""
    if "coatnet" not in name:
        return create_model(name), efficientnet
    given = {"table_image_size": (GOLDEN[name]["size"],) * 2} | (SMALL if name.startswith("small/") else {})
    source = "timm_224" if name.startswith("small/") else "timm"
    ours = name.removeprefix("small/")
    needed = coatnet.settings_for(create_model(ours, **given), source)
    return create_model(ours, **merged(needed, given)), coatnet


@functools.cache
def tensors_of(name):
    """Shapes that the state dict must have for the network to be filled, and how it is."""
    model, family = model_of(name)
    wanted = family.abstract_variables(model)
    table = family.timm_names(model, wanted, (), "ema")
    shapes = {origin.name: origin.shape_there(wanted[path].shape) for path, origin in table.origins.items()}
    return shapes, wanted, table


@functools.cache
def variables_of(name):
    """The weights of the reference, as the importer fills them in."""
    shapes, wanted, table = tensors_of(name)
    tensors = {tensor: drawn(tensor, shape) for tensor, shape in shapes.items()}
    layers = sorted(key.removesuffix(".running_var") for key in tensors if key.endswith(".running_var"))
    for layer, scale in zip(layers, GOLDEN[name]["scales"], strict=True):
        tensors[f"{layer}.running_var"] *= np.float32(scale)
    return unflatten(fill(wanted, table, Tensors.of(tensors, pathlib.Path(name))).leaves)


@functools.cache
def compiled(name):
    model, _ = model_of(name)
    return jax.jit(functools.partial(model.apply, train=False, method="endpoints"))


def outputs_of(name, variables):
    return jax.device_get(compiled(name)(variables, images_of(GOLDEN[name]["size"])))


def distance(name, outputs):
    """Largest difference of logits from the reference, as a share of the largest logit."""
    golden = GOLDEN[name]
    return np.abs(outputs["logits"][:, :4] - golden["logits"]).max() / golden["largest"]


@pytest.mark.parametrize("name", GOLDEN)
def test_maps_and_logits_are_those_of_timm(name):
    golden = GOLDEN[name]
    rows = sorted(f"{tensor} {list(shape)}" for tensor, shape in tensors_of(name)[0].items())
    assert hashlib.sha256("\n".join(rows).encode()).hexdigest() == golden["layout"]
    outputs = outputs_of(name, variables_of(name))
    maps = [outputs[f"reduction_{halvings}"] for halvings in range(1, 6)]
    norms = [[np.linalg.norm(image) for image in images] for images in maps]
    np.testing.assert_allclose(norms, golden["maps"], rtol=1e-4)
    np.testing.assert_allclose(np.abs(outputs["logits"]).max(), golden["largest"], rtol=1e-4)
    assert distance(name, outputs) < 5e-5


def changed(name, leaf, change):
    """What the network gives where all leaves of a name are changed; nothing is compiled anew."""
    variables = jax.tree_util.tree_map_with_path(
        lambda path, value: change(value) if path[-1].key == leaf else value, variables_of(name)
    )
    return distance(name, outputs_of(name, variables))


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("name", ["coatnet_0", "coatnet_pico_rw_224"])
def test_relative_biases_turned_round_show(name, axis):
    assert changed(name, "relative_bias", lambda table: np.flip(table, axis)) > 1e-3


@pytest.mark.parametrize(
    ("name", "other"), [("efficientnet_v2_b0", 1e-5), ("efficientnet_b7", 1e-5), ("coatnet_0", 1e-3)]
)
def test_another_epsilon_shows(name, other):
    """A variance that is larger by the difference is the same as a larger epsilon."""
    own = model_of(name)[0].norm.epsilon
    assert changed(name, "var", lambda variance: variance + np.float32(other - own)) > 1e-4


def test_the_rule_of_90_percent_shows():
    """The first stage of B3 has 24 channels in the first generation, and 16 in the second."""
    kernel = "params/blocks_0/project_conv/kernel"
    shapes = {name: tensors_of(name)[1][kernel].shape for name in ("efficientnet_b3", "efficientnet_v2_b3")}
    assert shapes == {"efficientnet_b3": (1, 1, 40, 24), "efficientnet_v2_b3": (3, 3, 40, 16)}


def test_settings_that_weights_of_timm_need():
    own = create_model("coatnet_1_rw_224")
    assert coatnet.settings_for(own, "timm") == {}
    paper = create_model("coatnet_5")
    missing = unmet(paper, coatnet.settings_for(paper, "timm_224"))
    assert missing["padding"] == ("same", "symmetric")
    assert missing["attention.head_size"] == (64, 32)
    assert missing["norm.momentum"] == (0.99, 0.9)
    other = create_model("coatnet_5", **coatnet.settings_for(paper, "timm_224"))
    assert unmet(other, coatnet.settings_for(paper, "timm_224")) == {}
    assert other.conv.expand_ratio == paper.conv.expand_ratio


def test_what_is_given_comes_first():
    needed = {"padding": "symmetric", "conv": {"activation": "gelu", "downsample": "dw"}}
    given = {"padding": "same", "conv": {"activation": "silu"}, "num_classes": 3}
    assert merged(needed, given) == {
        "padding": "same",
        "conv": {"activation": "silu", "downsample": "dw"},
        "num_classes": 3,
    }
