"""Views of an image: geometry against numpy, scipy and Pillow; distributions; what cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class import augment
from offsites_jax.projects.one_class.augment import Augmentation, Crop
from offsites_jax.projects.one_class.color import Jitter

RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(0, 1, (12, 12, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 3000)

crop_resize, turn, blur = map(jax.jit, (augment.crop_resize, augment.turn, augment.blur))


def mapped(function, image, *static):
    make = jax.jit(jax.vmap(lambda key, image: function(key, image, *static), (0, None)))
    return np.asarray(make(KEYS, image))


def coordinates(height, width):
    """An image whose pixels say where they are."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([rows, columns], -1).astype(np.float32)


@pytest.mark.parametrize("crop", [(0, 0, 12), (2, 5, 7), (6, 0, 6), (5, 6, 6), (11, 11, 1)])
def test_crop_resize_is_bilinear_and_sees_the_crop_alone(crop):
    top, left, side = crop
    part = IMAGE[top : top + side, left : left + side]
    wanted = scipy.ndimage.zoom(
        part.astype(np.float64), (12 / side, 12 / side, 1), order=1, mode="nearest", grid_mode=True
    )
    got = crop_resize(IMAGE, Crop(*map(jnp.int32, crop)))
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_random_crops_have_all_sides_and_places():
    """Sides from half to all of the image, each as often, and never a pixel that does not exist."""
    size = 12
    got = mapped(augment.random_crop_resize, coordinates(size, size), 0.5)
    tops, lefts = (np.rint(got[..., axis].min((1, 2))) for axis in (0, 1))
    sides = np.rint(got[..., 0].max((1, 2))) - tops + 1
    values, counts = np.unique(sides, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(6, 13))
    assert counts.min() > 0.8 * len(KEYS) / 7
    smallest = sides == 6
    for corner in (tops, lefts):
        assert ((corner >= 0) & (corner + sides <= size)).all()
        np.testing.assert_array_equal(np.unique(corner[smallest]), np.arange(7))


def test_translation_is_a_window_of_the_mirrored_image():
    height, width = 16, 8
    got = mapped(augment.random_translate, coordinates(height, width), 0.125)
    padded = np.pad(coordinates(height, width), ((2, 2), (1, 1), (0, 0)), "reflect")
    windows = {
        padded[top : top + height, left : left + width].tobytes() for top in range(5) for left in range(3)
    }
    assert {image.tobytes() for image in got} == windows
    assert 0.5 * len(KEYS) / 15 < min(np.unique(got, axis=0, return_counts=True)[1])


def test_windows_come_from_everywhere():
    got = mapped(augment.random_window, coordinates(9, 7), 4)
    np.testing.assert_array_equal(got - got[:, :1, :1], np.broadcast_to(coordinates(4, 4), got.shape))
    corners = np.unique(got[:, 0, 0], axis=0)
    np.testing.assert_array_equal(corners, [(top, left) for top in range(6) for left in range(4)])


def test_half_of_the_images_are_flipped():
    got = mapped(augment.random_flip, coordinates(2, 3))
    flipped = got[:, 0, 0, 1] == 2
    np.testing.assert_array_equal(got[flipped][0], coordinates(2, 3)[:, ::-1])
    assert 0.46 < flipped.mean() < 0.54


@pytest.mark.parametrize("number", range(8))
def test_symmetries_are_quarter_turns_and_then_a_flip(number):
    wanted = np.rot90(IMAGE, number // 2)
    wanted = wanted[:, ::-1] if number % 2 else wanted
    np.testing.assert_array_equal(turn(IMAGE, number), wanted)


@pytest.mark.parametrize("sigma", [0.3, 1.1, 2.0])
def test_blur_is_that_of_scipy(sigma):
    image = RNG.uniform(0, 1, (50, 33, 3)).astype(np.float32)
    wanted = scipy.ndimage.gaussian_filter(
        image.astype(np.float64), (sigma, sigma, 0), radius=(2, 2, 0), mode="mirror"
    )
    np.testing.assert_allclose(blur(image, sigma), wanted, atol=1e-5)


def test_probabilities_of_grey_and_blur():
    image = RNG.uniform(0, 1, (20, 20, 3)).astype(np.float32)
    got = mapped(augment.augment, image, Augmentation(grey=0.2, blur=0.5))
    is_grey = np.ptp(got, axis=-1).max((1, 2)) == 0
    assert 0.17 < is_grey.mean() < 0.23
    is_sharp = (got[~is_grey] == image).all((1, 2, 3))
    assert 0.46 < is_sharp.mean() < 0.54


def test_nothing_is_done_unless_asked_for():
    np.testing.assert_array_equal(augment.augment(KEYS[0], IMAGE, Augmentation()), IMAGE)
    units = augment.to_unit(np.array([0, 51, 255], np.uint8))
    np.testing.assert_allclose(units, [0, 0.2, 1], atol=1e-7)


def test_an_order_of_steps():
    """What is mirrored in from outside, cropped and flipped is recoloured after that."""
    settings = Augmentation(translate=0.2, min_crop=0.5, flip=True, jitter=Jitter(brightness=0.4))
    key = KEYS[1]
    keys = jax.random.split(key, 6)

    @jax.jit
    def geometry(image):
        image = augment.random_translate(keys[0], image, 0.2)
        return augment.random_flip(keys[2], augment.random_crop_resize(keys[1], image, 0.5))

    got = jax.jit(augment.augment, static_argnums=2)(key, IMAGE, settings)
    added = np.asarray(got - geometry(IMAGE))
    np.testing.assert_allclose(added, added.mean(), atol=1e-6)
    assert 0 < abs(added.mean()) < 0.4


@pytest.mark.parametrize(
    "function", [lambda x: augment.turn(x, 1), lambda x: augment.random_crop_resize(KEYS[0], x, 0.5)]
)
def test_oblong_images_are_refused(function):
    with pytest.raises(UserError, match=r"images are 12 x 10: .* resize them"):
        function(IMAGE[:, :10])


def test_settings_that_cannot_be():
    for settings in ({"min_crop": 0.0}, {"grey": 1.5}, {"translate": -0.1}, {"blur": 2.0}):
        with pytest.raises(UserError, match=f"augmentation.{next(iter(settings))} is"):
            Augmentation(**settings)
    with pytest.raises(UserError, match="window is 13 pixels: images are only 12 x 12"):
        augment.random_window(KEYS[0], IMAGE, 13)
