"""Labelled images: where they are, and how one becomes an example."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from offsites_jax.data import image as images
from offsites_jax.data.files import FilesSource
from offsites_jax.data.pipeline import Loading, Pipeline
from offsites_jax.data.source import ArraySource, ImageFolderSource, RandomAccess, TFDSSource
from offsites_jax.errors import UserError
from offsites_jax.train.config import Experiment

Record = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Section `data`.

    Attributes:
      source: digits (the 1,797 scans inside scikit-learn), folder (`<path>/<split>/<class>/*.jpg`), or tfds.
      path: root of a folder source; data_dir of a tfds one.
      name: name of a TFDS data set.
      train_split: split that training reads.
      image_size: side of a training image, in pixels.
      eval_size: side at evaluation; 0 is the training size.
      pad: black pixels added on every side before anything else, in pixels of the source.
      channels: 3 for colour, 1 for grey.
      mean, std: subtracted from and dividing pixels of 0..255, on the device.
      crop_area: share of the image a random crop covers, smallest and largest.
      crop_aspect: its width over height, smallest and largest.
      flip: mirror half of the training images.
      loading: workers, prefetch, what to do about a bad record.

    """

    source: Literal["digits", "folder", "tfds"] = "tfds"
    path: str = ""
    name: str = "imagenet2012"
    train_split: str = "train"
    image_size: int = 224
    eval_size: int = 0
    pad: int = 0
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = (128.0,)
    std: tuple[float, ...] = (128.0,)
    crop_area: tuple[float, float] = (0.05, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    loading: Loading = Loading()


def create_pipeline(experiment: Experiment, split: str, train: bool) -> Pipeline:
    """The pipeline of one split: augmented for training, plain for evaluation."""
    config: DataConfig = experiment.data
    source = create_source(config, split)
    transform = augment if train else prepare
    return Pipeline(source, functools.partial(transform, config=config))


def create_input_pipeline(experiment: Experiment, paths: Sequence[str]) -> Pipeline:
    """The pipeline of image files a user names, for `offsites predict`."""
    return Pipeline(FilesSource(paths), functools.partial(prepare, config=experiment.data))


def create_source(config: DataConfig, split: str) -> RandomAccess:
    """Records with `image` (encoded bytes or pixels) and `label`."""
    if config.source == "digits":
        return digits(split)
    if config.source == "folder":
        return ImageFolderSource(pathlib.Path(config.path), split)
    return TFDSSource(config.name, split, config.path or None)


def digits(split: str) -> ArraySource:
    """Handwritten digits, 8 x 8 pixels, a fifth of every class kept for testing (scikit-learn `load_digits`).

    Alpaydin and Kaynak's optical recognition data set, UCI repository, 1998. The split is always the same.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = data.target.astype(np.int32)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    chosen = {"train": np.sort(train), "test": np.sort(test)}.get(split)
    if chosen is None:
        raise UserError(f"config.data: digits has no split {split!r}; use train or test")
    return ArraySource({"image": pixels[chosen], "label": labels[chosen]})


def augment(record: Record, rng: np.random.Generator, *, config: DataConfig) -> Record:
    """A random crop at training size, perhaps mirrored."""
    image = images.inception_crop(
        pixels_of(record, config), rng, area=config.crop_area, aspect=config.crop_aspect
    )
    image = to_uint8(images.resize(image, (config.image_size, config.image_size)))
    if config.flip:
        image = images.random_flip(image, rng)
    return {"image": np.ascontiguousarray(image), "label": np.asarray(record["label"], np.int32)}


def prepare(record: Record, rng: np.random.Generator | None = None, *, config: DataConfig) -> Record:
    """The image at evaluation size: centre crop below 320 pixels, squashed above (google/automl)."""
    size = config.eval_size or config.image_size
    image = pixels_of(record, config)
    if min(image.shape[:2]) > size:
        image = images.evaluation_crop(image, size)
    image = to_uint8(images.resize(image, (size, size)))
    return {"image": image, "label": np.asarray(record.get("label", -1), np.int32)}


def pixels_of(record: Record, config: DataConfig) -> UInt8[np.ndarray, "height width channels"]:
    """Decoded and padded pixels with the wanted number of channels; colour becomes grey by luma weights."""
    image = record["content"] if "content" in record else record["image"]
    image = images.decode(image) if isinstance(image, bytes) else image
    if config.pad:
        image = np.pad(image, ((config.pad, config.pad), (config.pad, config.pad), (0, 0)))
    if image.shape[-1] == config.channels:
        return image
    if config.channels == 3:
        return np.repeat(image, 3, axis=-1)
    return to_uint8(image @ np.array([[0.299], [0.587], [0.114]]))


def to_uint8(image: np.ndarray) -> UInt8[np.ndarray, "height width channels"]:
    """Rounded and clipped to 0..255."""
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
