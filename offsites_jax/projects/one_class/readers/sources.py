"""Where the images of a split are: every layout the project reads, as one class against the rest."""

import functools
from collections.abc import Callable

import numpy as np
from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.data_config import CLASS_SETS, DataConfig
from offsites_jax.projects.one_class.readers import celeba, splits, textures
from offsites_jax.projects.one_class.readers.cat_dog import read_cat_dog
from offsites_jax.projects.one_class.readers.cifar import read_cifar10, read_cifar100
from offsites_jax.projects.one_class.readers.digits import read_digits
from offsites_jax.projects.one_class.readers.faces import open_faces
from offsites_jax.projects.one_class.readers.fashion_mnist import read_fashion_mnist
from offsites_jax.projects.one_class.readers.folder import open_folder
from offsites_jax.projects.one_class.readers.mvtec import open_mvtec
from offsites_jax.projects.one_class.readers.records import Classes, PhotoSource, PixelSource
from offsites_jax.projects.one_class.readers.table import open_table

VALIDATION = "validation"
UNTESTED_HELD_OUT = 0.2  # of a folder with nothing to test on: their scores set the threshold
NO_VALIDATION = "config.data.held_out: is 0, so there is no split 'validation'; hold a share out, such as 0.1"

Found = PixelSource | PhotoSource


def create_source(config: DataConfig, split: str) -> Found:
    """The images of a split: train (normal ones only), validation, test, or one that a table names.

    Raises:
      UserError: there is no such split or class, or the data is not as it has to be.

    """
    if config.source in CLASS_SETS:
        return _one_class(config, split, functools.partial(_read_classes, config))
    if config.source == "celeba":
        return celeba.open_celeba(config.path, config.category or celeba.EYEGLASSES, split)
    share = held_out(config)
    if not share or split not in ("train", VALIDATION):
        return _open(config, split)
    train = _open(config, "train")
    kept, held = splits.hold_out(len(train), share, config.split_seed)
    return train.pick((kept if split == "train" else held).indices)


def held_out(config: DataConfig) -> float:
    """The share of normal training images that is kept out of training."""
    if config.held_out is not None:
        return config.held_out
    untested = config.source == "folder" and not (epath.Path(config.path) / "test").is_dir()
    return UNTESTED_HELD_OUT if untested else 0.0


def _open(config: DataConfig, split: str) -> Found:
    """A split as it lies there."""
    if split == VALIDATION and config.source != "table":
        raise UserError(NO_VALIDATION)
    match config.source:
        case "mvtec":
            return open_mvtec(config.path, config.category, split)
        case "folder":
            return open_folder(config.path, split)
        case "table":
            return open_table(config.path, split)
        case "textures":
            return textures.open_textures(
                config.category, split, side=config.image_size, seed=config.split_seed
            )
        case "faces":
            return open_faces(split)
    raise AssertionError(config.source)


def _read_classes(config: DataConfig, split: str) -> Classes:
    match config.source:
        case "cifar10":
            return read_cifar10(config.path, split)
        case "cifar100":
            return read_cifar100(config.path, split, fine=config.fine_labels)
        case "fashion_mnist":
            return read_fashion_mnist(config.path, split)
        case "cat_dog":
            return read_cat_dog(config.path, split)
    return read_digits(split)


def _one_class(config: DataConfig, split: str, read: Callable[[str], Classes]) -> Found:
    """One class of a labelled data set against the others."""
    share = held_out(config)
    if split == VALIDATION and not share:
        raise UserError(NO_VALIDATION)
    classes = read("train" if split == VALIDATION else split)
    normal = classes.number(config.category)
    if split == "test":
        chosen = splits.one_class_test(classes.numbers, normal)
    elif share:
        train, validation = splits.one_class_validation(classes.numbers, normal, share, config.split_seed)
        chosen = train if split == "train" else validation
    else:
        chosen = splits.one_class_train(classes.numbers, normal)
    return classes.source.pick(np.asarray(chosen.indices), chosen.labels)
