"""Published pickles of numbers, text and arrays, read without running anything that they say.

Unpickling calls whatever a file names. Here a file may name only what rebuilds NumPy arrays, and even those
names stand for descriptions in this module: NumPy's own unpickling, which trusts its input, is never called.
"""

import io
import math
import pickle
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from offsites_jax.errors import DamagedDataError

_MAX_DEPTH = 32
_BYTE_ORDERS = ("<", ">", "=", "|")
_PLAIN_KINDS = "biufcSU"  # numbers and text; no objects, records or void


def loads(data: bytes, *, encoding: Literal["ASCII", "bytes", "latin1"] = "ASCII") -> Any:
    """The object that a pickle holds, of dicts, lists, tuples, sets, numbers, text, bytes and arrays.

    Args:
      data: the whole file.
      encoding: of 8-bit text that Python 2 wrote; "bytes" leaves it bytes, as CIFAR's keys are.

    Raises:
      DamagedDataError: the file is cut off or no pickle, or it asks for anything but plain data.

    """
    try:
        found = _Unpickler(io.BytesIO(data), encoding=encoding).load()
    except DamagedDataError:
        raise
    except Exception as error:  # the parser raises nearly every type on damaged bytes
        raise DamagedDataError(f"not a whole pickle ({' '.join(str(error).split())[:200]})") from error
    return _plain(found, {}, 0)


class _Unpickler(pickle.Unpickler):
    """Refuses every name that is not one of `_ADMITTED`."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise DamagedDataError(
                f"the pickle wants to call {module}.{name}, which plain data does not need; "
                "get the file from its publisher"
            ) from None


class _Dtype:
    """What a pickle says of an element type; its state may only set the byte order."""

    def __init__(self, name: str | bytes, align: bool = False, copy: bool = True) -> None:
        text = name.decode("ascii") if isinstance(name, bytes) else name
        self.dtype = np.dtype(text) if isinstance(text, str) and "," not in text else None
        if self.dtype is None or self.dtype.kind not in _PLAIN_KINDS:
            raise DamagedDataError(f"the pickle has an array of {text!r}; only numbers and text are read")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subtype, names, fields = state[:5]
        order = order.decode("ascii") if isinstance(order, bytes) else order
        if subtype is not None or names is not None or fields is not None or order not in _BYTE_ORDERS:
            raise DamagedDataError("the pickle has an array of records; only numbers and text are read")
        assert self.dtype is not None
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


class _Values:
    """What a pickle says of an array: filled in by its state."""

    array: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, kind, by_columns, raw = state[-4:]
        self.array = _array(raw, kind, shape, "F" if by_columns else "C")


def _array(raw: Any, kind: _Dtype, shape: Any, order: str) -> np.ndarray:
    """The array of these bytes, when they are as many as its shape says."""
    if isinstance(raw, str):  # Python 2 wrote bytes as text
        raw = raw.encode("latin1")
    sizes = shape if isinstance(shape, tuple) else (shape,)
    if not isinstance(kind, _Dtype) or not isinstance(raw, bytes | bytearray):
        raise DamagedDataError("the pickle has an array that does not say its type or bytes")
    assert kind.dtype is not None
    whole = all(isinstance(size, int) and size >= 0 for size in sizes)
    if not whole or len(raw) != math.prod(sizes) * kind.dtype.itemsize:
        raise DamagedDataError(f"the pickle has {len(raw)} bytes for an array of shape {sizes}")
    values = np.frombuffer(raw, kind.dtype) if len(raw) else np.empty(0, kind.dtype)
    return values.reshape(sizes, order="F" if order == "F" else "C").copy()


def _reconstruct(subtype: type, shape: tuple[int, ...], kind: str | bytes) -> _Values:
    """The empty array that a state will fill; the shape given here is never allocated."""
    return _Values()


def _scalar(kind: _Dtype, raw: bytes | str) -> Any:
    return _array(raw, kind, (), "C")[()]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Bytes as Python 3 writes them for readers of Python 2."""
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Empty bytes as Python 3 writes them for readers of Python 2; `bytes(number)` would allocate."""
    return b""


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Values,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array for core in ("core", "_core")},
    **{(module, "bytes"): _no_bytes for module in ("builtins", "__builtin__")},
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, complex)
    },
}


def _plain(value: Any, done: dict[int, Any], depth: int) -> Any:
    """`value` with descriptions of arrays replaced by arrays; shared parts stay shared."""
    if depth > _MAX_DEPTH:
        raise DamagedDataError(f"the pickle is nested more than {_MAX_DEPTH} deep")
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, _Values):
        result: Any = value.array
        if result is None:
            raise DamagedDataError("the pickle has an array without values")
    elif isinstance(value, dict):
        result = {key: _plain(inner, done, depth + 1) for key, inner in value.items()}
    elif isinstance(value, list | tuple):
        result = type(value)(_plain(inner, done, depth + 1) for inner in value)
    elif isinstance(value, _Dtype):
        result = value.dtype
    else:
        return value
    done[id(value)] = result
    return result
