"""Relative biases against their definition, and tables resized against other libraries' results."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.nn.relative_tables import (
    grid_of,
    log_coordinates,
    pair_biases,
    pair_biases_by_gather,
    pair_biases_by_products,
    resize_table,
)

GRID = (3, 5)


def table_for(grid, heads=2, seed=0):
    shape = (heads, 2 * grid[0] - 1, 2 * grid[1] - 1)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("function", [pair_biases, pair_biases_by_gather, pair_biases_by_products])
def test_biases_of_a_rectangle_by_their_definition(function):
    table, (height, width) = table_for(GRID), GRID
    biases = np.asarray(function(jnp.asarray(table)))
    assert biases.shape == (2, 15, 15)
    for query in range(15):
        for key in range(15):
            dy, dx = query // width - key // width, query % width - key % width
            np.testing.assert_array_equal(biases[:, query, key], table[:, dy + height - 1, dx + width - 1])


def test_log_coordinates():
    found = log_coordinates(GRID)
    assert found.shape == (5, 9, 2)
    np.testing.assert_array_equal(found[2, 4], [0, 0])
    np.testing.assert_allclose(found[0, 8], [-np.log(3), np.log(5)], rtol=1e-6)


def test_bilinear_as_opencv():
    table = table_for((4, 4), heads=3)
    resized = resize_table(jnp.asarray(table), (6, 7))
    assert grid_of(resized) == (6, 7)
    expected = [cv2.resize(head, (13, 11), interpolation=cv2.INTER_LINEAR) for head in table]
    np.testing.assert_allclose(resized, expected, atol=1e-5)


def keys(distance):
    """Keys' kernel of 1981, which takes its third order of accuracy from a = -1/2."""
    x = abs(distance)
    if x >= 2:
        return 0.0
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2


def cubic_weights(old, new):
    """Share of each old entry in each new one; at the edges, of those that there are."""
    rows = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * old / new - 0.5
        rows[row] = [keys(centre - column) for column in range(old)]
    return rows / rows.sum(1, keepdims=True)


@pytest.mark.parametrize("grid", [(6, 7), (4, 8), (3, 5)])
def test_bicubic_by_the_definition_of_the_kernel(grid):
    table = table_for((4, 5), heads=3)
    resized = resize_table(jnp.asarray(table), grid, "bicubic")
    down, across = (cubic_weights(2 * old - 1, 2 * new - 1) for old, new in zip((4, 5), grid, strict=True))
    np.testing.assert_allclose(resized, np.einsum("hrc,ir,jc->hij", table, down, across), atol=1e-5)


def test_bicubic_keeps_parabolas_away_from_the_edges():
    rows = np.arange(13.0)[:, None] ** 2 + np.zeros(13)
    resized = resize_table(jnp.asarray(rows, jnp.float32)[None], (13, 7), "bicubic")
    centres = (np.arange(25) + 0.5) * 13 / 25 - 0.5
    np.testing.assert_allclose(resized[0, 4:-4, 3], centres[4:-4] ** 2, rtol=1e-5)


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "geometric"])
def test_resizing_keeps_what_is_constant_or_of_that_size(method):
    table = jnp.asarray(table_for(GRID))
    assert resize_table(table, GRID, method) is table
    np.testing.assert_allclose(resize_table(jnp.full((1, 7, 7), 2.5), (6, 6), method), 2.5, rtol=1e-5)


GEOMETRIC = [  # rounded to 4 digits after the point
    [-18.0, -18.0, -18.6667, -20.0, -20.0, -18.0, -15.3333, -14.0, -14.0],
    [-14.6667, -14.6667, -15.3333, -16.6667, -16.6667, -14.6667, -12.0, -10.6667, -10.6667],
    [-8.0, -8.0, -8.6667, -10.0, -10.0, -8.0, -5.3333, -4.0, -4.0],
    [2.0, 2.0, 1.3333, 0.0, 0.0, 2.0, 4.6667, 6.0, 6.0],
    [12.0, 12.0, 11.3333, 10.0, 10.0, 12.0, 14.6667, 16.0, 16.0],
    [18.6667, 18.6667, 18.0, 16.6667, 16.6667, 18.6667, 21.3333, 22.6667, 22.6667],
    [22.0, 22.0, 21.3333, 20.0, 20.0, 22.0, 24.6667, 26.0, 26.0],
]


def test_geometric_as_timm():
    # resize_rel_pos_bias_table of timm 1.0.31, of a table dy * 10 + dx + dx * dx for maps of 3x3, to 4x5.
    dy, dx = np.mgrid[-2:3, -2:3].astype(np.float32)
    resized = resize_table(jnp.asarray(10 * dy + dx + dx * dx)[None], (4, 5), "geometric")
    np.testing.assert_allclose(resized[0], GEOMETRIC, atol=1e-4)


def test_an_unknown_method_is_the_users_error():
    with pytest.raises(UserError, match="method is 'nearest': choose one of bilinear, bicubic, geometric"):
        resize_table(jnp.zeros((1, 3, 3)), (4, 4), "nearest")
