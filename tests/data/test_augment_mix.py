"""Mixup and CutMix: against NumPy, their distributions against SciPy, and on a mesh."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.data.augment import mix as mixing

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)


def batch(count, height=6, width=5, classes=7):
    images = RNG.integers(0, 256, (count, height, width, 3), np.uint8)
    return images, np.eye(classes, dtype=np.float32)[RNG.integers(classes, size=count)]


def mixed(images, targets, **alphas):
    run = jax.jit(functools.partial(mixing.mix, **alphas))
    return [np.asarray(part) for part in run(images, targets, KEY)]


def swapped(rows):
    return rows[np.arange(len(rows)) ^ 1]


def separable(count, **shape):
    """Images that are all 0 or all 1, alternating: a mixed pixel is the neighbour's part."""
    images = np.zeros((count, shape.get("height", 4), shape.get("width", 4), 1), np.float32)
    images[1::2] = 1
    targets = np.tile(np.eye(2, dtype=np.float32), (count // 2, 1))
    return images, targets


def parts_of_neighbour(mixed_images):
    """Of each pixel of separable images: 1 - value where the own value was 1."""
    own = (np.arange(len(mixed_images)) % 2).reshape(-1, 1, 1, 1)
    return np.abs(mixed_images - own)[..., 0]


def test_mixup_is_a_weighted_mean_with_the_neighbour():
    images, targets = batch(10)
    got_images, got_targets = mixed(images, targets, mixup_alpha=0.4, cutmix_alpha=0.0)
    part = parts_of_neighbour(mixed(*separable(10), mixup_alpha=0.4, cutmix_alpha=0.0)[0])[:, 0, 0]
    assert len(np.unique(part)) == 10, "each example draws its own"
    wanted = images * (1 - part)[:, None, None, None] + swapped(images) * part[:, None, None, None]
    np.testing.assert_allclose(got_images, wanted, atol=1e-3)
    wanted = targets * (1 - part)[:, None] + swapped(targets) * part[:, None]
    np.testing.assert_allclose(got_targets, wanted, atol=1e-6)
    assert got_images.dtype == got_targets.dtype == np.float32


def test_cutmix_pastes_a_rectangle_and_weighs_by_its_real_area():
    images, targets = batch(400, height=12, width=9)
    got_images, got_targets = mixed(images, targets, mixup_alpha=0.0, cutmix_alpha=1.0)
    masks = parts_of_neighbour(
        mixed(*separable(400, height=12, width=9), mixup_alpha=0.0, cutmix_alpha=1.0)[0]
    )
    assert set(np.unique(masks)) == {0, 1}
    for mask in masks:
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        np.testing.assert_array_equal(mask, np.outer(rows, columns))
        assert np.abs(np.diff(np.pad(rows.astype(int), 1))).sum() in (0, 2), "one block"
    wanted = np.where(masks[..., None], swapped(images), images)
    np.testing.assert_array_equal(got_images, wanted)
    area = masks.mean(axis=(1, 2))[:, None]
    np.testing.assert_allclose(got_targets, targets * (1 - area) + swapped(targets) * area, atol=1e-6)


def test_with_both_every_second_pair_is_pasted():
    images, targets = separable(400, height=8, width=8)
    part = parts_of_neighbour(mixed(images, targets, mixup_alpha=1.0, cutmix_alpha=1.0)[0])
    is_pasted = np.arange(400) // 2 % 2 == 1
    assert set(np.unique(part[is_pasted])) == {0, 1}
    assert (part[~is_pasted].std(axis=(1, 2)) < 1e-6).all()
    assert (part[~is_pasted] > 0).all()


def test_nothing_on_changes_nothing():
    images, targets = batch(4)
    got_images, got_targets = mixed(images, targets, mixup_alpha=0.0, cutmix_alpha=0.0)
    np.testing.assert_array_equal(got_images, images)
    np.testing.assert_array_equal(got_targets, targets)


def test_targets_stay_distributions():
    images, targets = batch(64)
    _, got = mixed(images, targets, mixup_alpha=0.2, cutmix_alpha=0.2)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-6)
    assert got.min() >= 0


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 3.0])
def test_mixup_parts_are_the_smaller_side_of_beta(alpha):
    images, targets = separable(40_000, height=1, width=1)
    part = parts_of_neighbour(mixed(images, targets, mixup_alpha=alpha, cutmix_alpha=0.0)[0]).ravel()
    at = np.linspace(1e-4, 0.5, 200)
    law = scipy.stats.beta(alpha, alpha)
    wanted = law.cdf(at) + law.sf(1 - at)  # of min(b, 1 - b)
    got = np.searchsorted(np.sort(part), at, side="right") / len(part)
    assert np.abs(got - wanted).max() < 0.012, "0.0097 is the 0.999 quantile of Kolmogorov's statistic"


def test_cutmix_areas_match_google_automl():
    """Rectangles drawn by the published recipe, in NumPy: same mean area and same share of empty ones."""
    images, targets = separable(4000, height=32, width=32)
    masks = parts_of_neighbour(mixed(images, targets, mixup_alpha=0.0, cutmix_alpha=0.5)[0])
    rng = np.random.default_rng(1)
    areas = []
    for _ in range(20_000):
        y, x = rng.integers(32, size=2)
        half = int(np.sqrt(1 - rng.beta(0.5, 0.5)) * 32) // 2
        sides = [min(c + half, 32) - max(c - half, 0) for c in (y, x)]
        areas.append(np.prod(sides) / 1024)
    got = masks.mean(axis=(1, 2))
    assert scipy.stats.ks_2samp(got, areas).statistic < 0.035, "0.0337 is its 0.999 quantile"
    centre_of_mass = masks.mean(axis=0)
    assert abs(centre_of_mass[:16].mean() - centre_of_mass[16:].mean()) < 0.02
    assert abs(centre_of_mass[:, :16].mean() - centre_of_mass[:, 16:].mean()) < 0.02


@pytest.mark.parametrize("shape", [(8, 1), (4, 2)])
def test_any_mesh_gives_the_same_and_exchanges_nothing(shape):
    images, targets = batch(16)
    alphas = {"mixup_alpha": 0.3, "cutmix_alpha": 0.7}
    mesh = jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    everywhere = NamedSharding(mesh, PartitionSpec())
    run = jax.jit(
        functools.partial(mixing.mix, **alphas),
        in_shardings=(rows, rows, everywhere),
        out_shardings=(rows, rows),
    )
    for got, wanted in zip(run(images, targets, KEY), mixed(images, targets, **alphas), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    text = run.lower(images, targets, KEY).compile().as_text()
    assert not re.findall(r"all-reduce|all-gather|all-to-all|collective-permute", text)


def test_an_odd_batch_cannot_be_paired():
    images, targets = batch(3)
    with pytest.raises(ValueError, match="3 are not pairs"):
        mixing.mix(jnp.asarray(images), jnp.asarray(targets), KEY, mixup_alpha=0.1, cutmix_alpha=0.0)
