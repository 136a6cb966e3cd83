"""Which images are trained on, held out and tested on: pure functions of labels and seeds.

Those of the published protocols draw from NumPy's legacy generator, whose streams are frozen, in the order
of google-research/deep_representation_one_class.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Integer

from offsites_jax.errors import UserError

Numbers = Integer[np.ndarray, " records"]

CAT_DOG_TRAIN = 10_000


class Chosen(NamedTuple):
    """Positions of a split and the label of each: 0 normal, 1 anomalous."""

    indices: Integer[np.ndarray, " chosen"]
    labels: Int32[np.ndarray, " chosen"]


def one_class_train(classes: Numbers, normal: int) -> Chosen:
    """One-vs-rest, training: the images of the normal class."""
    return _normals(np.flatnonzero(classes == normal))


def one_class_test(classes: Numbers, normal: int) -> Chosen:
    """One-vs-rest, testing: every image, anomalous unless of the normal class."""
    return Chosen(np.arange(len(classes)), (classes != normal).astype(np.int32))


def one_class_validation(
    classes: Numbers, normal: int, share: float = 0.1, seed: int = 1
) -> tuple[Chosen, Chosen]:
    """One-vs-rest, validation mode: a share of the normal training images, and as many others.

    Args:
      classes: of the training images.
      normal: the normal class.
      share: of the normal images that is held out.
      seed: of NumPy's legacy generator; the published code uses 1.

    Returns:
      Training and validation; the normal ones come first in the latter.

    """
    normals, others = np.flatnonzero(classes == normal), np.flatnonzero(classes != normal)
    draws = np.random.RandomState(seed)
    train, held = _cut(draws.permutation(len(normals)), share)
    strangers = draws.permutation(len(others))[: len(held)]
    indices = np.concatenate([normals[held], others[strangers]])
    labels = np.repeat(np.array([0, 1], np.int32), [len(held), len(strangers)])
    return _normals(normals[train]), Chosen(indices, labels)


def hold_out(count: int, share: float, seed: int = 1) -> tuple[Chosen, Chosen]:
    """Of so many normal images, those to train on and a share to set thresholds by, at least one of each.

    The same draw as in `one_class_validation`. Positions are in order.

    Raises:
      UserError: there are fewer than two images.

    """
    train, held = _cut(np.random.RandomState(seed).permutation(count), share)
    return _normals(np.sort(train)), _normals(np.sort(held))


def cat_dog(
    cats: int, dogs: int, *, train: int = CAT_DOG_TRAIN, seed: int = 0
) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Cat-vs-Dog: which cats and dogs, in order of file name as text, are trained on and tested on.

    Args:
      cats: number of them.
      dogs: number of them.
      train: of each are for training.
      seed: of NumPy's legacy generator, which permutes the cats first.

    Returns:
      Positions: cats to train on, dogs to train on, cats to test on, dogs to test on.

    """
    draws = np.random.RandomState(seed)
    order_of_cats = draws.permutation(cats)
    order_of_dogs = draws.permutation(dogs)
    return order_of_cats[:train], order_of_dogs[:train], order_of_cats[train:], order_of_dogs[train:]


def celeba(partition: Numbers, has_attribute: np.ndarray, split_number: int, *, normal_only: bool) -> Chosen:
    """CelebA: the faces of a partition, anomalous where they have the attribute.

    Args:
      partition: of each face: 0 train, 1 validation, 2 test.
      has_attribute: of each face.
      split_number: the partition wanted.
      normal_only: leave out those with the attribute, as training does.

    """
    chosen = partition == split_number
    if normal_only:
        chosen &= ~has_attribute
    indices = np.flatnonzero(chosen)
    return Chosen(indices, has_attribute[indices].astype(np.int32))


def _normals(indices: Integer[np.ndarray, " chosen"]) -> Chosen:
    return Chosen(indices, np.zeros(len(indices), np.int32))


def _cut(order: Numbers, share: float) -> tuple[Numbers, Numbers]:
    """The first images of an order for training, the last `share` of it to hold out."""
    if len(order) < 2:
        raise UserError(
            f"config.data.held_out: cannot hold any of {len(order)} normal images out; give at least two"
        )
    train = min(max(int(len(order) * (1 - share)), 1), len(order) - 1)
    return order[:train], order[train:]
