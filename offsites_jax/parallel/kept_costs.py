"""Costs of programs, kept in a folder: the same program need not be compiled twice."""

import hashlib
import importlib.metadata
import os
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from etils import epath

FORMAT = 2  # of what is measured; raise it when a cost of before would be wrong
PACKAGES = ("jax", "jaxlib", "libtpu")

T = TypeVar("T")


def digest(text: str, topology: str, mesh: Mapping[str, int]) -> str:
    """Names one program for one topology, as this compiler would compile it.

    Args:
      text: of the program before it is compiled.
      topology: that it is compiled for, with the number of slices.
      mesh: sizes of its axes.

    """
    versions = [importlib.metadata.version(name) for name in PACKAGES]
    whole = msgspec.json.encode([FORMAT, topology, dict(mesh), versions, text])
    return hashlib.sha256(whole).hexdigest()


def read(folder: epath.Path, name: str, kind: type[T]) -> T | None:
    """The cost kept under this digest; None where there is none, or none that can be read."""
    try:
        return msgspec.json.decode((folder / f"{name}.json").read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def write(folder: epath.Path, name: str, cost: object) -> None:
    """Keeps a cost, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{name}.{os.getpid()}.tmp"
    unfinished.write_bytes(msgspec.json.encode(cost))
    unfinished.replace(folder / f"{name}.json")
