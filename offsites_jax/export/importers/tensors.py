"""The tensors of a weights file, whatever its format: names and shapes first, numbers when asked for."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensors:
    """An open weights file.

    Attributes:
      shapes: shape by name, of every tensor in it.
      read: the numbers of one of them.
      files: the files it consists of.

    """

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    files: tuple[pathlib.Path, ...]

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], *files: pathlib.Path) -> "Tensors":
        """Arrays that are in memory already."""
        return cls({name: array.shape for name, array in arrays.items()}, arrays.__getitem__, files)
