"""Losses: against numpy in float64 and torch, on one device and on eight, with gradients."""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class import losses

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden/losses.json").read_text())
EMBEDDINGS = np.random.default_rng(0).standard_normal((32, 5)).astype(np.float32) * 3
TEMPERATURE = 0.2
KINDS = {
    "other_view": functools.partial(losses.contrastive, temperature=TEMPERATURE),
    "symmetric": functools.partial(losses.contrastive, temperature=TEMPERATURE, negatives="symmetric"),
    "ntxent": functools.partial(losses.contrastive, temperature=TEMPERATURE, negatives="ntxent"),
    "chunks": functools.partial(losses.contrastive_in_chunks, temperature=TEMPERATURE, chunk=2),
}


def in_numpy(embeddings, kind):
    rows = embeddings.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if kind == "ntxent":
        logits = rows @ rows.T / TEMPERATURE
        np.fill_diagonal(logits, -np.inf)
        partner = np.arange(len(rows)) ^ 1
        return -scipy.special.log_softmax(logits, 1)[np.arange(len(rows)), partner]
    logits = rows[0::2] @ rows[1::2].T / TEMPERATURE
    forward, backward = (-np.diagonal(scipy.special.log_softmax(logits, axis)) for axis in (1, 0))
    return (forward + backward) / 2 if kind == "symmetric" else forward


def make_mesh(shape):
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def value_and_grad(kind):
    def mean(embeddings):
        each = KINDS[kind](embeddings)
        return each.mean(), each

    return jax.value_and_grad(mean, has_aux=True)


def on_mesh(kind, shape):
    mesh = make_mesh(shape)
    with jax.set_mesh(mesh):
        split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        return jax.jit(value_and_grad(kind), in_shardings=split)(EMBEDDINGS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_loss_is_that_of_numpy(kind):
    (_, got), _ = jax.jit(value_and_grad(kind))(EMBEDDINGS)
    np.testing.assert_allclose(got, in_numpy(EMBEDDINGS, kind), rtol=1e-5)


@pytest.mark.parametrize("kind", ["other_view", "ntxent", "chunks"])
def test_values_and_gradients_do_not_depend_on_the_mesh(kind):
    (mean, each), gradient = jax.jit(value_and_grad(kind))(EMBEDDINGS)
    (mean_8, each_8), gradient_8 = on_mesh(kind, (4, 2))
    np.testing.assert_allclose(mean_8, mean, rtol=1e-6)
    np.testing.assert_allclose(each_8, each, rtol=1e-5)
    np.testing.assert_allclose(gradient_8, gradient, atol=1e-6)


def test_chunks_have_the_gradient_of_the_whole():
    _, whole = jax.jit(value_and_grad("other_view"))(EMBEDDINGS)
    _, chunks = jax.jit(value_and_grad("chunks"))(EMBEDDINGS)
    np.testing.assert_allclose(chunks, whole, atol=1e-6)


def test_in_chunks_only_second_views_are_gathered():
    mesh = make_mesh((8, 1))
    with jax.set_mesh(mesh):
        split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        text = jax.jit(KINDS["chunks"], in_shardings=split).lower(EMBEDDINGS).compile().as_text()
    names = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    moved = re.findall(rf"= (\S+) (?:{names})(?:-start)?\(", text)
    assert len(moved) == 1
    assert moved[0].startswith("f32[16,5]")


@pytest.mark.parametrize("name", ["contrastive", "cross_entropy"])
def test_values_and_gradients_are_those_of_torch(name):
    golden = GOLDEN[name]
    given = jnp.array(golden["input"], jnp.float32)

    def loss(given):
        if name == "contrastive":
            return losses.contrastive(given, golden["temperature"]).mean()
        return losses.cross_entropy(given, jnp.array(golden["labels"])).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(given)
    np.testing.assert_allclose(value, golden["value"], rtol=1e-5)
    np.testing.assert_allclose(gradient, golden["gradient"], atol=1e-6)


def test_first_views_are_no_candidates_and_second_views_no_anchors():
    """Equal first views cost nothing: only second views can be mistaken for the partner."""
    rows = np.zeros((6, 4), np.float32)
    rows[0::2, 0] = 1
    rows[1::2] = np.eye(4)[[0, 1, 2]]
    got = jax.jit(losses.contrastive)(rows, 1.0)
    np.testing.assert_allclose(got, np.log(np.e + 2) - np.array([1, 0, 0]), rtol=1e-6)
    np.testing.assert_array_equal(jax.jit(losses.contrastive_accuracy)(rows), [1, 0, 0])


def test_a_row_of_zeros_has_a_finite_gradient():
    gradient = jax.jit(jax.grad(lambda x: losses.contrastive(x, 0.2).sum()))(jnp.zeros((4, 3)))
    assert np.isfinite(gradient).all()


def test_a_batch_that_does_not_divide_is_the_users_error():
    with (
        jax.set_mesh(make_mesh((8, 1))),
        pytest.raises(UserError, match=r"16 instances do not .* multiple of 24"),
    ):
        losses.contrastive_in_chunks(jnp.zeros((32, 4)), 0.2, chunk=3)
