"""Maps on radiographs: where cells look, against a network's own response; regions and boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from offsites_jax.data.image import Box
from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.inference import activation


@pytest.mark.parametrize(
    ("size", "kernels"), [(96, (3, 3, 3)), (50, (3, 5)), (75, (5, 3)), (600, (3, 3, 3, 5, 3))]
)
def test_cells_look_where_convolutions_with_tensorflows_padding_look(size, kernels):
    """The centre of mass of each cell's gradient, through stride-2 convolutions of equal weights."""

    def map_of(line):
        for kernel in kernels:
            line = jax.lax.conv_general_dilated(
                line[None, None], jnp.ones((1, 1, kernel)), (2,), "SAME"
            )[0, 0]  # fmt: skip
        return line

    seen = np.asarray(jax.jacrev(map_of)(jnp.zeros(size)))
    centres = (seen * np.arange(size)).sum(axis=1) / seen.sum(axis=1)
    found = activation.places(size, len(seen), centred=False)
    inside = slice(1 + 8 // len(kernels), -1 - 8 // len(kernels))
    np.testing.assert_allclose(found[inside], centres[inside], atol=1e-3)


def test_without_shift_the_map_is_an_ordinary_bilinear_resize():
    rng = np.random.default_rng(0)
    found = rng.random((5, 5), np.float32)
    heat = activation.full_size(found, 40, 40, activation.places(40, 5, centred=True), 40)
    at = np.clip((np.arange(40) + 0.5) * 5 / 40 - 0.5, 0, 4)
    expected = ndimage.map_coordinates(found, np.meshgrid(at, at, indexing="ij"), order=1)
    np.testing.assert_allclose(heat, expected, atol=2e-2)


def test_the_picture_is_where_it_was_before_it_was_padded():
    """A hot cell of the padded square, on a picture twice as wide as high."""
    found = np.zeros((8, 8), np.float32)
    found[3, 6] = 1
    heat = activation.full_size(found, 40, 80, activation.places(64, 8, centred=True), 64)
    assert heat.shape == (40, 80)
    row, column = activation.strongest(heat)
    # The cell's middle is at 3.5 / 8 and 6.5 / 8 of the square; 20 rows above are padding.
    assert abs(row + 0.5 - (80 * 3.5 / 8 - 20)) <= 1
    assert abs(column + 0.5 - 80 * 6.5 / 8) <= 1


def test_regions_reach_a_share_of_the_maximum():
    heat = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, -9.0]], np.float32)
    np.testing.assert_array_equal(activation.region(heat, 0.5), [[False, False, True], [True, True, False]])
    assert not activation.region(-np.abs(heat), 0.5).any()


def test_agreement_counts_hits_and_overlap():
    heat = np.zeros((10, 10), np.float32)
    heat[2:6, 2:6] = 1
    heat[3, 3] = 2
    region = activation.region(heat, 0.5)
    assert activation.agreement(heat, region, Box(2, 2, 4, 4)) == activation.Agreement(True, 1.0)
    half = activation.agreement(heat, region, Box(4, 2, 4, 4))
    assert (half.hit, half.overlap) == (False, pytest.approx(8 / 24))
    assert activation.agreement(heat, region, Box(8, 8, 5, 5)).overlap == 0


def test_pictures_have_a_red_region_and_a_yellow_box():
    pixels = np.full((60, 50), 0.5, np.float32)
    region = np.zeros((60, 50), bool)
    region[10:30, 10:30] = True
    drawn = activation.picture(pixels, region, Box(35, 5, 20, 30))
    assert drawn.shape == (60, 50, 3)
    for colour, row, column in ((activation.RED, 10, 20), (activation.YELLOW, 35, 20)):
        np.testing.assert_array_equal(drawn[row, column], colour)
    np.testing.assert_array_equal(drawn[20, 20], 128)
    assert activation.picture(pixels, region, longest=30).shape == (30, 25, 3)


@pytest.mark.parametrize("cell", ["1 2 3", "a b c d", "1 2 3 inf"])
def test_a_box_that_is_none_is_refused(cell):
    with pytest.raises(UserError, match="give left, top, width and height"):
        activation.parse_box(cell)


def test_boxes_are_left_top_width_height():
    assert activation.parse_box("3 5 10 20") == Box(5, 3, 20, 10)
    assert activation.parse_box(" ") is None
