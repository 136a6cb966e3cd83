"""The network: counts, what each named output is, and what frozen statistics mean."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.model import Head, ModelConfig, create_network

MLP = (512,) * 8
IMAGES = np.random.default_rng(0).uniform(0, 1, (6, 16, 16, 3)).astype(np.float32)
TINY = ModelConfig("resnet_10", width=0.0625, head=(8, 6), overrides={"depths": (1, 1)})


@functools.cache
def initialised(network):
    return jax.jit(functools.partial(network.init, train=False))(jax.random.key(0), IMAGES)


@functools.partial(jax.jit, static_argnums=0)
def evaluated(network, variables, images):
    return network.apply(variables, images, train=False)


def shapes(config, size, num_classes):
    network = create_network(config, size, num_classes, jnp.float32)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    call = functools.partial(network.init_with_output, train=False)
    return jax.eval_shape(call, jax.random.key(0), images)


@pytest.mark.parametrize(
    ("head", "num_classes", "size", "count"),
    [
        ((), 0, 32, 11_168_832),
        (MLP, 4, 32, 13_275_716),
        (MLP, 4, 256, 13_283_396),
        ((*MLP, 128), 0, 32, 13_339_712),
        ((*MLP, 128), 0, 256, 13_347_392),
        ((), 2, 32, 11_169_858),
        ((), 3, 256, 11_178_051),
    ],
)
def test_counts_are_those_of_the_published_code(head, num_classes, size, count):
    _, variables = shapes(ModelConfig(head=head), size, num_classes)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


def test_efficientnet_can_pool_its_last_stage():
    found, variables = shapes(ModelConfig("efficientnet_b4", head=(), features="level7"), 64, 0)
    assert (found["map"].shape, found["pooled"].shape) == ((2, 2, 2, 448), (2, 448))
    assert found["features"].shape == (2, 2, 2, 1792)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 17_548_616


def test_outputs_are_one_after_another():
    """Pooled features are the mean of the map, embeddings the perceptron on them, logits linear on those."""
    network = create_network(TINY, 16, 3, jnp.float32)
    variables = initialised(network)
    out = evaluated(network, variables, IMAGES)
    assert {"reduction_0", "reduction_1", "features", "map", "pooled", "embeds", "logits"} == set(out)
    np.testing.assert_array_equal(out["map"], out["reduction_1"])
    np.testing.assert_allclose(out["pooled"], np.asarray(out["map"]).mean((1, 2)), rtol=1e-5)
    head = jax.tree.map(np.asarray, variables["params"]["head"])
    assert {name: set(layer) for name, layer in head.items()} == {
        "dense_0": {"kernel"},
        "bn_0": {"scale", "bias"},
        "dense_1": {"kernel", "bias"},
        "classifier": {"kernel", "bias"},
    }
    hidden = np.maximum(out["pooled"] @ head["dense_0"]["kernel"] / np.sqrt(1 + 1e-5), 0)
    embeds = hidden @ head["dense_1"]["kernel"]
    np.testing.assert_allclose(out["embeds"], embeds, atol=1e-5)
    np.testing.assert_allclose(out["logits"], embeds @ head["classifier"]["kernel"], atol=1e-5)


def test_without_classes_the_embedding_has_no_bias_and_is_the_logits():
    head = Head((8, 6), 0)
    features = jnp.ones((2, 5))
    out, variables = head.init_with_output(jax.random.key(0), features, train=False)
    assert set(variables["params"]["dense_1"]) == {"kernel"}
    np.testing.assert_array_equal(out["embeds"], out["logits"])
    out, _ = Head((), 0).init_with_output(jax.random.key(0), features, train=False)
    np.testing.assert_array_equal(out["embeds"], features)


def test_frozen_statistics_stay_while_the_head_learns_its_own():
    network = create_network(TINY, 16, 3, jnp.float32)
    frozen = network.clone(frozen_norm=True)
    variables = initialised(network)
    step = {
        name: jax.jit(functools.partial(net.apply, train=True, mutable="batch_stats"))(variables, IMAGES)
        for name, net in (("free", network), ("frozen", frozen))
    }

    def moved(name, part):
        pairs = (variables["batch_stats"][part], step[name][1]["batch_stats"][part])
        return any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), *pairs)))

    assert moved("free", "backbone")
    assert not moved("frozen", "backbone")
    assert moved("frozen", "head")
    wanted = evaluated(network, variables, IMAGES)["pooled"]
    np.testing.assert_allclose(step["frozen"][0]["pooled"], wanted, rtol=1e-5)


def test_pretrained_backbones_see_normalised_pixels():
    plain = create_network(TINY, 16, 3, jnp.float32)
    normalising = create_network(ModelConfig(**{**vars(TINY), "pixels": "imagenet"}), 16, 3, jnp.float32)
    variables = initialised(plain)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    wanted = evaluated(plain, variables, ((IMAGES - mean) / std).astype(np.float32))["pooled"]
    got = evaluated(normalising, variables, IMAGES)["pooled"]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_half_precision_gives_float32_for_losses_and_scores():
    network = create_network(TINY, 16, 3, jnp.bfloat16)
    variables = jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), IMAGES)
    out = jax.eval_shape(functools.partial(network.apply, train=False), variables, IMAGES)
    assert {out[name].dtype for name in ("pooled", "embeds", "logits")} == {jnp.dtype("float32")}
    assert out["map"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": (8, 0)}, "config.model.head"),
        ({"width": 0.0}, "config.model.width"),
        ({"name": "efficientnet_b4", "width": 0.5}, "width and stem are of ResNets"),
        ({"features": "level7"}, "level7 is a stage of EfficientNet"),
        ({"overrides": {"num_classes": 3}}, "overrides.num_classes: set task.pretext.name instead"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        ModelConfig(**settings)
