"""Half the squared norm of chosen parameters, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.train.penalty import half_squared_norm

PARAMS = {
    "dense": {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.array([3.0])},
    "bn": {"scale": jnp.array([4.0])},
}


@pytest.mark.parametrize(
    ("chosen", "total"),
    [({}, 30), ({"only": "kernel$"}, 5), ({"exclude": "(bias|scale)$"}, 5), ({"exclude": "^bn/"}, 14)],
)
def test_what_counts(chosen, total):
    assert half_squared_norm(PARAMS, **chosen) == total / 2


def test_the_gradient_is_the_parameters_that_count():
    found = jax.grad(lambda params: half_squared_norm(params, only="^dense/"))(PARAMS)
    np.testing.assert_array_equal(found["dense"]["kernel"], PARAMS["dense"]["kernel"])
    np.testing.assert_array_equal(found["bn"]["scale"], 0)


def test_sums_are_float32():
    many = {"kernel": jnp.ones(4096, jnp.bfloat16)}
    assert half_squared_norm(many) == 2048
