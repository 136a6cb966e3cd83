"""The task on a tiny network: loss, maps that add up to the logit, what is exported."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.task import create_task
from offsites_jax.train.config import resolve
from offsites_jax.train.state import flatten

RAW = {
    "project": "chest_xray",
    "model": {
        "name": "efficientnet_b0",
        "outputs": ["abnormal", "Effusion"],
        "overrides": {
            "blocks": ["r1_k3_s1_e1_i8_o8_se0.25", "r1_k3_s2_e2_i8_o8_se0.25"], "head_width": 8,
            "stochastic_depth_rate": 0.0, "dropout_rate": 0.0,
        },
    },
    "task": {"l2": 0.01, "positive_weight": 2.0},
    "data": {"path": "nowhere.csv", "image_size": 36},
    "train": {"steps": 2, "batch_size": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def task():
    return create_task(resolve(RAW), jnp.dtype("float32"))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 65536, (4, 36, 36)), jnp.uint16),
        "label": jnp.asarray([[1, 0], [0, np.nan], [np.nan, np.nan], [1, 1]], jnp.float32),
    }


@pytest.fixture(scope="module")
def variables(task, batch):
    fresh = jax.jit(task.init)(jax.random.key(0), batch)
    # Statistics and biases that are not those of the start, so that leaving them out would show.
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(0.1 * rng.random(leaf.shape), leaf.dtype), fresh)


@pytest.fixture(scope="module")
def predicted(task, variables, batch):
    return jax.jit(task.predict)(variables, batch)


def test_scores_are_the_sigmoid_of_the_logits(predicted):
    logits = np.asarray(predicted["logit"], np.float64)
    assert logits.shape == (4, 2)
    np.testing.assert_allclose(predicted["score"], 1 / (1 + np.exp(-logits)), rtol=1e-6)
    assert np.ptp(logits) > 1e-4


def test_the_mean_of_a_map_and_the_bias_are_the_logit(task, variables, batch, predicted):
    maps, bias = jax.jit(task.activation_maps)(variables, batch)
    assert maps.shape == (4, 9, 9, 2)
    np.testing.assert_allclose(
        np.asarray(maps).mean((1, 2)) + np.asarray(bias), predicted["logit"], atol=2e-6
    )
    assert np.asarray(maps).std(axis=(1, 2)).min() > 1e-6


def test_the_linear_layer_on_the_embedding_is_the_logit(task, variables, batch, predicted):
    layer = variables["params"]["classifier"]
    found = jax.jit(task.embed)(variables, batch) @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(found, predicted["logit"], atol=2e-6)


def test_pixels_are_three_equal_normalised_channels(task):
    image = jnp.asarray([[[0, 65535]]], jnp.uint16)
    found = np.asarray(task.pixels(image))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(found[0, 0], [(0 - mean) / std, (1 - mean) / std], rtol=1e-6)


def test_the_loss_is_a_mean_over_known_labels_plus_l2_of_kernels(task, variables, batch):
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    found = jax.jit(task.loss)(params, state, batch, jax.random.key(1), 0)
    assert float(found.terms["cross_entropy"].weight) == 5
    squares = [
        np.sum(np.square(np.asarray(leaf, np.float64)))
        for path, leaf in flatten(params).items() if path.split("/")[-1] == "kernel"
    ]  # fmt: skip
    assert float(found.terms["l2"].value) == pytest.approx(0.01 * sum(squares) / 2, rel=1e-5)
    logits, _ = task.model.apply(
        variables, task.pixels(batch["image"]), train=True, rngs={"dropout": jax.random.key(1)},
        mutable=["batch_stats"],
    )  # fmt: skip
    p, labels = 1 / (1 + np.exp(-np.asarray(logits, np.float64))), np.asarray(batch["label"])
    losses = -np.where(labels == 1, 2 * np.log(p), np.log(1 - p))
    seen = ~np.isnan(labels)
    assert float(found.terms["cross_entropy"].value) == pytest.approx(losses[seen].mean(), rel=1e-5)
    right = ((p > 0.5) == (labels == 1))[seen].mean()
    assert float(found.metrics["accuracy"].value) == pytest.approx(right)


def test_unknown_labels_and_their_stand_in_change_no_gradient(task, variables, batch):
    def gradient(labels):
        def value(params):
            state = {"batch_stats": variables["batch_stats"]}
            rows = {**batch, "label": labels}
            return task.loss(params, state, rows, jax.random.key(1), 0).terms["cross_entropy"].value

        return jax.grad(value)(variables["params"])

    found = jax.tree.leaves(jax.jit(gradient)(batch["label"]))
    assert all(np.isfinite(leaf).all() for leaf in found)
    assert max(np.abs(leaf).max() for leaf in found) > 1e-3


def test_a_first_stage_moves_the_classifier_alone(task, variables, batch):
    """Its own gradient is that of training everything; all others are 0, those of L2 as well."""

    def gradient(one):
        def value(params):
            state = {"batch_stats": variables["batch_stats"]}
            terms = one.loss(params, state, batch, jax.random.key(1), 0).terms
            return terms["cross_entropy"].value + terms["l2"].value

        return flatten(jax.jit(jax.grad(value))(variables["params"]))

    head = dataclasses.replace(task, config=dataclasses.replace(task.config, trains="head"))
    found, everything = gradient(head), gradient(task)
    for path, leaf in found.items():
        expected = everything[path] if path.startswith("classifier/") else np.zeros(leaf.shape)
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-7, err_msg=path)
    assert np.abs(found["classifier/kernel"]).max() > 1e-3


@pytest.mark.parametrize("override", [{"num_classes": 3}, {"dtype": "float32"}])
def test_what_has_a_place_of_its_own_is_refused(override):
    raw = {**RAW, "model": {**RAW["model"], "overrides": override}}
    with pytest.raises(UserError, match=r"config\.model\.overrides"):
        create_task(resolve(raw), jnp.dtype("float32"))


def test_a_backbone_without_a_single_linear_layer_gives_no_maps(batch):
    raw = {**RAW, "model": {"name": "coatnet_0"}}
    found = create_task(resolve(raw), jnp.dtype("float32"))
    with pytest.raises(UserError, match="gives no class-activation maps"):
        found.activation_maps({"params": {"head": {}}}, batch)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("task", "positive_weight", 0.0), ("task", "label_smoothing", 1.0), ("task", "focal", -1.0),
     ("model", "outputs", ["a", "a"]), ("model", "outputs", []), ("data", "image_size", 8),
     ("data", "allow", ["anything"])],
)  # fmt: skip
def test_impossible_settings_name_their_key(section, key, value):
    with pytest.raises(UserError, match=rf"config\.{section}\.{key}"):
        resolve({**RAW, section: {**RAW[section], key: value}})
