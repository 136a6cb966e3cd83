"""Textures inside scikit-image: training and test parts do not touch, and defects are where masks say."""

import numpy as np
import pytest
from PIL import Image

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.data import DataConfig, read_all, split_pipeline
from offsites_jax.projects.one_class.readers.textures import NAMES, installed, open_textures


def windows_of(part, side=32):
    """Every window of a part of a picture, by its pixels."""
    windows = np.lib.stride_tricks.sliding_window_view(part, (side, side))
    return {window.tobytes() for row in windows for window in row}


def test_train_windows_come_from_the_left_normal_test_windows_from_the_right():
    picture = np.asarray(Image.open(installed("brick.png")))
    right = windows_of(picture[:, 320:])
    train, test = open_textures("brick", "train"), open_textures("brick", "test")
    assert train.images.shape == (61 * 37, 32, 32, 1)
    np.testing.assert_array_equal(train.images[38, ..., 0], picture[8:40, 8:40])
    np.testing.assert_array_equal(train.images[-1, ..., 0], picture[480:512, 288:320])
    assert all(image.tobytes() in right for image in test.images[:300])


@pytest.mark.parametrize("texture", NAMES)
def test_defects_are_of_the_announced_sizes_and_places(texture):
    picture = np.asarray(Image.open(installed(f"{texture}.png")))
    test = open_textures(texture, "test", seed=3)
    assert np.bincount(test.labels).tolist() == [300, 300]
    np.testing.assert_array_equal(test.masks.any((1, 2)), test.labels == 1)
    heights = test.masks[300:].any(2).sum(1)
    widths = test.masks[300:].any(1).sum(1)
    for sizes in (heights, widths):
        assert set(sizes) == set(range(6, 14))
    full = test.masks[300:].sum((1, 2)) == heights * widths
    assert 100 < full.sum() < 200  # squares; the others are ellipses
    assert (heights[full] == widths[full]).all()
    # Outside of its mask every defective window is one of the right part's.
    windows = np.lib.stride_tricks.sliding_window_view(picture[:, 320:], (32, 32)).reshape(-1, 32, 32)
    for image, mask in zip(test.images[300:304, ..., 0], test.masks[300:304], strict=True):
        differs = (windows[:, 0] != image[0]) & ~mask[0]
        (candidates,) = np.nonzero(~differs.any(1))
        assert any((windows[at][~mask] == image[~mask]).all() for at in candidates)


def test_raw_pixels_score_as_in_an_independent_trial():
    """Ledoit-Wolf on the pixels of gravel gave 0.776 on other draws of windows and defects."""
    from sklearn.covariance import ledoit_wolf_shrinkage
    from sklearn.metrics import roc_auc_score

    sources = [open_textures("gravel", split) for split in ("train", "test")]
    flat = [source.images.reshape(-1, 1024).astype(float) for source in sources]
    train, test = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in flat)
    centred, apart = train - train.mean(0), test - train.mean(0)
    shrinkage = ledoit_wolf_shrinkage(centred, assume_centered=True)
    covariance = centred.T @ centred / len(centred)
    spherical = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    whitened = np.linalg.solve((1 - shrinkage) * covariance + shrinkage * spherical, apart.T)
    area = roc_auc_score(sources[1].labels, (apart * whitened.T).sum(1))
    assert area == pytest.approx(0.776, abs=0.03)


def test_a_seed_gives_the_same_defects_again():
    first, again, other = (open_textures("grass", "test", seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.images, again.images)
    assert (first.images != other.images).any()


def test_tiles_have_one_defect_each_and_their_own_size():
    config = DataConfig(source="textures", category="gravel", image_size=32)
    found = read_all(split_pipeline(config, "tiles"))
    assert found["image"].shape == (12, 128, 128, 3)
    assert found["label"].all()
    assert ((found["defect"].sum((1, 2)) >= 20) & (found["defect"].sum((1, 2)) <= 169)).all()


def test_wrong_names_are_named():
    with pytest.raises(UserError, match="no texture 'gras'; did you mean grass"):
        open_textures("gras", "train")
    with pytest.raises(UserError, match="no split 'val'"):
        open_textures("grass", "val")
    with pytest.raises(UserError, match=r"image_size: is 300; a window has 13 to 192"):
        open_textures("grass", "train", side=300)
    with pytest.raises(UserError, match="without it"):
        installed("no_such_picture.png")
