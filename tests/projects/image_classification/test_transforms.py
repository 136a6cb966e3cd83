"""Views of images against sizes and offsets worked out by hand, and JAX's own resizing."""

import dataclasses

import jax
import numpy as np
import pytest

from offsites_jax.projects.image_classification.data_config import DataConfig
from offsites_jax.projects.image_classification.transforms import (
    augment,
    labels_of,
    plain_view,
    prepare,
    random_view,
    v1_center_crop,
)


def photograph(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def resized(image, size):
    """By JAX, which shares no code with ours; rounded."""
    small = jax.image.resize(image.astype(np.float32), (size, size, 3), "bilinear", antialias=False)
    return np.round(np.asarray(small))


@pytest.mark.parametrize(("eval_size", "side"), [(224, 35), (288, 36)], ids=["224 of 256", "288 of 320"])
def test_below_320_pixels_the_centre_is_evaluated(eval_size, side):
    image = photograph()
    top, left = (40 - side) // 2, (60 - side) // 2
    expected = resized(image[top : top + side, left : left + side], eval_size)
    found = plain_view(image, DataConfig(eval_size=eval_size)).astype(float)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("changes", [{"eval_size": 320}, {"preprocess": "whole", "eval_size": 64}])
def test_large_images_and_fine_tuning_see_all_of_it(changes):
    image = photograph()
    found = plain_view(image, DataConfig(**changes)).astype(float)
    assert np.abs(found - resized(image, changes["eval_size"])).max() <= 1


def test_efficientnet_takes_the_lower_right_of_two_middles():
    image = photograph(height=41, width=60)
    side = int(224 / 256 * 41)
    assert side == 35
    np.testing.assert_array_equal(v1_center_crop(image, 224), image[3:38, 13:48])
    image = photograph(height=40, width=60)
    np.testing.assert_array_equal(v1_center_crop(image, 224), image[3:38, 13:48])


def test_fine_tuning_resizes_the_whole_image_then_flips_and_cuts():
    image = photograph()
    plain = DataConfig(image_size=32, preprocess="whole", flip=False)
    found = random_view(image, np.random.default_rng(0), plain).astype(float)
    assert np.abs(found - resized(image, 32)).max() <= 1
    cut = dataclasses.replace(plain, cutout=0.5, cutout_fill="noise")
    record = {"image": image, "label": np.int32(1)}
    seen = [augment(record, np.random.default_rng(seed), config=cut, num_classes=2) for seed in range(20)]
    changed = [(example["image"] != found).any(-1) for example in seen]
    areas = [mask.sum() for mask in changed]
    assert max(areas) <= 16 * 16
    assert min(areas) >= 8 * 8 * 0.9, "a square half as wide, cut by the border at most twice"
    noise = np.concatenate([example["image"][mask] for example, mask in zip(seen, changed, strict=True)])
    assert noise.min() >= 128


def test_the_crop_of_efficientnet_falls_back_to_the_centre():
    """No part of this area and shape fits into a sliver, so that every draw fails."""
    image = photograph(height=4, width=400)
    config = DataConfig(image_size=8, preprocess="v1", crop_area=(0.9, 1.0), crop_aspect=(0.9, 1.1))
    found = random_view(image, np.random.default_rng(0), config)
    expected = plain_view(image, dataclasses.replace(config, eval_size=8))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("how", ["none", "randaugment", "autoaugment"])
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_follows_from_the_generator(how, channels):
    config = DataConfig(image_size=24, augment=how, magnitude=9, channels=channels)
    record = {"image": photograph(), "label": np.int32(1)}
    first, again, other = (
        [augment(record, np.random.default_rng([seed, i]), config=config, num_classes=2) for i in range(8)]
        for seed in (0, 0, 1)
    )
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, other, strict=True))
    assert {example["image"].shape for example in first} == {(24, 24, channels)}


def test_randaugment_changes_what_the_crop_alone_does_not():
    plain = DataConfig(image_size=24, flip=False, crop_area=(1.0, 1.0))
    strong = dataclasses.replace(plain, augment="randaugment", magnitude=15)
    record = {"image": photograph(), "label": np.int32(1)}
    pairs = [
        [augment(record, np.random.default_rng(i), config=c, num_classes=2)["image"] for c in (plain, strong)]
        for i in range(20)
    ]
    assert sum((a != b).any() for a, b in pairs) >= 15


def test_labels_of_features_numbers_and_lists():
    config = DataConfig(label_offset=-1)
    assert labels_of({"label": [5]}, config, 10) == 4
    assert labels_of({"label": np.int64(1)}, config, 10) == 0
    many = DataConfig(max_labels=3)
    np.testing.assert_array_equal(labels_of({"label": np.array([2, 9])}, many, 10), [2, 9, -1])
    np.testing.assert_array_equal(labels_of({"label": []}, many, 10), [-1, -1, -1])


def test_a_file_to_predict_has_no_label():
    example = prepare({"content": photograph()}, config=DataConfig(image_size=8), num_classes=3)
    assert example["label"] == -1
