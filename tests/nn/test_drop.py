"""Stochastic depth: whole examples, kept share, scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.nn.drop import linear_drop_rate, stochastic_depth


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_each_example_is_kept_and_scaled_or_dropped_whole(dtype):
    examples, rate = 4000, 0.2
    branch = jnp.full((examples, 3, 2), 1.0, dtype)
    dropped = stochastic_depth(branch, jax.random.key(3), rate)
    assert dropped.dtype == dtype
    values = np.float64(dropped).reshape(examples, -1)
    assert (values == values[:, :1]).all()
    assert set(np.unique(values)) == {0.0, float(jnp.asarray(1.25, dtype))}
    kept = np.mean(values[:, 0] != 0)
    assert abs(kept - 0.8) < 4 * np.sqrt(0.8 * 0.2 / examples)


def test_a_dropped_branch_may_hold_anything():
    branch = jnp.full((50, 2), jnp.inf)
    dropped = stochastic_depth(branch, jax.random.key(0), 0.5)
    assert not jnp.isnan(dropped).any()


def test_rates_grow_in_a_line_from_zero():
    rates = [linear_drop_rate(index, 4, 0.2) for index in range(4)]
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.15])
