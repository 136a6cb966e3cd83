"""Cat-vs-Dog as Kaggle publishes it: `train/cat.0.jpg` ... `train/dog.12499.jpg`."""

import re

import cv2
import numpy as np
from etils import epath

from offsites_jax.data.image import RGBImage
from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.readers import splits
from offsites_jax.projects.one_class.readers.records import UNKNOWN, Classes, Photo, PhotoSource

NAMES = ("cat", "dog")
IMAGES = 12_500

_FILE = re.compile(r"(cat|dog)\.\d+\.jpg")


def read_cat_dog(
    root: epath.PathLike, split: str, *, images: int = IMAGES, train: int = splits.CAT_DOG_TRAIN
) -> Classes:
    """The cats, then the dogs, of a split.

    Args:
      root: the folder that holds `train/`.
      split: train (10,000 of each) or test (2,500 of each); both lie in `train/`.
      images: of each that there have to be.
      train: of each that are trained on.

    Raises:
      UserError: there is no such split, or images are missing.

    """
    if split not in ("train", "test"):
        raise UserError(f"config.data: cat_dog has no split {split!r}; use train or test")
    folder = epath.Path(root) / "train"
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; config.data.path names the one that holds Kaggle's train/"
        )
    files = sorted(file.name for file in folder.iterdir() if _FILE.fullmatch(file.name))
    cats = [name for name in files if name.startswith("cat")]
    dogs = [name for name in files if name.startswith("dog")]
    if (len(cats), len(dogs)) != (images, images):
        raise UserError(
            f"{folder}: has {len(cats)} cats and {len(dogs)} dogs, not {images} of each; unpack all of it"
        )
    positions = splits.cat_dog(len(cats), len(dogs), train=train)
    of_cats, of_dogs = positions[:2] if split == "train" else positions[2:]
    chosen = [cats[index] for index in of_cats] + [dogs[index] for index in of_dogs]
    photos = [Photo(f"train/{name}", UNKNOWN, name[:3]) for name in chosen]
    numbers = np.repeat(np.arange(2), [len(of_cats), len(of_dogs)])
    return Classes(PhotoSource(root, photos), numbers, NAMES)


def short_side(image: RGBImage, size: int) -> RGBImage:
    """The centre square after the short side was resized to `size` by areas.

    The long side is rounded down, and so is the offset (google-research/deep_representation_one_class).
    """
    height, width = image.shape[:2]
    rows = int(size * height / width) if height > width else size
    columns = size if height > width else int(size * width / height)
    resized = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    top, left = (rows - size) // 2, (columns - size) // 2
    return resized[top : top + size, left : left + size]
