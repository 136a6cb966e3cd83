"""EfficientNets against Keras, against themselves on a mesh, and what they hand out."""

import functools
import math
import re
import zlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.errors import UserError
from offsites_jax.models.efficientnet import variant
from offsites_jax.models.registry import create_model
from offsites_jax.parallel.flops import count_flops

TINY = ("r1_k3_s1_e1_i8_o8_c1", "r2_k3_s2_e4_i8_o16_c1", "r2_k3_s2_e4_i16_o24_se0.25")
IMAGES = (16, 16, 16, 1)


def tiny(**overrides):
    settings = {"blocks": TINY, "head_width": 32, "num_classes": 5}
    return create_model("efficientnet_v2_b0", **(settings | overrides))


@functools.cache
def tiny_variables():
    return jax.jit(lambda x: tiny().init(jax.random.key(0), x, train=False))(jnp.zeros(IMAGES))


def images():
    return jax.random.normal(jax.random.key(1), IMAGES)


def logits_in_training(model, variables, x, seed=2):
    y, _ = model.apply(
        variables, x, train=True, rngs={"dropout": jax.random.key(seed)}, mutable="batch_stats"
    )
    return y


def shapes_of_endpoints(model, shape):
    """Shapes that one example of the given size has at every endpoint, channels last."""
    found = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False, method="endpoints")[0],
        jax.ShapeDtypeStruct((1, *shape), jnp.float32),
    )
    return {name: value.shape[1:] for name, value in found.items()}


def test_endpoints_of_an_odd_size():
    assert shapes_of_endpoints(create_model("efficientnet_v2_b0"), (171, 185, 3)) == {
        "reduction_1": (86, 93, 16),
        "reduction_2": (43, 47, 32),
        "reduction_3": (22, 24, 48),
        "reduction_4": (11, 12, 112),
        "reduction_5": (6, 6, 192),
        "features": (6, 6, 1280),
        "pooled": (1280,),
        "logits": (1000,),
    }


def test_endpoints_of_the_first_generation_scale_with_width():
    shapes = shapes_of_endpoints(create_model("efficientnet_b3", num_classes=0), (300, 300, 3))
    assert shapes == {
        "reduction_1": (150, 150, 24),
        "reduction_2": (75, 75, 32),
        "reduction_3": (38, 38, 48),
        "reduction_4": (19, 19, 136),
        "reduction_5": (10, 10, 384),
        "features": (10, 10, 1536),
        "pooled": (1536,),
    }


MULTIPLICATIONS = {  # in 1e9, at evaluation size; counted in timm's networks of the same layers
    "efficientnet_v2_b0": 0.718, "efficientnet_v2_b1": 1.197, "efficientnet_v2_b2": 1.698,
    "efficientnet_v2_b3": 3.011, "efficientnet_v2_s": 8.366, "efficientnet_v2_m": 24.58,
    "efficientnet_v2_l": 56.08, "efficientnet_v2_xl": 93.35,
    "efficientnet_b0": 0.386, "efficientnet_b1": 0.687, "efficientnet_b2": 0.994, "efficientnet_b3": 1.827,
    "efficientnet_b4": 4.394, "efficientnet_b5": 10.27, "efficientnet_b6": 19.07, "efficientnet_b7": 37.75,
    "efficientnet_b8": 62.60,
}  # fmt: skip


@pytest.mark.parametrize("name", MULTIPLICATIONS)
def test_multiplications_are_those_published(name):
    model, size = create_model(name), variant(name).eval_size
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    macs = count_flops(functools.partial(model.apply, train=False), variables, x) / 2e9
    assert macs == pytest.approx(MULTIPLICATIONS[name], rel=1e-3)


def test_without_classifier_the_output_is_the_pooled_features():
    model, x = tiny(num_classes=0), images()
    variables = {
        "params": {k: v for k, v in tiny_variables()["params"].items() if k != "classifier"},
        "batch_stats": tiny_variables()["batch_stats"],
    }

    @jax.jit
    def both(variables, x):
        endpoints = model.apply(variables, x, train=False, method="endpoints")
        return endpoints, model.apply(variables, x, train=False)

    found, output = both(variables, x)
    np.testing.assert_array_equal(output, found["pooled"])
    np.testing.assert_allclose(found["pooled"], found["features"].mean((1, 2)), rtol=1e-5)


def drawn(path, shape):
    """Draw the values of one array of the network from a generator seeded by its path."""
    draw = np.random.default_rng(zlib.crc32(path.encode()))
    leaf = path.rsplit("/", 1)[-1]
    if leaf in ("scale", "var"):
        return draw.uniform(0.5, 1.5, shape).astype(np.float32)
    if leaf in ("bias", "mean"):
        return (0.1 * draw.standard_normal(shape)).astype(np.float32)
    return (draw.standard_normal(shape) * math.sqrt(2 / math.prod(shape[:-1]))).astype(np.float32)


def test_logits_are_those_of_keras_applications():
    # keras 3.15.1, EfficientNetV2 with these stages, the same drawn weights, two images 37x50.
    expected = [
        [-30.04347610, -3.53011680, 12.50091267, -1.86799741, 7.30837774],
        [-28.17909431, 0.47296125, 19.08991814, 6.88160821, 4.76406384],
    ]
    model = create_model(
        "efficientnet_v2_b0",
        num_classes=5,
        blocks=(
            "r2_k3_s1_e1_i16_o16_c1",
            "r2_k3_s2_e4_i16_o24_c1",
            "r2_k5_s2_e4_i24_o32_se0.25",
            "r1_k3_s2_e6_i32_o40_se0.25",
            "r1_k3_s1_e1_i40_o40_se0.25",
        ),
    )
    x = np.random.default_rng(7).standard_normal((2, 37, 50, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: drawn("/".join(key.key for key in path[1:]), leaf.shape), shapes
    )
    logits = jax.jit(lambda variables, x: model.apply(variables, x, train=False))(variables, x)
    np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=2e-5)


def test_rematerialised_blocks_have_the_same_gradients():
    def gradients(model):
        def loss(params, stats, x):
            return jnp.sum(logits_in_training(model, {"params": params, "batch_stats": stats}, x) ** 2)

        variables = tiny_variables()
        return jax.jit(jax.grad(loss))(variables["params"], variables["batch_stats"], images())

    plain, remat = gradients(tiny()), gradients(tiny(remat=True))
    chex.assert_trees_all_close(remat, plain, rtol=1e-4, atol=1e-4)


def sharded(mesh, function):
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(function, in_shardings=(whole, split))


def make_mesh():
    return jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


@pytest.mark.parametrize("norm", [{"statistics": "global"}, {"statistics": "group", "group_size": 2}])
def test_a_sharded_batch_gives_the_same_logits(norm):
    apply = functools.partial(logits_in_training, tiny(norm=norm))
    variables, x, mesh = tiny_variables(), images(), make_mesh()
    expected = jax.jit(apply)(variables, x)
    with jax.set_mesh(mesh):
        logits = sharded(mesh, apply)(variables, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", [{"statistics": "device"}, {"statistics": "group", "group_size": 2}])
def test_local_statistics_leave_no_collective_between_image_and_gradient(norm):
    model, mesh = tiny(norm=norm), make_mesh()

    def gradient(variables, x):
        return jax.grad(lambda x: jnp.sum(logits_in_training(model, variables, x) ** 2))(x)

    variables, x = tiny_variables(), images()
    with jax.set_mesh(mesh):
        text = sharded(mesh, gradient).lower(variables, x).compile().as_text()
    names = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    assert not re.findall(rf"(?:{names})(?:-start)?\(", text)


def test_first_block_is_never_dropped_and_evaluation_drops_nothing():
    one = ("r1_k3_s1_e1_i8_o8_c1",)
    settings = {"head_width": 8, "num_classes": 0, "dropout_rate": 0.0, "stochastic_depth_rate": 0.9}
    x = images()

    def differs_by_key(blocks):
        model = create_model("efficientnet_v2_b0", blocks=blocks, **settings)
        variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(x)
        apply = jax.jit(functools.partial(logits_in_training, model))
        outputs = [apply(variables, x, seed) for seed in (0, 1)]
        jax.eval_shape(lambda x: model.apply(variables, x, train=False), x)  # asks for no key
        return bool(jnp.any(outputs[0] != outputs[1]))

    assert not differs_by_key(one)
    assert differs_by_key(("r2_k3_s1_e1_i8_o8_c1",))


def test_computes_in_bfloat16_and_keeps_the_rest_in_float32():
    model, x = tiny(dtype="bfloat16"), images()
    variables = tiny_variables()
    fresh = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    found = jax.jit(lambda v, x: model.apply(v, x, train=False, method="endpoints"))(variables, x)
    assert found["reduction_1"].dtype == found["features"].dtype == jnp.bfloat16
    assert found["pooled"].dtype == found["logits"].dtype == jnp.float32
    exact = jax.jit(lambda v, x: tiny().apply(v, x, train=False))(variables, x)
    np.testing.assert_allclose(found["logits"], exact, atol=0.05 * float(jnp.abs(exact).max()))


def test_images_without_channels_are_the_users_error():
    with pytest.raises(UserError, match=r"\(8, 16, 16\).*batch, height, width, channels"):
        tiny().init(jax.random.key(0), jnp.zeros((8, 16, 16)), train=False)
