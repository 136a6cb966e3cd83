"""Opens a weights file of any format that published models come in."""

import contextlib
import dataclasses
import pathlib
import pickle
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.export.importers import archive
from offsites_jax.export.importers.bundle import read_bundle
from offsites_jax.export.importers.keras_file import open_keras
from offsites_jax.export.importers.tensors import Tensors

_KERAS = (".h5", ".hdf5", ".keras")
_TORCH = (".pth", ".pt", ".bin", ".tar")
_STATE_DICTS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training scripts of PyTorch keep weights in a checkpoint, averaged ones first."""


@contextlib.contextmanager
def open_tensors(path: pathlib.Path) -> Iterator[Tensors]:
    """The tensors of a file, until the block ends.

    Args:
      path: `.safetensors`; a Keras `.h5` or `.keras`; a PyTorch `.pth`, `.pt` or `.bin`; or a TensorFlow
        checkpoint: its prefix, its `.index`, its folder, or a `.tgz` of it.

    Raises:
      UserError: there is no such file, or a package to read it is missing.
      DamagedDataError: the file is not what its name says.

    """
    path = path.expanduser()
    if path.name.endswith(archive.SUFFIXES) and not path.name.endswith(".pth.tar"):
        with tempfile.TemporaryDirectory() as folder:
            _check_exists(path)
            archive.unpack_checkpoint(path, pathlib.Path(folder))
            yield dataclasses.replace(read_bundle(_prefix_in(pathlib.Path(folder), path)), files=(path,))
    elif path.is_dir():
        yield read_bundle(_prefix_in(path, path))
    elif path.suffix == ".index" or path.with_name(path.name + ".index").is_file():
        _check_exists(path.with_name(path.name.removesuffix(".index") + ".index"))
        yield read_bundle(path.with_name(path.name.removesuffix(".index")))
    else:
        _check_exists(path)
        with _open_file(path) as tensors:
            yield tensors


@contextlib.contextmanager
def _open_file(path: pathlib.Path) -> Iterator[Tensors]:
    if path.suffix == ".safetensors":
        yield _read_safetensors(path)
    elif path.suffix in _KERAS:
        with open_keras(path) as tensors:
            yield tensors
    elif path.suffix in _TORCH:
        yield _read_torch(path)
    else:
        raise UserError(
            f"{path}: weights are read from .safetensors, .h5, .keras, .pth, .pt and .bin files, and "
            "TensorFlow checkpoints (.index, .tgz, or their folder)"
        )


def _read_safetensors(path: pathlib.Path) -> Tensors:
    """The library bounds the header at 100 MB, and every tensor by the file, before it reads any."""
    try:
        return Tensors.of(load_file(path), path)
    except SafetensorError as error:
        if _is_pickle(path):
            raise UserError(
                f"{path}: a PyTorch pickle by its first bytes; name it .pth, which is read where torch is "
                "installed, or convert it there: safetensors.torch.save_file(torch.load(old, "
                "weights_only=True), new)"
            ) from None
        raise DamagedDataError(f"{path}: no whole safetensors file ({error}); download it again") from error
    except AttributeError as error:  # how the library says that NumPy has no such type
        raise UserError(f"{path}: holds numbers that are not read ({error}); save it in float32") from error


def _is_pickle(path: pathlib.Path) -> bool:
    """Whether a file begins as pickles do, or as the zip archives that PyTorch keeps them in."""
    with path.open("rb") as stream:
        first = stream.read(9)
    # Eight bytes of a length may begin so too, but then the header follows.
    return first.startswith((b"\x80", b"PK")) and first[8:] != b"{"


def _read_torch(path: pathlib.Path) -> Tensors:
    """Through PyTorch's restricted unpickler only, which makes tensors and plain containers."""
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path}: a PyTorch pickle, read only where torch is installed (pip install torch); or convert "
            "it to .safetensors elsewhere"
        ) from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: holds more than weights, so it is not unpickled; save model.state_dict() alone, or as "
            ".safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DamagedDataError(f"{path}: no whole PyTorch file ({reason}); download it again") from error
    found = _state_dict(loaded)
    arrays = {name: _to_numpy(torch, tensor) for name, tensor in found.items() if torch.is_tensor(tensor)}
    if not arrays:
        raise UserError(f"{path}: holds no tensors; save model.state_dict()")
    return Tensors.of(arrays, path)


def _state_dict(loaded: Any) -> Mapping[str, Any]:
    """Weights by name, out of whatever a training script wrapped them in."""
    for key in _STATE_DICTS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping):
        return {}
    return {str(name).removeprefix("module."): value for name, value in loaded.items()}


def _to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    # NumPy's bfloat16 is unknown to PyTorch; every bfloat16 is a float32.
    plain = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return np.asarray(plain.detach())


def _prefix_in(folder: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """The checkpoint a folder holds: the one that its file `checkpoint` names, or the only one."""
    prefixes = sorted(file.with_suffix("") for file in folder.glob("*.index"))
    latest = folder / "checkpoint"
    if latest.is_file():
        text = latest.read_bytes()[: 1 << 16].decode(errors="replace")
        named = re.search(r'^model_checkpoint_path: "(?:.*/)?([^/"]+)"', text, re.MULTILINE)
        prefixes = [prefix for prefix in prefixes if named and prefix.name == named[1]] or prefixes
    if len(prefixes) != 1:
        names = ", ".join(prefix.name for prefix in prefixes) or "none"
        raise UserError(f"{path}: one TensorFlow checkpoint is wanted, found {names}; name one's .index file")
    return prefixes[0]


def _check_exists(path: pathlib.Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file; download the weights first")
