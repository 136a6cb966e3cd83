"""Colour jitter: against colorsys and a plain sequence of operations, in every order."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class import color
from offsites_jax.projects.one_class.color import DrawnJitter, Jitter

RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(0, 1, (5, 7, 3)).astype(np.float32)
AMOUNTS = (0.13, 0.7, 1.3, -0.21)  # brightness, contrast, saturation, hue

apply = jax.jit(color.apply_jitter)
jitter = jax.jit(jax.vmap(color.jitter, (0, None, None)), static_argnums=2)
many = jax.jit(jax.vmap(color.draw_jitter, (0, None)), static_argnums=1)


def drawn(amounts, order):
    """A jitter whose operations come in that order, by number."""
    return DrawnJitter(*map(jnp.float32, amounts), rank=jnp.argsort(jnp.array(order)))


def in_colorsys(image, change):
    pixels = [
        colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*map(float, p)))) for p in image.reshape(-1, 3)
    ]
    return np.array(pixels).reshape(image.shape)


def sequentially(image, amounts, order, mean=lambda image: image.mean((0, 1))):
    brightness, contrast, saturation, hue = amounts
    operations = (
        lambda x: x + brightness,
        lambda x: (x - mean(x)) * contrast + mean(x),
        lambda x: in_colorsys(x, lambda h, s, v: (h, min(s * saturation, 1), v)),
        lambda x: in_colorsys(x, lambda h, s, v: ((h + hue) % 1, s, v)),
    )
    image = image.astype(np.float64)
    for operation in order:
        image = operations[operation](image)
    return image


@pytest.mark.parametrize("order", itertools.permutations(range(4)))
def test_every_order_is_the_operations_one_after_another(order):
    np.testing.assert_allclose(
        apply(IMAGE, drawn(AMOUNTS, order)), sequentially(IMAGE, AMOUNTS, order), atol=2e-6
    )


@pytest.mark.parametrize("turn", [-0.4, -1 / 3, -0.01, 0.2, 0.5])
def test_hue_is_that_of_colorsys(turn):
    corners = np.array(list(itertools.product((0, 0.5, 1), repeat=3)), np.float32).reshape(3, 9, 3)
    got = apply(corners, drawn((0, 1, 1, turn), range(4)))
    wanted = in_colorsys(corners, lambda h, s, v: ((h + turn) % 1, s, v))
    np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_contrast_takes_its_mean_over_the_weighted_pixels():
    weights = np.zeros((5, 7), np.float32)
    weights[1:3, 2:6] = 1
    amounts = (0.0, 0.5, 1.0, 0.0)
    got = apply(IMAGE, drawn(amounts, range(4)), weights)
    wanted = sequentially(IMAGE, amounts, range(4), mean=lambda x: x[1:3, 2:6].mean((0, 1)))
    np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_values_outside_the_unit_range_stay_there_unless_clipped():
    bright = Jitter(brightness=1.0)
    keys = jax.random.split(jax.random.key(0), 20)
    got = jitter(keys, IMAGE, bright)
    assert got.max() > 1.2
    assert got.min() < -0.2
    clipped = jitter(keys, IMAGE, Jitter(brightness=1.0, clip=True))
    np.testing.assert_allclose(clipped, np.clip(got, 0, 1), atol=1e-6)


def test_a_key_decides_all_whatever_the_batch():
    """Compilers round differently; at the edges of the colour hexagon, too, that moves little."""
    image = np.concatenate([IMAGE, np.repeat(IMAGE[..., :1], 3, -1), IMAGE[..., [0, 0, 1]]])
    settings = Jitter(0.4, 0.4, 0.4, 0.4)
    keys = jax.random.split(jax.random.key(0), 20)
    alone = jax.jit(color.jitter, static_argnums=2)
    for key, one in zip(keys, jitter(keys, image, settings), strict=True):
        np.testing.assert_allclose(one, alone(key, image, settings), atol=1e-6)


def test_saturation_outside_the_unit_range():
    """A pixel that is nowhere positive turns grey, and none is made more than fully saturated."""
    image = np.array([[[-0.5, -0.2, -0.3], [0.8, -0.2, 0.3]]], np.float32)
    got = apply(image, drawn((0, 1, 1.4, 0), range(4)))
    np.testing.assert_allclose(got[0, 0], [-0.2] * 3, atol=1e-6)
    np.testing.assert_allclose(got[0, 1], [0.8, 0.0, 0.4], atol=1e-6)


def test_hue_and_saturation_leave_one_channel_alone():
    grey = IMAGE[..., :1]
    np.testing.assert_allclose(apply(grey, drawn((0, 1, 1.4, 0.3), range(4))), grey, atol=1e-6)
    assert np.abs(apply(grey, drawn((0.2, 1, 1.4, 0.3), range(4))) - grey).min() > 0.19


def test_drawn_amounts_and_orders():
    got = many(jax.random.split(jax.random.key(1), 4800), Jitter(0.1, 0.2, 0.3, 0.4))
    for values, middle, reach in (
        (got.brightness, 0, 0.1), (got.contrast, 1, 0.2), (got.saturation, 1, 0.3), (got.hue, 0, 0.4),
    ):  # fmt: skip
        quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(quantiles, middle + reach * np.linspace(-1, 1, 5), atol=0.06 * reach)
    _, counts = np.unique(got.rank, axis=0, return_counts=True)
    assert len(counts) == 24
    assert 140 < counts.min() <= counts.max() < 260  # 200 each, standard deviation 14


def test_grey_has_the_luma_of_pillow():
    from PIL import Image

    pixels = RNG.integers(0, 256, (6, 6, 3), np.uint8)
    wanted = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)
    got = 255 * color.grey(pixels.astype(np.float32) / 255)
    assert (np.ptp(got, axis=-1) == 0).all()
    np.testing.assert_allclose(got[..., 0], wanted, atol=0.6)


@pytest.mark.parametrize("settings", [{"hue": 0.6}, {"contrast": -0.1}, {"brightness": 2.0}])
def test_settings_that_cannot_be(settings):
    with pytest.raises(UserError, match=f"jitter.{next(iter(settings))} is"):
        Jitter(**settings)
