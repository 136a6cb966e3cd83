"""ResNet: counts, shapes, logits and gradients of small ones; the importers test those with bottlenecks."""

import functools
import json
import math
import pathlib
import zlib

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from safetensors.numpy import save_file

from offsites_jax import weights
from offsites_jax.errors import UserError
from offsites_jax.models.counting import count_variables
from offsites_jax.models.registry import create_model
from offsites_jax.models.resnet import stem_for

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden/resnets.json").read_text())


def test_endpoints_of_an_odd_size():
    images = jax.ShapeDtypeStruct((1, 171, 224, 3), jnp.float32)
    call = functools.partial(create_model("resnet_50").init_with_output, train=False, method="endpoints")
    found, _ = jax.eval_shape(call, jax.random.key(0), images)
    assert {name: value.shape[1:] for name, value in found.items()} == {
        "reduction_1": (86, 112, 64),
        "reduction_2": (43, 56, 256),
        "reduction_3": (22, 28, 512),
        "reduction_4": (11, 14, 1024),
        "reduction_5": (6, 7, 2048),
        "features": (6, 7, 2048),
        "pooled": (2048,),
        "logits": (1000,),
    }


@pytest.mark.parametrize(
    ("name", "size", "settings", "count"),
    [
        ("resnet_18", 32, {"stem": "small"}, 11_168_832),
        ("resnet_18", 256, {}, 11_176_512),
        ("resnet_18", 32, {"stem": "small", "width": 16}, 709_536),
        ("resnet_50", 256, {}, 23_508_032),
    ],
)
def test_counts_without_a_classifier_are_those_of_tensorflow(name, size, settings, count):
    """google-research/deep_representation_one_class: the stem has 64 channels whatever the width."""
    assert count_variables(create_model(name, num_classes=0, **settings), size)["params"] == count


def test_endpoints_of_the_small_stem():
    images = jax.ShapeDtypeStruct((1, 32, 30, 3), jnp.float32)
    model = create_model("resnet_18", stem="small", width=8, num_classes=0)
    call = functools.partial(model.init_with_output, train=False, method="endpoints")
    found, variables = jax.eval_shape(call, jax.random.key(0), images)
    assert {name: value.shape[1:] for name, value in found.items()} == {
        "reduction_0": (32, 30, 8),
        "reduction_1": (16, 15, 16),
        "reduction_2": (8, 8, 32),
        "reduction_3": (4, 4, 64),
        "features": (4, 4, 64),
        "pooled": (64,),
    }
    blocks = variables["params"]["stage_1"]
    assert "shortcut_conv" in blocks["block_0"]  # 64 channels come in, 8 leave
    assert "shortcut_conv" not in blocks["block_1"]


def drawn(name, shape):
    """The tensor that the reference drew for a name; scales and variances are around 1."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        values = draw.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        values = 0.1 * draw.standard_normal(shape)
    else:
        values = draw.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    return values.astype(np.float32)


@pytest.mark.parametrize("stem", GOLDEN)
def test_logits_and_gradients_are_those_of_torch(stem, tmp_path):
    golden = GOLDEN[stem]
    file = tmp_path / "published.safetensors"
    save_file({name: drawn(name, shape) for name, shape in golden["shapes"].items()}, file)
    settings = {"depths": tuple(golden["depths"]), "stem": golden["stem"], "num_classes": 5}
    variables = weights.load("resnet_18", file, source="timm", **settings)
    model = create_model("resnet_18", **settings)
    side = golden["side"]
    images = np.random.default_rng(7).standard_normal((4, side, side, 3)).astype(np.float32)

    @jax.jit
    def run(variables):
        def loss(params):
            logits, _ = model.apply(
                {**variables, "params": params}, images, train=True, mutable="batch_stats"
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(4)).mean()

        logits = model.apply(variables, images, train=False)
        return logits, *jax.value_and_grad(loss)(variables["params"])

    logits, loss, gradients = run(variables)
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-4 * np.abs(golden["logits"]).max())
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-4)
    norms = sorted(float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(gradients))
    np.testing.assert_allclose(norms, sorted(golden["gradient_norms"].values()), rtol=1e-3, atol=1e-5)


def test_kernels_start_normal_or_cut_at_two_deviations():
    def kernel(init):
        model = create_model("resnet_10", depths=(1,), kernel_init=init, num_classes=0)
        init = jax.jit(functools.partial(model.init, train=False))
        variables = init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        found = flax.traverse_util.flatten_dict(variables["params"])[
            ("stage_1", "block_0", "conv_1", "kernel")
        ]
        return np.asarray(found).ravel() / math.sqrt(2 / (9 * 64))

    normal, cut = kernel("normal"), kernel("truncated_normal")
    for values in (normal, cut):
        np.testing.assert_allclose([values.mean(), values.std()], [0, 1], atol=0.02)
    assert np.abs(normal).max() > 3
    limit = 2 / scipy.stats.truncnorm.std(-2, 2)
    assert 0.99 * limit < np.abs(cut).max() <= 1.0001 * limit


def test_the_stem_goes_by_the_size_of_the_images():
    assert [stem_for(size) for size in (32, 64, 65, 256)] == ["small", "small", "large", "large"]


def test_rematerialised_blocks_have_the_same_gradients():
    def model(remat):
        settings = {"depths": (1, 1), "width": 4, "stem": "small", "stem_width": 4, "num_classes": 3}
        return create_model("resnet_50", remat=remat, **settings)

    rng = np.random.default_rng(1)
    x = rng.standard_normal((8, 8, 8, 3)).astype(np.float32)
    shapes = jax.eval_shape(functools.partial(model(False).init, train=False), jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: rng.uniform(-0.5, 1, leaf.shape).astype(np.float32), shapes)

    def gradients(remat):
        def loss(params):
            given = variables | {"params": params}
            logits, _ = model(remat).apply(given, x, train=True, mutable="batch_stats")
            return jnp.sum(logits**2)

        return jax.jit(jax.grad(loss))(variables["params"])

    chex.assert_trees_all_close(gradients(True), gradients(False), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"depths": (3, 0)}, "each stage needs at least one block"),
        ({"dropout_rate": 1.0}, "dropout_rate"),
        ({"stem": "tiny"}, "model.stem is 'tiny': it must be large or small"),
        ({"block": "wide"}, "model.block is 'wide'"),
        ({"kernel_init": "zeros"}, "model.kernel_init is 'zeros'"),
        ({"width": 0}, "model.width is 0"),
    ],
)
def test_settings_that_cannot_be(overrides, message):
    with pytest.raises(UserError, match=message):
        create_model("resnet_50", **overrides)
