"""Splits against the published recipes, written down independently with NumPy's global generator."""

import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.readers import splits

CLASSES = np.random.default_rng(0).integers(0, 10, 1000)


def test_one_against_the_rest():
    train, test = splits.one_class_train(CLASSES, 3), splits.one_class_test(CLASSES, 3)
    assert (CLASSES[train.indices] == 3).all()
    assert len(train.indices) == (CLASSES == 3).sum()
    assert not train.labels.any()
    np.testing.assert_array_equal(test.indices, np.arange(1000))
    np.testing.assert_array_equal(test.labels == 0, CLASSES == 3)


def test_validation_mode_is_the_published_draw():
    train, validation = splits.one_class_validation(CLASSES, 3)
    normals, others = np.where(CLASSES == 3)[0], np.where(CLASSES != 3)[0]
    np.random.seed(1)
    order = np.random.permutation(len(normals))
    cut = int(len(order) * 0.9)
    strangers = np.random.permutation(len(others))[: len(order) - cut]
    np.testing.assert_array_equal(train.indices, normals[order[:cut]])
    np.testing.assert_array_equal(
        validation.indices, np.concatenate([normals[order[cut:]], others[strangers]])
    )
    assert validation.labels.tolist() == [0] * (len(order) - cut) + [1] * (len(order) - cut)
    np.testing.assert_array_equal(validation.labels == 0, CLASSES[validation.indices] == 3)


@pytest.mark.parametrize(
    ("count", "share", "held"), [(60, 0.2, 12), (2, 0.1, 1), (3, 0.999, 2), (400, 0.1, 40)]
)
def test_holding_out_takes_a_share_and_leaves_at_least_one(count, share, held):
    train, kept = splits.hold_out(count, share)
    assert len(kept.indices) == held
    np.testing.assert_array_equal(np.sort(np.concatenate([train.indices, kept.indices])), np.arange(count))
    again, _ = splits.hold_out(count, share)
    np.testing.assert_array_equal(train.indices, again.indices)


def test_another_seed_holds_out_others():
    drawn = {tuple(splits.hold_out(60, 0.2, seed)[1].indices) for seed in range(5)}
    assert len(drawn) == 5
    with pytest.raises(UserError, match="give at least two"):
        splits.hold_out(1, 0.5)


def test_celeba_keeps_the_partitions():
    partition, has = np.array([0, 0, 1, 2, 2]), np.array([True, False, True, True, False])
    train = splits.celeba(partition, has, 0, normal_only=True)
    test = splits.celeba(partition, has, 2, normal_only=False)
    assert (train.indices.tolist(), train.labels.tolist()) == ([1], [0])
    assert (test.indices.tolist(), test.labels.tolist()) == ([3, 4], [1, 0])
