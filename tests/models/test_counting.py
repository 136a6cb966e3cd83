"""Counting with equal blocks left out gives what counting everything gives."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from offsites_jax.models.counting import count_variables
from offsites_jax.models.registry import create_model


def test_counts_are_those_of_a_full_trace():
    model = create_model("coatnet_0", stochastic_depth_rate=0.0)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    assert count_variables(model, 64) == {
        collection: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for collection, tree in variables.items()
    }


class Twice(nn.Module):
    """Two equal layers, of which the second is used twice."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(3, name="first")(x)
        second = nn.Dense(3, name="second")
        return second(second(x))


def test_a_layer_used_twice_counts_once():
    assert count_variables(Twice(), 4) == {"params": 2 * (3 * 3 + 3)}
