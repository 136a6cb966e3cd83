"""Random views: geometry against points that are followed by hand, and what may never happen."""

import numpy as np
import pytest

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.augment import AugmentConfig, augment, turned_crop

NONE = AugmentConfig((1.0, 1.0), 0.0, 0.0, 0.0, (1.0, 1.0), 0.0)


def dot(size, row, column):
    """A soft dot, so that its centre is found to a fraction of a pixel."""
    y, x = np.mgrid[:size, :size]
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / 8).astype(np.float32)


def centre(image):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(image * y).sum(), (image * x).sum()]) / image.sum()


def test_nothing_drawn_changes_nothing():
    image = np.random.default_rng(0).random((24, 24), np.float32)
    image = (image - image.min()) / np.ptp(image)
    np.testing.assert_allclose(augment(image, np.random.default_rng(1), NONE), image, atol=1e-6)
    np.testing.assert_allclose(turned_crop(image, 1.0, 0.0, np.array([12.0, 12.0])), image, atol=1e-6)


def test_a_crop_enlarges_about_its_centre():
    found = turned_crop(dot(64, 20, 30), 0.5, 0.0, np.array([24.0, 28.0]))
    # Pixel centres lie at half-integers: (20.5 - 8) * 2 = 25, (30.5 - 12) * 2 = 37.
    np.testing.assert_allclose(centre(found) + 0.5, [25.0, 37.0], atol=0.05)


@pytest.mark.parametrize("angle", [90.0, 30.0, -45.0])
def test_a_turn_is_counter_clockwise_as_seen(angle):
    found = centre(turned_crop(dot(65, 32, 50), 1.0, angle, np.array([32.5, 32.5])))
    radians = np.radians(angle)
    # The dot starts on the right; turned counter-clockwise it goes up, which is towards row 0.
    expected = 32 - 18 * np.sin(radians), 32 + 18 * np.cos(radians)
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_views_fill_the_range_and_follow_from_the_generator():
    image = dot(48, 20, 20) + 0.2 * np.random.default_rng(0).random((48, 48), np.float32)
    image = image / image.max()
    views = [augment(image, np.random.default_rng(seed), AugmentConfig()) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(views[0], views[1])
    assert np.abs(views[0] - views[2]).max() > 0.05
    for view in views:
        assert (view.shape, view.dtype, view.min(), view.max()) == ((48, 48), np.float32, 0, 1)


def test_without_being_asked_the_heart_stays_on_its_side():
    """The bright side stays the bright side in every view; with `flip` about half of them change it."""
    image = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1))

    def brighter_right(config):
        views = [augment(image, np.random.default_rng(seed), config) for seed in range(60)]
        return sum(view[:, 16:].mean() > view[:, :16].mean() for view in views)

    assert brighter_right(AugmentConfig()) == 60
    assert 15 <= brighter_right(AugmentConfig(flip=True)) <= 45


def test_the_top_stays_at_the_top():
    image = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1)).T.copy()
    views = [augment(image, np.random.default_rng(seed), AugmentConfig(flip=True)) for seed in range(40)]
    assert all(view[16:].mean() > view[:16].mean() for view in views)


def test_brightness_and_contrast_saturate():
    """Between what is cut off at either end, values stay in one straight line with those before."""
    image = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    config = AugmentConfig((1.0, 1.0), 0.0, 0.4, 0.2, (1.0, 1.0), 0.0)
    cut = []
    for seed in range(8):
        view = augment(image, np.random.default_rng(seed), config)[0]
        slopes = np.diff(view)
        inside = (view[1:] < 1) & (view[:-1] > 0)
        np.testing.assert_allclose(slopes[inside], slopes[inside].mean(), atol=1e-5)
        cut.append(((view == 0).sum(), (view == 1).sum()))
    assert any(low > 3 for low, _ in cut)
    assert any(high > 3 for _, high in cut)


def test_gamma_bends_and_keeps_the_ends():
    image = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1))
    config = AugmentConfig((1.0, 1.0), 0.0, 0.0, 0.0, (2.0, 2.0), 0.0)
    np.testing.assert_allclose(augment(image, np.random.default_rng(0), config), image**2, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop_area", (0.0, 1.0)),
        ("crop_area", (0.5, 1.5)),
        ("gamma", (2.0, 1.0)),
        ("noise", -0.1),
        ("rotation", -1.0),
    ],
)
def test_impossible_settings_are_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"config.data.augment.{field}"):
        AugmentConfig(**{field: value})


def test_a_view_of_nothing_is_damaged_data():
    with pytest.raises(DamagedDataError, match="same value"):
        augment(np.zeros((16, 16), np.float32), np.random.default_rng(0), NONE)
