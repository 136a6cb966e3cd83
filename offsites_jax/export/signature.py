"""What an exported model takes and gives: names, shapes and dtypes, kept in `signature.json`."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from offsites_jax.errors import UserError

SIGNATURE = "signature.json"


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """One input or output.

    Attributes:
      shape: sizes; a string such as "batch" is a size the caller chooses, the same wherever it occurs.
      dtype: NumPy's name of the dtype, "bfloat16" included.

    """

    shape: tuple[int | str, ...]
    dtype: str

    @classmethod
    def of(cls, array: Any) -> "ArraySpec":
        """Spec of anything with a shape (possibly symbolic) and a dtype."""
        sizes = (size if isinstance(size, int) else str(size) for size in array.shape)
        return cls(tuple(sizes), str(array.dtype))


@dataclasses.dataclass(frozen=True)
class Signature:
    """The interface of an export.

    Attributes:
      inputs, outputs: specs by name.
      jax_version: of the jax that wrote the export.
      platforms: where the compiled function runs ("cpu", "tpu", "cuda", "rocm"); none for parameters alone.
      calling_convention_version: of `jax.export`; 0 for parameters alone.

    """

    inputs: Mapping[str, ArraySpec]
    outputs: Mapping[str, ArraySpec]
    jax_version: str
    platforms: tuple[str, ...] = ()
    calling_convention_version: int = 0

    def write(self, folder: pathlib.Path) -> None:
        """Writes `signature.json`."""
        text = json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)
        (folder / SIGNATURE).write_text(text + "\n")

    @classmethod
    def read(cls, folder: pathlib.Path) -> "Signature":
        """Reads `signature.json`."""
        fields = json.loads((folder / SIGNATURE).read_text())
        for key in ("inputs", "outputs"):
            specs = fields[key].items()
            fields[key] = {name: ArraySpec(tuple(s["shape"]), s["dtype"]) for name, s in specs}
        return cls(**{**fields, "platforms": tuple(fields["platforms"])})

    def check_inputs(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The batch as arrays, if it is one this model takes.

        Raises:
          UserError: names the first input whose name, dtype or shape is wrong.

        """
        if set(batch) != set(self.inputs):
            raise UserError(f"inputs: got {sorted(batch)}, the model takes {sorted(self.inputs)}")
        arrays = {name: np.asarray(value) for name, value in batch.items()}
        sizes: dict[str, int] = {}
        for name, spec in self.inputs.items():
            array = arrays[name]
            if str(array.dtype) != spec.dtype:
                raise UserError(
                    f"input {name!r}: dtype {array.dtype}, the model takes {spec.dtype}; convert it"
                )
            if not fits(array.shape, spec.shape, sizes):
                expected = _resolved(spec.shape, sizes)
                raise UserError(f"input {name!r}: shape {_text(array.shape)}, the model takes {expected}")
        return arrays


def fits(shape: tuple[int, ...], expected: tuple[int | str, ...], sizes: dict[str, int]) -> bool:
    """Whether a shape is as expected; chosen sizes are entered into `sizes` at their first occurrence."""
    if len(shape) != len(expected):
        return False
    for size, wanted in zip(shape, expected, strict=True):
        if isinstance(wanted, str):
            # An export is made for any size from one on; zero rows are no batch.
            wanted = sizes.setdefault(wanted, max(size, 1))
        if size != wanted:
            return False
    return True


def _resolved(shape: tuple[int | str, ...], sizes: Mapping[str, int]) -> str:
    """The expected shape with sizes that are already chosen: (batch=3, 8)."""
    known = (f"{size}={sizes[size]}" if isinstance(size, str) and size in sizes else size for size in shape)
    return _text(tuple(known))


def _text(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
