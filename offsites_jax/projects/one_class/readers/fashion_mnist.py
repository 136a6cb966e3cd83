"""Fashion-MNIST as published: four gzipped idx files (Xiao et al. 2017)."""

import numpy as np
from etils import epath

from offsites_jax.data.idx import read_idx
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.one_class.readers.records import Classes, PixelSource

NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
SIDE = 28
PAD = 2  # black pixels on every side, which make 32 (google-research/deep_representation_one_class)

_PREFIXES = {"train": "train", "test": "t10k"}


def read_fashion_mnist(root: epath.PathLike, split: str) -> Classes:
    """Fashion-MNIST: `train-images-idx3-ubyte.gz` and its three companions, zipped or not.

    Args:
      root: the folder of the four files.
      split: train (60,000 images) or test (10,000), padded to 32 x 32, grey.

    Raises:
      UserError: there is no such split, or a file is missing.
      DamagedDataError: a file is not what it should be.

    """
    if split not in _PREFIXES:
        raise UserError(f"config.data: fashion_mnist has no split {split!r}; use train or test")
    folder = epath.Path(root)
    images = _array(folder / f"{_PREFIXES[split]}-images-idx3-ubyte", axes=3)
    numbers = _array(folder / f"{_PREFIXES[split]}-labels-idx1-ubyte", axes=1)
    if images.shape != (len(numbers), SIDE, SIDE):
        raise DamagedDataError(
            f"{folder}: images of shape {images.shape} for {len(numbers)} labels; download both again"
        )
    if len(numbers) == 0 or numbers.max() >= len(NAMES):
        raise DamagedDataError(f"{folder}: no labels of {split}, or some above {len(NAMES) - 1}")
    padded = np.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD)))[..., None]
    source = PixelSource(f"fashion_mnist/{split}", padded, kinds=[NAMES[number] for number in numbers])
    return Classes(source, numbers.astype(np.int64), NAMES)


def _array(file: epath.Path, axes: int) -> np.ndarray:
    zipped = file.with_name(f"{file.name}.gz")
    found = read_idx(file if file.is_file() else zipped)
    if found.dtype != np.uint8 or found.ndim != axes:
        raise DamagedDataError(f"{file}: holds {found.dtype} of {found.ndim} axes, not bytes of {axes}")
    return found
