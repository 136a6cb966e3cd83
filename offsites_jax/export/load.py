"""Runs an exported model: no model code, no training code.

A StableHLO export needs jax, NumPy and safetensors alone; a SavedModel, TensorFlow too.
"""

import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file

from offsites_jax.errors import UserError
from offsites_jax.export.manifest import MANIFEST, as_path, is_remote, verify
from offsites_jax.export.signature import Signature

MODEL = "model.stablehlo"
PARAMS = "params.safetensors"

Call = Callable[[dict[str, np.ndarray]], Mapping[str, Any]]


class Exported:
    """An exported model, ready to call.

    Attributes:
      manifest: what was exported: project, step, metrics, versions, files.
      signature: names, shapes and dtypes of inputs and outputs.
      params: parameters and model state by flat name, such as "params/stem/conv/kernel".

    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        signature: Signature,
        params: Mapping[str, Any],
        call: Call,
    ) -> None:
        self.manifest = manifest
        self.signature = signature
        self.params = params
        self._call = call

    def predict(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Outputs for one batch. Each new batch size compiles once.

        Args:
          batch: one array per input of the signature, of exactly its dtype.

        Raises:
          UserError: an input's name, shape or dtype is not the signature's.

        """
        arrays = self.signature.check_inputs(batch)
        return jax.device_get(dict(self._call(arrays)))


def load(folder: str | os.PathLike[str]) -> Exported:
    """Loads a folder written by `offsites export`, after checking every file.

    Args:
      folder: on a disk, or in a bucket (gs://..., which needs etils).

    Raises:
      UserError: no export, one of parameters alone, for another platform, or made by a newer jax.
      DamagedDataError: a file differs from its SHA-256 in the manifest.

    """
    path = as_path(folder)
    manifest = verify(path)
    reader = CALLABLE.get(manifest.get("format", ""))
    if reader is None:
        raise UserError(
            f"{path / MANIFEST}: format {manifest.get('format')!r} holds no function to call; "
            f"its README.md shows how to read it, or export with --format {' or '.join(CALLABLE)}"
        )
    signature = Signature.read(path)
    return Exported(manifest, signature, *reader(path, signature))


def read_stablehlo(folder: pathlib.Path, signature: Signature) -> tuple[Mapping[str, Any], Call]:
    """Parameters on the device, and the function under jit."""
    check_platform(folder, signature.platforms)
    function = jax.jit(_deserialize(folder / MODEL, signature).call)
    params = jax.device_put(_read_params(folder / PARAMS))
    return params, lambda inputs: function(params, inputs)


def read_savedmodel(folder: pathlib.Path, signature: Signature) -> tuple[Mapping[str, Any], Call]:
    """Parameters as NumPy arrays, and the function in TensorFlow."""
    from offsites_jax.export.savedmodel import open_saved_model

    return open_saved_model(folder)


CALLABLE = {"stablehlo": read_stablehlo, "savedmodel": read_savedmodel}
"""Formats that can be called."""


def check_platform(folder: pathlib.Path, platforms: tuple[str, ...]) -> None:
    """Raises UserError when the model was not exported for the devices of this process."""
    here = local_platforms()
    if not set(here) & set(platforms):
        raise UserError(
            f"{folder}: exported for {', '.join(platforms)}, but this process runs on {here[0]}; "
            f"export with --platforms {here[0]} or set JAX_PLATFORMS"
        )


def local_platforms() -> tuple[str, ...]:
    """What exports call the devices of this process."""
    backend = jax.default_backend()
    return ("cuda", "rocm") if backend == "gpu" else (backend,)


def _read_params(file: pathlib.Path) -> dict[str, np.ndarray]:
    if not is_remote(file):
        return load_file(file)
    with tempfile.TemporaryDirectory() as folder:
        local = pathlib.Path(folder) / PARAMS
        with file.open("rb") as source, local.open("wb") as target:
            shutil.copyfileobj(source, target)
        return load_file(local)


def _deserialize(file: pathlib.Path, signature: Signature) -> export.Exported:
    try:
        function = export.deserialize(bytearray(file.read_bytes()))
        function.mlir_module()  # the program itself is parsed late; a newer jax's is refused only here
    except Exception as error:  # the file is as it was written, so whatever fails is a matter of versions
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{file}: written by jax {signature.jax_version} (calling convention "
            f"{signature.calling_convention_version}), cannot be read by jax {jax.__version__} ({reason}); "
            "a model loads in the jax that wrote it or a newer one: upgrade jax, or export with this one"
        ) from error
    return function
