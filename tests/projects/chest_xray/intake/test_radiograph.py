"""Radiographs from image files: depth, colour planes, squares, borders."""

import numpy as np
import pytest
from PIL import Image

from offsites_jax.errors import DamagedDataError
from offsites_jax.projects.chest_xray.intake import radiograph

GRADIENT = np.tile(np.arange(200, dtype=np.uint16), (50, 1))


@pytest.mark.parametrize(
    ("pixels", "name"),
    [
        (GRADIENT.astype(np.uint8), "grey.png"),
        (GRADIENT * 300, "deep.png"),
        (np.repeat(GRADIENT.astype(np.uint8)[:, :, None], 3, 2), "colour.png"),
        (np.dstack([GRADIENT.astype(np.uint8)] * 3 + [np.full((50, 200), 255, np.uint8)]), "rgba.png"),
    ],
)
def test_every_form_gives_the_same_brightness(tmp_path, pixels, name):
    Image.fromarray(pixels).save(tmp_path / name)
    found = radiograph.read(tmp_path / name).pixels
    np.testing.assert_allclose(found, GRADIENT / 199, atol=1e-6)


def test_sixteen_bits_stay_sixteen(tmp_path):
    fine = np.arange(2000, dtype=np.uint16).reshape(40, 50) + 30000
    Image.fromarray(fine).save(tmp_path / "fine.png")
    assert len(np.unique(radiograph.read(tmp_path / "fine.png").pixels)) == 2000


def test_colours_are_refused_by_name(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "photo.png")
    with pytest.raises(DamagedDataError, match=r"photo\.png: the colour planes differ"):
        radiograph.read(tmp_path / "photo.png")


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "is empty"), (b"\x89PNG\r\n\x1a\nxx", "cannot be decoded")]
)
def test_broken_files_are_named(tmp_path, data, message):
    (tmp_path / "broken.png").write_bytes(data)
    with pytest.raises(DamagedDataError, match=rf"broken\.png: .*{message}"):
        radiograph.read(tmp_path / "broken.png")


def test_a_wide_image_gets_black_above_and_below():
    square = radiograph.prepare(np.ones((20, 40), np.float32), 40)
    np.testing.assert_array_equal(square[:10], 0)
    np.testing.assert_array_equal(square[10:30], 1)
    np.testing.assert_array_equal(square[30:], 0)


def test_shrinking_is_pillows_antialiased_bilinear():
    image = np.random.default_rng(1).random((64, 64)).astype(np.float32)
    expected = Image.fromarray(image).resize((24, 24), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(radiograph.prepare(image, 24), np.asarray(expected), atol=1e-6)


def test_uniform_borders_are_cut_off_and_nothing_else():
    inside = np.random.default_rng(2).random((10, 12)).astype(np.float32)
    framed = np.pad(inside, ((3, 1), (0, 5)), constant_values=0.7)
    np.testing.assert_array_equal(radiograph.without_borders(framed), inside)
    flat = np.full((4, 4), 0.5, np.float32)
    np.testing.assert_array_equal(radiograph.without_borders(flat), flat)
