"""Synthetic defects: where the mask says, nowhere else; and a whole data set, always the same."""

import numpy as np
import pytest
from PIL import Image

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.one_class.data import DataConfig, read_all, split_pipeline
from offsites_jax.projects.one_class.views.synthetic import SHAPES, Drawing, draw_defect, write_defects


def noise(seed, size=(40, 50), channels=3):
    pixels = np.random.default_rng(seed).integers(1, 255, (*size, channels), dtype=np.uint8)
    return np.repeat(pixels, 3 // channels, axis=-1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("photos", [0.0, 1.0])
def test_only_the_masked_pixels_change(shape, photos):
    rng = np.random.default_rng(0)
    drawing = Drawing(photos=photos, diameter=(0.3, 0.5))
    for seed in range(10):
        image = noise(seed)
        before = image.copy()
        found, mask = draw_defect(image, shape, rng, drawing)
        np.testing.assert_array_equal(image, before)
        np.testing.assert_array_equal(found[~mask], image[~mask])
        assert (found[mask] != image[mask]).any(axis=-1).mean() > 0.9
        if not photos:
            assert len(np.unique(found[mask], axis=0)) == 1
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        extent = max(np.ptp(rows), np.ptp(columns)) + 1
        assert extent <= 0.5 * 40 + 1


def test_shapes_have_the_area_they_should():
    """In units of the circle's area: a square 2/pi, an ellipse its smaller axis, a heart about 0.8."""
    rng = np.random.default_rng(0)
    image = np.full((400, 400, 3), 9, np.uint8)
    drawing = Drawing(diameter=(0.5, 0.5))
    circle = np.pi * 100**2
    area = {
        shape: [draw_defect(image, shape, rng, drawing)[1].sum() / circle for _ in range(12)]
        for shape in SHAPES
    }
    np.testing.assert_allclose(area["square"], 2 / np.pi, rtol=0.01)
    assert 0.39 < min(area["ellipse"]) < max(area["ellipse"]) < 1.01
    assert np.ptp(area["heart"]) < 0.01
    assert 0.5 < np.mean(area["heart"]) < 0.95
    assert 0.05 < min(area["digit"]) < max(area["digit"]) < 2 / np.pi


def test_a_shape_is_never_cut_off_by_the_border():
    rng = np.random.default_rng(0)
    image = np.full((60, 90, 3), 9, np.uint8)
    drawing = Drawing(diameter=(0.6, 0.6))
    areas = [draw_defect(image, "square", rng, drawing)[1].sum() for _ in range(50)]
    np.testing.assert_allclose(areas, 2 * 18**2, rtol=0.05)


def test_a_grey_image_gets_grey_defects():
    for seed in range(6):
        found, mask = draw_defect(noise(seed, channels=1), "ellipse", np.random.default_rng(seed))
        assert mask.any()
        np.testing.assert_array_equal(found, np.repeat(found[..., :1], 3, -1))


def good_photos(folder, count):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(noise(number)).save(folder / f"{number}.png")
    return folder


def test_the_written_data_set_is_one_of_mvtecs_layout(tmp_path):
    normal = good_photos(tmp_path / "photos", 10)
    counts = write_defects(normal, tmp_path / "out", Drawing(diameter=(0.3, 0.4)), held_out=0.3)
    assert counts == {"train/good": 7, "test/good": 3, **{f"test/{shape}": 3 for shape in SHAPES}}
    config = DataConfig(path=str(tmp_path / "out"), image_size=40)
    train, test = read_all(split_pipeline(config, "train")), read_all(split_pipeline(config, "test"))
    assert len(train["label"]) == 7
    assert np.bincount(test["label"]).tolist() == [3, 12]
    has_defect = test["defect"].any(axis=(1, 2))
    np.testing.assert_array_equal(has_defect, test["label"] == 1)
    originals = {file.read_bytes() for file in normal.iterdir()}
    copies = {
        file.read_bytes()
        for part in ("train", "test")
        for file in (tmp_path / "out" / part / "good").iterdir()
    }
    assert copies == originals


def test_the_same_seed_writes_the_same_files(tmp_path):
    normal = good_photos(tmp_path / "photos", 4)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_defects(normal, tmp_path / name, Drawing(shapes=("heart",), seed=seed))
    files = {
        name: {str(f.relative_to(tmp_path / name)): f.read_bytes() for f in (tmp_path / name).rglob("*.png")}
        for name in "abc"
    }
    assert files["a"] == files["b"]
    assert files["a"].keys() == files["c"].keys()
    assert files["a"]["ground_truth/heart/000_mask.png"] != files["c"]["ground_truth/heart/000_mask.png"]


def test_divided_photos_stay_divided(tmp_path):
    good_photos(tmp_path / "in" / "train" / "good", 3)
    good_photos(tmp_path / "in" / "test" / "good", 2)
    good_photos(tmp_path / "in" / "test" / "real_defect", 2)
    counts = write_defects(tmp_path / "in", tmp_path / "out", Drawing(shapes=("square",)))
    assert counts == {"train/good": 3, "test/good": 2, "test/square": 2}


def test_nothing_half_written_stays(tmp_path):
    normal = good_photos(tmp_path / "photos", 4)
    for file in normal.iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DamagedDataError, match=r"photos/\d\.png .*not an image"):
        write_defects(normal, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["photos"]
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        write_defects(normal, tmp_path / "out")


@pytest.mark.parametrize(
    "wrong", [{"diameter": (0.3, 0.1)}, {"photos": 2.0}, {"shapes": ()}, {"shapes": ("heart", "heart")}]
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Drawing(**wrong)
