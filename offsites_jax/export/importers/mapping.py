"""Fills a model's variables from the tensors of a file, strictly: nothing missing, nothing left over."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.export.importers.tensors import Tensors

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a leaf comes from.

    Attributes:
      name: of the tensor in the file.
      axes: the transposition that makes it the leaf; none for a tensor that lies as ours does.
      view: shape to give the tensor before that, where it is another than its own.
      there: its own shape, where there is a `view`.
      part: for a tensor of several leaves: the axis of the view they lie along (which then goes), the place
        of this one, and their number.
      turned: axes of the leaf that run the other way there.

    """

    name: str
    axes: tuple[int, ...] | None = None
    view: tuple[int, ...] | None = None
    there: tuple[int, ...] | None = None
    part: tuple[int, int, int] | None = None
    turned: tuple[int, ...] = ()

    def shape_there(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape the tensor must have to become a leaf of `shape`."""
        if self.there is not None:
            return self.there
        if self.axes is None:
            return shape
        return tuple(shape[self.axes.index(axis)] for axis in range(len(shape)))

    def convert(self, array: np.ndarray) -> np.ndarray:
        """The leaf out of the tensor."""
        if self.view is not None:
            array = array.reshape(self.view)
        if self.part is not None:
            array = array.take(self.part[1], axis=self.part[0])
        array = array if self.axes is None else array.transpose(self.axes)
        return np.flip(array, self.turned)

    def revert(self, leaf: np.ndarray) -> np.ndarray:
        """The tensor out of the leaf, or the leaf's part of it: what `convert` transposed, turned back."""
        leaf = np.flip(leaf, self.turned)
        return leaf if self.axes is None else leaf.transpose(np.argsort(self.axes))


@dataclasses.dataclass(frozen=True)
class NameTable:
    """What a source calls a model's leaves.

    Attributes:
      origins: where each leaf comes from, by its flat name.
      head: prefix of the leaves of the classifier.
      head_there: regular expression of its tensors.
      ignored: regular expressions of tensors that are no weights of the model, such as optimizer slots.

    """

    origins: Mapping[str, Origin]
    head: str
    head_there: str
    ignored: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Filled:
    """What an import made.

    Attributes:
      leaves: arrays by flat name.
      origins: the tensor each came from.
      skipped: leaves of a new head, which have to be initialised.
      ignored: tensors of the file that were not wanted.

    """

    leaves: Mapping[str, np.ndarray]
    origins: Mapping[str, str]
    skipped: tuple[str, ...]
    ignored: tuple[str, ...]


def fill(wanted: Mapping[str, Any], table: NameTable, tensors: Tensors, *, new_head: bool = False) -> Filled:
    """Reads every leaf from its tensor.

    Args:
      wanted: the model's leaves, anything with shape and dtype.
      table: where they come from.
      tensors: the file.
      new_head: leave out the classifier, and ignore the file's.

    Raises:
      UserError: tensors are missing, unknown, of another shape or no floats.
      DamagedDataError: a tensor is not finite.

    """
    heads = [name for name in wanted if name.startswith(table.head)] if new_head else []
    origins = {name: table.origins[name] for name in wanted if name not in heads}
    ignored = (*table.ignored, table.head_there) if new_head else table.ignored
    unused = [name for name in tensors.shapes if name not in {origin.name for origin in origins.values()}]
    _check_names(origins, unused, ignored, tensors)
    _check_shapes(origins, wanted, table.head, tensors)
    leaves = {name: _read(tensors, origin, wanted[name].dtype) for name, origin in origins.items()}
    names = {name: origin.name for name, origin in origins.items()}
    return Filled(leaves, names, tuple(heads), tuple(unused))


def spill(leaves: Mapping[str, np.ndarray], table: NameTable) -> dict[str, np.ndarray]:
    """The tensors of a file out of a model's leaves: `fill` the other way round.

    Args:
      leaves: all leaves that the table knows.
      table: where they would come from.

    """
    parts: dict[str, list[tuple[Origin, np.ndarray]]] = {}
    for name, origin in table.origins.items():
        parts.setdefault(origin.name, []).append((origin, origin.revert(leaves[name])))
    return {name: np.ascontiguousarray(_joined(found)) for name, found in parts.items()}


def _joined(found: Sequence[tuple[Origin, np.ndarray]]) -> np.ndarray:
    """One tensor out of its parts."""
    origin, array = found[0]
    if origin.part is not None:
        in_order = sorted(found, key=lambda pair: pair[0].part or ())
        array = np.stack([part for _, part in in_order], axis=origin.part[0])
    return array if origin.there is None else array.reshape(origin.there)


def _check_names(
    origins: Mapping[str, Origin], unused: Sequence[str], ignored: Iterable[str], tensors: Tensors
) -> None:
    missing = [origin.name for origin in origins.values() if origin.name not in tensors.shapes]
    pattern = re.compile("|".join(f"(?:{regex})" for regex in ignored) or r"(?!)")
    unknown = [name for name in unused if not pattern.search(name)]
    if missing or unknown:
        parts = [_some(kind, names) for kind, names in (("missing", missing), ("unknown", unknown)) if names]
        raise UserError(
            f"{tensors.files[0]}: not the weights of this model: {'; '.join(parts)}; check the model's name "
            "and --from"
        )


def _check_shapes(
    origins: Mapping[str, Origin], wanted: Mapping[str, Any], head: str, tensors: Tensors
) -> None:
    for name, origin in origins.items():
        found, expected = tensors.shapes[origin.name], origin.shape_there(wanted[name].shape)
        if tuple(found) != expected:
            remedy = "check the model's name and settings"
            if name.startswith(head):
                remedy = (
                    "give its number of classes (--classes, or model.num_classes of an --experiment), or "
                    "leave the classifier out (--new-head)"
                )
            raise UserError(
                f"{tensors.files[0]}: {origin.name} is {list(found)}, but {name} needs {list(expected)}; "
                f"{remedy}"
            )


def _read(tensors: Tensors, origin: Origin, dtype: Any) -> np.ndarray:
    array = tensors.read(origin.name)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(f"{tensors.files[0]}: {origin.name} is of {array.dtype}, not of a floating type")
    # A copy: the leaf is in order in memory and outlives the file.
    leaf = np.array(origin.convert(array), dtype, order="C")
    if not np.isfinite(leaf.astype(np.float32)).all():
        raise DamagedDataError(f"{tensors.files[0]}: {origin.name} is not finite; download it again")
    return leaf


def _some(kind: str, names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{more})"
