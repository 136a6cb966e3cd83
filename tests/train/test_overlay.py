import matplotlib
import numpy as np
import pytest

from offsites_jax.train.overlay import colour_bar, outline, overlay, turbo

RED = (255, 0, 0)


def picture(height=6, width=8):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def turbo_of_matplotlib(place):
    return np.round(255 * np.array(matplotlib.colormaps["turbo"](place)[:3]))


def test_colours_are_turbo_between_low_and_high():
    heat = np.array([[-3.0, 2.0, 3.0, 4.0, 99.0, -np.inf, np.inf]])
    expected = [turbo_of_matplotlib(place) for place in (0.0, 0.0, 0.5, 1.0, 1.0, 0.0, 1.0)]
    np.testing.assert_array_equal(turbo(heat, 2, 4)[0], expected)


def test_an_overlay_mixes_picture_and_colour_by_alpha():
    image, heat = picture(), np.linspace(0, 1, 48).reshape(6, 8)
    np.testing.assert_array_equal(overlay(image, heat, 0, 1, alpha=0), image)
    np.testing.assert_array_equal(overlay(image, heat, 0, 1, alpha=1), turbo(heat, 0, 1))
    mixed = 0.7 * image + 0.3 * turbo(heat, 0, 1)
    np.testing.assert_allclose(overlay(image, heat, 0, 1, alpha=0.3), mixed, atol=0.501)


def test_a_pixel_without_heat_shows_the_picture():
    image, heat = picture(), np.zeros((6, 8))
    heat[2, 3] = np.nan
    mixed = overlay(image, heat, 0, 1)
    np.testing.assert_array_equal(mixed[2, 3], image[2, 3])
    assert (mixed != image).any(-1).sum() >= 46


def test_an_outline_is_the_inner_edge_of_the_region():
    image = np.zeros((9, 10, 3), np.uint8)
    region = np.zeros((9, 10), bool)
    region[2:7, 3:8] = True
    line = outline(image, region, colour=RED)
    expected = region.copy()
    expected[3:6, 4:7] = False
    np.testing.assert_array_equal((line == RED).all(-1), expected)
    np.testing.assert_array_equal(line[~expected], 0)
    wide = (outline(image, region, colour=RED, width=2) == RED).all(-1)
    assert wide.sum() == 24  # all but the centre
    assert not wide[4, 5]


def test_an_outline_of_heat_is_at_its_level_and_closes_at_the_picture_s_edge():
    rows, columns = np.indices((20, 30))
    heat = np.exp(-(rows**2 + columns**2) / 50.0)  # its middle is the corner of the picture
    line = (outline(np.zeros((20, 30, 3), np.uint8), heat, 0.5, RED) == RED).all(-1)
    radius = np.hypot(rows, columns)
    edge = np.sqrt(50 * np.log(2))
    assert line[0, 0]
    assert radius[line].max() <= edge
    inner = line & (rows > 0) & (columns > 0)
    assert radius[inner].min() > edge - 2


def test_the_bar_runs_from_high_to_low_in_the_height_asked_for():
    bar = colour_bar(120, -1.0, 3.0, "score")
    assert bar.dtype == np.uint8
    assert bar.shape[0] == 120
    strip = bar[:, 10]  # a column inside the colours
    rows = np.flatnonzero((bar[:, 6:20] != 255).any(2).all(1))  # those that are coloured from side to side
    expected = turbo(np.linspace(3, -1, len(rows))[:, None], -1, 3)[:, 0]
    np.testing.assert_array_equal(strip[rows], expected)
    assert len(rows) > 80
    assert not np.array_equal(bar, colour_bar(120, -1.0, 4.0, "score"))  # other numbers beside it


def test_sizes_and_ranges_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"a map of \[6, 7\]"):
        overlay(picture(), np.zeros((6, 7)), 0, 1)
    with pytest.raises(ValueError, match="float32"):
        overlay(picture().astype(np.float32), np.zeros((6, 8)), 0, 1)
    with pytest.raises(ValueError, match="from 1 to 1"):
        overlay(picture(), np.zeros((6, 8)), 1, 1)
    with pytest.raises(ValueError, match="alpha is 2"):
        overlay(picture(), np.zeros((6, 8)), 0, 1, alpha=2)
    with pytest.raises(ValueError, match="width 0"):
        outline(picture(), np.zeros((6, 8)), width=0)
