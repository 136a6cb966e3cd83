"""CoAtNet: shapes, layouts, scan, remat, tables for other sizes, and settings that cannot be."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.errors import UserError
from offsites_jax.models.coatnet import transfer_resolution
from offsites_jax.models.registry import create_model
from offsites_jax.models.stacked import stack_blocks, unstack_blocks
from offsites_jax.parallel.flops import count_flops

STAGES = ("c1_d8", "c3_d16", "t3_d16")
IMAGES = (8, 48, 32, 3)


def tiny(**overrides):
    settings = {
        "stages": STAGES,
        "stem_widths": (8, 8),
        "attention": {"head_size": 8},
        "num_classes": 5,
        "stochastic_depth_rate": 0.0,
    }
    return create_model("coatnet_0", **(settings | overrides))


@functools.cache
def tiny_variables():
    variables = jax.jit(lambda x: tiny().init(jax.random.key(0), x, train=False))(images())
    # Larger than they start, so that every part of the network matters.
    return jax.tree.map(lambda leaf: 5 * leaf if leaf.ndim > 1 else leaf, variables)


@functools.cache
def forward():
    return jax.jit(functools.partial(tiny().apply, train=False))


def images():
    return jax.random.normal(jax.random.key(1), IMAGES)


def shapes_of(model, size, method="endpoints"):
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    call = functools.partial(model.init_with_output, train=False, method=method)
    return jax.eval_shape(call, jax.random.key(0), images)


def endpoints_of(model, size):
    return {name: value.shape[1:] for name, value in shapes_of(model, size)[0].items()}


def test_endpoints():
    assert endpoints_of(create_model("coatnet_0"), (224, 256)) == {
        "reduction_1": (112, 128, 64),
        "reduction_2": (56, 64, 96),
        "reduction_3": (28, 32, 192),
        "reduction_4": (14, 16, 384),
        "reduction_5": (7, 8, 768),
        "features": (7, 8, 768),
        "pooled": (768,),
        "logits": (1000,),
    }


def test_vit_rel_is_made_of_patches_and_attention():
    model = tiny(patch_size=16, stages=("t3_d16",), stem_widths=(16, 16), num_classes=0)
    assert endpoints_of(model, (64, 96)) == {
        "reduction_4": (4, 6, 16),
        "features": (4, 6, 16),
        "pooled": (16,),
    }
    params = shapes_of(model, (64, 96))[1]["params"]
    assert params["stem"]["conv_0"]["kernel"].shape == (16, 16, 3, 16)
    assert params["stage_1"]["block_2"]["attn"]["relative_bias"].shape == (2, 7, 11)


@pytest.mark.parametrize("layout", ["cccc", "ccct", "cctt", "cttt"])
def test_layouts_put_attention_into_the_last_stages(layout):
    params = shapes_of(create_model("coatnet_0", layout=layout), (64, 64))[1]["params"]
    found = ["attn" in params[f"stage_{stage}"]["block_0"] for stage in (1, 2, 3, 4)]
    assert found == [kind == "t" for kind in layout]


@pytest.mark.parametrize("downsample", ["conv1x1", "dw", "pool"])
@pytest.mark.parametrize(("padding", "pool_type"), [("same", "max2"), ("symmetric", "avg3")])
def test_odd_sizes_are_rounded_up(downsample, padding, pool_type):
    model = tiny(conv={"downsample": downsample}, padding=padding, pool_type=pool_type)
    assert endpoints_of(model, (37, 51))["features"] == (3, 4, 16)


def test_norms_can_be_exchanged():
    conv_only = shapes_of(tiny(conv={"norm": "layer"}), (32, 32))[1]
    assert "batch_stats" not in conv_only
    both = shapes_of(tiny(attention={"head_size": 8, "norm": "batch"}), (32, 32))[1]
    assert {"attn_norm", "ffn_norm"} <= set(both["batch_stats"]["stage_3"]["block_1"])


def test_relative_attention_can_be_left_out():
    params = shapes_of(tiny(attention={"head_size": 8, "relative": "none"}), (32, 32))[1]["params"]
    assert set(params["stage_3"]["block_1"]["attn"]) == {"query", "key", "value", "out"}


@pytest.mark.parametrize(
    ("name", "size", "downsample", "counted", "published"),
    [
        ("coatnet_0", 224, "conv1x1", 4.142, 4.2),
        ("coatnet_0", 224, "dw", 4.5, 4.6),
        ("coatnet_0", 384, "conv1x1", 13.05, 13.4),
        ("coatnet_1", 384, "conv1x1", 26.60, 27.4),
        ("coatnet_2", 512, "conv1x1", 93.35, 96.7),
        ("coatnet_4", 384, "conv1x1", 186.5, 189.5),
        ("coatnet_7", 512, "conv1x1", 2538, 2586),
    ],
)
def test_multiplications_are_those_published(name, size, downsample, counted, published):
    # The paper also counts how biases are made, some hundredths.
    model = create_model(name, conv={"downsample": downsample})
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    macs = count_flops(functools.partial(model.apply, train=False), variables, images) / 2e9
    assert macs == pytest.approx(counted, rel=0.012)
    assert macs < published < 1.04 * macs


def in_training(model, variables, x, seed=2):
    return model.apply(
        variables, x, train=True, rngs={"dropout": jax.random.key(seed)}, mutable="batch_stats"
    )


def gradients(model, variables):
    """Gradients and new statistics of a step."""

    def loss(params):
        logits, updated = in_training(model, variables | {"params": params}, images())
        return jnp.sum(logits**2), updated

    found, updated = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    return {"gradients": found, **updated}


@functools.cache
def plain_gradients():
    return gradients(tiny(), tiny_variables())


def test_rematerialised_blocks_have_the_same_gradients():
    found = gradients(tiny(remat=True), tiny_variables())
    chex.assert_trees_all_close(found, plain_gradients(), rtol=1e-4, atol=1e-5)


def test_scanned_blocks_have_the_same_gradients_and_statistics():
    model = tiny(scan=True, remat=True)
    like = shapes_of(model, IMAGES[1:3])[1]
    stacked = stack_blocks(tiny_variables(), like)
    assert stacked["params"]["stage_3"]["blocks_1_2"]["attn"]["relative_bias"].shape == (2, 2, 5, 3)
    chex.assert_trees_all_equal(unstack_blocks(stacked), tiny_variables())
    found = gradients(model, stacked)
    chex.assert_trees_all_close(unstack_blocks(found), plain_gradients(), rtol=1e-4, atol=1e-5)


def test_scanned_blocks_are_initialised_one_by_one_and_dropped():
    model = tiny(scan=True, stochastic_depth_rate=0.9, stages=("t3_d8",))
    x = images()[:, :8, :8]

    @jax.jit
    def run(seed):
        variables = model.init(jax.random.key(0), x, train=False)
        return variables["params"], in_training(model, variables, x, seed)[0]

    (params, first), (_, second) = run(0), run(1)
    kernel = params["stage_1"]["blocks_1_2"]["ffn"]["expand"]["kernel"]
    assert (kernel[0] != kernel[1]).any()
    assert kernel.std() == pytest.approx(0.02, rel=0.1)
    assert (first != second).any()


def test_stacking_names_what_is_missing():
    variables = {"params": {"stage_1": {"block_1": {"scale": np.zeros(3)}}}}
    like = {"params": {"stage_1": {"blocks_1_2": {"scale": np.zeros((2, 3))}}}}
    with pytest.raises(UserError, match="params/stage_1/block_2/scale: not in the given variables"):
        stack_blocks(variables, like)


def test_images_of_another_size_are_the_users_error():
    with pytest.raises(UserError, match=r"stage_3/block_0/attn/relative_bias is for maps of 3x2.*4x2.*"):
        jax.eval_shape(
            functools.partial(tiny().apply, train=False), tiny_variables(), np.zeros((1, 64, 32, 3))
        )


def test_tables_resized_inside_the_network_or_before_are_the_same():
    x = jax.random.normal(jax.random.key(3), (2, 64, 64, 3))
    inside = jax.jit(functools.partial(tiny(table_image_size=(48, 32)).apply, train=False))
    moved = transfer_resolution(tiny(), tiny_variables(), (64, 64))
    assert moved["params"]["stage_3"]["block_2"]["attn"]["relative_bias"].shape == (2, 7, 7)
    expected = forward()(moved, x)
    np.testing.assert_allclose(inside(tiny_variables(), x), expected, rtol=1e-5)
    stacked = stack_blocks(tiny_variables(), shapes_of(tiny(scan=True), IMAGES[1:3])[1])
    chex.assert_trees_all_equal(unstack_blocks(transfer_resolution(tiny(), stacked, (64, 64))), moved)


def test_a_sharded_batch_gives_the_same_logits():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    split, whole = NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), NamedSharding(mesh, PartitionSpec())
    apply = jax.jit(functools.partial(tiny().apply, train=False), in_shardings=(whole, split))
    variables, x = tiny_variables(), images()
    expected = forward()(variables, x)
    with jax.set_mesh(mesh):
        logits = apply(variables, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_computes_in_bfloat16_and_keeps_the_rest_in_float32():
    model = tiny(dtype="bfloat16")
    shapes, fresh = shapes_of(model, IMAGES[1:3])
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    assert shapes["reduction_2"].dtype == shapes["features"].dtype == jnp.bfloat16
    assert shapes["pooled"].dtype == shapes["logits"].dtype == jnp.float32
    logits = jax.jit(functools.partial(model.apply, train=False))(tiny_variables(), images())
    exact = forward()(tiny_variables(), images())
    np.testing.assert_allclose(logits, exact, atol=0.05 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"conv": {"downsample": "max"}}, "model.conv.downsample is 'max': choose one of conv1x1, dw, pool"),
        ({"attention": {"relative": "yes"}}, "model.attention.relative is 'yes': choose one of table, mlp"),
        ({"padding": "valid"}, "model.padding is 'valid': choose one of same, symmetric"),
        ({"attention": {"head_size": 7}}, "model.attention.head_size is 7: it must divide the 16 channels"),
        ({"stem_widths": (8,)}, "model.stem_widths is (8,): it must be two numbers above 0"),
        ({"table_image_size": (64,)}, "model.table_image_size is (64,)"),
        ({"patch_size": 12}, "model.patch_size is 12: it must be a power of 2"),
        ({"stochastic_depth_rate": 1.0}, "model.stochastic_depth_rate is 1.0"),
    ],
)
def test_settings_that_cannot_be(overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        tiny(**overrides)


def test_images_without_channels_are_the_users_error():
    with pytest.raises(UserError, match=r"\(8, 16, 16\).*batch, height, width, channels"):
        tiny().init(jax.random.key(0), jnp.zeros((8, 16, 16)), train=False)
