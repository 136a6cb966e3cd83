"""Reads weights out of Keras files, without Keras: legacy HDF5, Keras 3 HDF5 and `.keras` archives.

Tensors are called `layer/index`: Keras keeps the weights of a layer in a fixed order (kernel, bias; gamma,
beta, moving mean, moving variance), and newer files do not name them.
"""

import contextlib
import io
import pathlib
import re
import zipfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.export.importers.tensors import Tensors

_INSIDE = "model.weights.h5"
_LIMIT = 1 << 32  # bytes that the weights inside a .keras archive may have

Sources = dict[str, str]
"""Path of a data set in the file, by `layer/index`."""


@contextlib.contextmanager
def open_keras(path: pathlib.Path) -> Iterator[Tensors]:
    """The tensors of an `.h5` or `.keras` file, until the block ends.

    Raises:
      UserError: h5py is missing, or the file keeps its weights in a way that is not known.
      DamagedDataError: it is no whole file of its kind.

    """
    try:
        import h5py
    except ImportError:
        raise UserError(
            f"{path}: reading Keras files needs h5py; pip install 'offsites-jax[keras]'"
        ) from None
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(_weights_in(path) if path.suffix == ".keras" else path.open("rb"))
        try:
            file = stack.enter_context(h5py.File(stream, "r"))
            found = _data_sets(h5py, file)
            sources = _legacy_names(file) or _numbered_names(file, found)
        except (OSError, RuntimeError, KeyError) as error:
            raise DamagedDataError(f"{path}: no whole HDF5 file ({error}); download it again") from error
        lost = sorted(set(sources.values()) - set(found))
        if lost or not sources:
            raise UserError(
                f"{path}: keeps no Keras weights {', '.join(lost[:3]) or 'by layer'}; save it anew"
            )

        def read(name: str) -> np.ndarray:
            try:
                return np.asarray(found[sources[name]])
            except (OSError, TypeError) as error:
                raise DamagedDataError(f"{path}: {name} cannot be read ({error})") from error

        yield Tensors({name: found[source].shape for name, source in sources.items()}, read, (path,))


@contextlib.contextmanager
def _weights_in(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """The HDF5 file inside a `.keras` archive; nothing else of it is looked at."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(_INSIDE).file_size > _LIMIT:
                raise UserError(
                    f"{path}: {_INSIDE} unpacks to more than {_LIMIT:,} bytes; unpack it yourself"
                )
            data = archive.read(_INSIDE)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, OSError) as error:
        raise DamagedDataError(f"{path}: no whole .keras archive ({error}); download it again") from error
    yield io.BytesIO(data)


def _data_sets(h5py: Any, file: Any) -> dict[str, Any]:
    """Data sets by path. Links are not followed, and numbers kept in other files not read."""
    found = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and not node.external and not node.is_virtual:
            found[name] = node

    file.visititems(visit)
    return found


def _legacy_names(file: Any) -> Sources:
    """Keras 2: a group for each layer, whose attribute lists the paths of its weights."""
    root = "model_weights/" if "model_weights" in file else ""
    sources = {}
    for layer, group in file[root or "/"].items():
        for index, name in enumerate(group.attrs.get("weight_names", ())):
            text = name.decode() if isinstance(name, bytes) else str(name)
            sources[f"{layer}/{index}"] = f"{root}{layer}/{text}"
    return sources


def _numbered_names(file: Any, found: dict[str, Any]) -> Sources:
    """Keras 3: groups `layers/conv2d_1/vars` with the layer's name as attribute, and numbers inside."""
    sources = {}
    for path in found:
        if match := re.fullmatch(r"((?:layers|_layer_checkpoint_dependencies)/.+/vars)/(\d+)", path):
            layer = file[match[1]].attrs.get("name")
            if layer is not None:
                sources[f"{layer}/{match[2]}"] = path
    return sources
