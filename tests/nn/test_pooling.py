"""Halving pools against windows written out."""

import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.nn.pooling import halve


def by_hand(x, reduce, starts, size):
    """Reduce the part of each window that lies on the map; `starts` are their first rows and columns."""
    rows = [[reduce(x[max(y, 0) : y + size, max(x0, 0) : x0 + size]) for x0 in starts[1]] for y in starts[0]]
    return np.array(rows)


@pytest.mark.parametrize(
    ("pool_type", "padding", "starts"),
    [
        ("max2", "same", [(0, 2, 4), (0, 2, 4)]),
        ("avg2", "symmetric", [(0, 2, 4), (0, 2, 4)]),
        ("max3", "same", [(0, 2, 4), (-1, 1, 3)]),  # even sizes are padded after, odd ones on both sides
        ("avg3", "same", [(0, 2, 4), (-1, 1, 3)]),
        ("max3", "symmetric", [(-1, 1, 3), (-1, 1, 3)]),
        ("avg3", "symmetric", [(-1, 1, 3), (-1, 1, 3)]),
    ],
)
def test_halves_a_map(pool_type, padding, starts):
    x = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32) - 3
    expected = by_hand(x, np.max if pool_type[:3] == "max" else np.mean, starts, int(pool_type[-1]))
    found = halve(jnp.asarray(x)[None, ..., None], pool_type, padding)
    np.testing.assert_allclose(found[0, ..., 0], expected, rtol=1e-6)
