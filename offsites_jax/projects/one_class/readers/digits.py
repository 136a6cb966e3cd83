"""Handwritten digits inside scikit-learn: even rows to train on, odd rows to test on."""

import numpy as np

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.readers.records import Classes, PixelSource

NAMES = tuple(map(str, range(10)))
LEVELS = 16  # the brightest value of a scan


def read_digits(split: str) -> Classes:
    """The digits of a split, 8 x 8 pixels, grey (Alpaydin and Kaynak, UCI repository, 1998).

    Raises:
      UserError: there is no such split.

    """
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise UserError(f"config.data: digits has no split {split!r}; use train or test")
    data = load_digits()
    chosen = slice(0 if split == "train" else 1, None, 2)
    pixels = np.round(data.images[chosen] * (255 / LEVELS)).astype(np.uint8)[..., None]
    numbers = data.target[chosen].astype(np.int64)
    source = PixelSource(f"digits/{split}", pixels, kinds=[NAMES[number] for number in numbers])
    return Classes(source, numbers, NAMES)
