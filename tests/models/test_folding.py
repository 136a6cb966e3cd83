"""A folded network computes what the network did: statistics and all other leaves drawn, none at rest."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from offsites_jax.models.folding import PAIRS, fold
from offsites_jax.models.registry import create_model
from offsites_jax.models.stacked import stack_blocks
from offsites_jax.nn.norm import BatchNorm

EFFICIENTNET = {
    "blocks": (
        "r2_k3_s1_e1_i8_o8_c1",
        "r2_k3_s2_e4_i8_o16_c1",
        "r1_k5_s1_e1_i16_o16_se0.25",
        "r2_k3_s2_e4_i16_o24_se0.25",
    ),
    "head_width": 32,
}
COATNET = {"stages": ("c2_d8", "t3_d16"), "stem_widths": (8, 8), "attention": {"head_size": 8}}
RESNET = {"depths": (2, 1), "width": 8}


def drawn(model, images):
    """Leaves at random, with variances from a tenth to ten, and kernels that keep signals alive."""
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name == "var":
            return np.exp(rng.uniform(-2, 2, leaf.shape)).astype(leaf.dtype)
        if name == "kernel":
            return (rng.standard_normal(leaf.shape) * 1.4 / np.sqrt(np.prod(leaf.shape[:-1]))).astype(
                leaf.dtype
            )
        return rng.standard_normal(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def check(model, size=(32, 32)):
    """Folds a model with drawn leaves; the leaves of the folded form by flat name."""
    images = jax.random.normal(jax.random.key(1), (2, *size, 3))
    variables = drawn(model, images)

    def predict(variables, batch):
        return model.apply(variables, batch, train=False, method="endpoints")

    served, folded = fold(predict, variables, jax.ShapeDtypeStruct(images.shape, images.dtype))
    wanted, found = jax.jit(predict)(variables, images), jax.jit(served)(folded, images)
    assert set(found) == set(wanted)
    for name in wanted:
        scale = np.abs(wanted[name]).max()
        assert scale > 1e-2
        assert np.abs(found[name] - wanted[name]).max() <= 5e-5 * scale, name
    return traverse_util.flatten_dict(folded, sep="/")


def norms(leaves):
    return {path.rpartition("/")[0] for path in leaves if path.endswith("/scale")}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("efficientnet_v2_b0", EFFICIENTNET), ("efficientnet_b0", EFFICIENTNET), ("resnet_50", RESNET)],
)
def test_nothing_is_left_of_norms_behind_convolutions(name, settings):
    leaves = check(create_model(name, num_classes=7, **settings))
    assert all(path.endswith(("kernel", "bias")) and path.startswith("params/") for path in leaves)
    assert not [path for path in leaves if "bn" in path]


@pytest.mark.parametrize(("scan", "size"), [(False, (32, 24)), (True, (32, 32))])
def test_coatnet(scan, size):
    """Norms in front of 1x1 convolutions go too; biases are written out for each pair of pixels."""
    leaves = check(create_model("coatnet_0", num_classes=7, scan=scan, **COATNET), size)
    assert not [path for path in leaves if path.startswith("batch_stats")]
    assert all(
        "attn_norm" in path or "ffn_norm" in path or path == "params/head/norm" for path in norms(leaves)
    )
    pairs = {path: leaf.shape for path, leaf in leaves.items() if path.endswith(PAIRS)}
    pixels = (size[0] // 8) * (size[1] // 8)
    assert len(pairs) == (2 if scan else 3)
    assert {shape[-3:] for shape in pairs.values()} == {(2, pixels, pixels)}
    assert not [path for path in leaves if "relative_bias" in path]


@pytest.mark.parametrize(
    ("name", "settings", "kept"),
    [
        # A pooling, an activation and a gate stand in the way.
        ("coatnet_nano_rw_224", {"conv": {"downsample": "pool"}}, {"block_0/pre_norm"}),
        ("coatnet_1_rw_224", {}, {"pre_norm", "depthwise_norm"}),
        ("coatnet_bn_0_rw_224", {}, {"pre_norm", "depthwise_norm", "attn_norm", "head/norm"}),
        ("coatnet_rmlp_0_rw_224", {"attention": {"head_size": 8, "mlp_width": 4}}, {"pre_norm"}),
        ("coatnet_0", {"stem_bias": True, "table_image_size": (32, 48)}, set()),
    ],
)
def test_variants_of_coatnet(name, settings, kept):
    leaves = check(create_model(name, num_classes=7, **(COATNET | settings)))
    layer_norms = {"attn_norm", "ffn_norm", "head/norm"}
    for path in norms(leaves):
        assert path.endswith(tuple(kept | layer_norms)), path
    assert all(any(path.endswith(end) for path in norms(leaves)) for end in kept)
    assert not [path for path in leaves if path.startswith("batch_stats") or "rel_mlp" in path]


def test_kernel_and_bias_in_closed_form():
    """One norm behind a convolution with a bias, one in front of a dense layer, in NumPy float64."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = BatchNorm(name="first_norm")(nn.Conv(4, (3, 3), name="conv")(x), True)
            return nn.Dense(5, name="dense")(BatchNorm(name="second_norm")(nn.relu(x), True))

    x = jax.random.normal(jax.random.key(0), (1, 5, 5, 3))
    shapes = jax.eval_shape(Net().init, jax.random.key(0), x)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.5, 2, leaf.shape).astype(np.float32), shapes)
    _, folded = fold(Net().apply, variables, x)
    params, stats = variables["params"], variables["batch_stats"]
    scale, shift = {}, {}
    for name in ("first_norm", "second_norm"):
        deviation = np.sqrt(stats[name]["var"].astype(float) + 1e-3)
        scale[name] = params[name]["scale"] / deviation
        shift[name] = params[name]["bias"] - stats[name]["mean"] * scale[name]
    conv, dense = params["conv"], params["dense"]
    wanted = {
        "conv": {
            "kernel": conv["kernel"] * scale["first_norm"],
            "bias": conv["bias"] * scale["first_norm"] + shift["first_norm"],
        },
        "dense": {
            "kernel": scale["second_norm"][:, None] * dense["kernel"],
            "bias": shift["second_norm"] @ dense["kernel"] + dense["bias"],
        },
    }
    assert set(folded) == {"params"}
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), folded["params"], wanted)


def apply_and_check(module, x):
    variables = module.init(jax.random.key(0), x)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.5, 2, leaf.shape).astype(np.float32), variables)
    served, folded = fold(module.apply, variables, x)
    np.testing.assert_allclose(served(folded, x), module.apply(variables, x), rtol=1e-5)
    return traverse_util.flatten_dict(folded, sep="/")


def test_layers_with_several_neighbours_stay():
    """Heads share a convolution among levels that have norms of their own; a norm serves two convolutions."""

    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x):
            conv = nn.Conv(4, (1, 1), name="conv")
            return sum(BatchNorm(name=f"norm_{i}")(conv(x * i), True) for i in (1, 2))

    class Split(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = BatchNorm(name="norm")(x, True)
            return nn.Conv(4, (1, 1), name="left")(x) + nn.Conv(4, (1, 1), name="right")(x)

    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    assert norms(apply_and_check(Shared(), x)) == {"params/norm_1", "params/norm_2"}
    assert norms(apply_and_check(Split(), x)) == {"params/norm"}


def test_a_norm_stays_in_front_of_a_padded_window_and_of_groups():
    class Net(nn.Module):
        window: int
        groups: int

        @nn.compact
        def __call__(self, x):
            x = BatchNorm(name="norm")(x, True)
            return nn.Conv(4, (self.window,) * 2, feature_group_count=self.groups, name="conv")(x)

    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))
    for window, groups, kept in ((3, 1, 1), (1, 2, 1), (1, 1, 0)):
        assert len(norms(apply_and_check(Net(window, groups), x))) == kept


def test_variables_that_lie_elsewhere_are_left_alone():
    """A system of two networks hands each its own part of the tree; their paths are not those of the tree."""
    conv = create_model("resnet_50", depths=(1,), width=8, num_classes=3)
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    inner = drawn(conv, x)
    variables = {kind: {"net": leaves} for kind, leaves in inner.items()}

    def predict(variables, batch):
        return conv.apply({kind: leaves["net"] for kind, leaves in variables.items()}, batch, train=False)

    served, folded = fold(predict, variables, x)
    jax.tree.map(np.testing.assert_array_equal, folded, variables)
    np.testing.assert_array_equal(served(folded, x), predict(variables, x))


def test_types_of_what_leaves_a_layer_stay():
    model = create_model("coatnet_0", num_classes=7, dtype=jnp.bfloat16, **COATNET)
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    predict = functools.partial(model.apply, train=False, method="endpoints")
    variables = drawn(model, x)
    served, folded = fold(predict, variables, x)
    wanted, found = jax.eval_shape(predict, variables, x), jax.eval_shape(served, folded, x)
    assert {name: leaf.dtype for name, leaf in found.items()} == {
        name: leaf.dtype for name, leaf in wanted.items()
    }


def test_a_scanned_network_folds_to_what_its_blocks_do():
    """The same leaves, one by one or stacked."""
    plain = create_model("coatnet_0", num_classes=7, **COATNET)
    scanned = plain.clone(scan=True)
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    variables = drawn(plain, x)
    like = jax.eval_shape(functools.partial(scanned.init, train=False), jax.random.key(0), x)
    _, alone = fold(functools.partial(plain.apply, train=False), variables, x)
    _, stacked = fold(functools.partial(scanned.apply, train=False), stack_blocks(variables, like), x)
    jax.tree.map(np.testing.assert_array_equal, stack_blocks(alone, stacked), stacked)
