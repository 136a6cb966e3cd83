"""The formats of an export: how each is written, read back for the check, and explained in its README.

A format is one entry of `FORMATS`; another one is another entry.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.export import automl, keras, readme, savedmodel, timm
from offsites_jax.export.compare import Predict
from offsites_jax.export.inference import Inference
from offsites_jax.export.load import MODEL, PARAMS, load, local_platforms
from offsites_jax.export.signature import ArraySpec, Signature
from offsites_jax.train.state import flatten, unflatten

ORBAX = "params"


@dataclasses.dataclass(frozen=True)
class Format:
    """One way to ship a model.

    Attributes:
      write: puts the model into a folder and returns its signature.
      reopen: reads the model back from a finished folder, as a predict to compare with the live one.
      usage: how to use the folder, in Markdown, with code that runs inside it.
      folds: whether it holds a function, which may then be in another form than the live model.

    """

    write: Callable[[Inference, pathlib.Path], Signature]
    reopen: Callable[[Inference, pathlib.Path], Predict]
    usage: Callable[[Signature], str]
    folds: bool = False


def write_stablehlo(inference: Inference, folder: pathlib.Path) -> Signature:
    """The compiled function beside its parameters: runs without any model code."""
    here = local_platforms()
    if not set(here) & set(inference.platforms):
        raise UserError(f"platforms: {here[0]} is missing; the export is checked here, on {here[0]}")
    exported = inference.export()
    (folder / MODEL).write_bytes(exported.serialize())
    return dataclasses.replace(
        write_safetensors(inference, folder),
        platforms=tuple(exported.platforms),
        calling_convention_version=exported.calling_convention_version,
    )


def reopen_stablehlo(inference: Inference, folder: pathlib.Path) -> Predict:
    """The folder as its users load it."""
    exported = load(folder)
    check_equal(folder / PARAMS, jax.device_get(exported.params), inference)
    return exported.predict


def write_savedmodel(inference: Inference, folder: pathlib.Path) -> Signature:
    """The same compiled function, as TensorFlow loads and serves it."""
    exported = savedmodel.save(inference, folder)
    return dataclasses.replace(signature_of(inference), platforms=tuple(exported.platforms))


def reopen_savedmodel(inference: Inference, folder: pathlib.Path) -> Predict:
    """The folder as its users load it, in TensorFlow."""
    exported = load(folder)
    check_equal(folder / savedmodel.SAVED_MODEL, exported.params, inference)
    return exported.predict


def write_safetensors(inference: Inference, folder: pathlib.Path) -> Signature:
    """Parameters and model state by flat name."""
    # The writer copies memory as it lies, so every array has to lie in order; order="C" keeps scalars scalar.
    leaves = {name: np.asarray(leaf, order="C") for name, leaf in flatten(inference.variables).items()}
    try:
        save_file(leaves, folder / PARAMS)
    except SafetensorError as error:
        raise UserError(f"{folder / PARAMS}: cannot be written ({error})") from None
    return signature_of(inference)


def reopen_safetensors(inference: Inference, folder: pathlib.Path) -> Predict:
    """The live function on the parameters as read back."""
    leaves = load_file(folder / PARAMS)
    check_equal(folder / PARAMS, leaves, inference)
    return inference.bind(unflatten(leaves))


def write_orbax(inference: Inference, folder: pathlib.Path) -> Signature:
    """Parameters and model state as an Orbax checkpoint that needs no device mesh to restore."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((folder / ORBAX).absolute(), inference.variables)
    return signature_of(inference)


def reopen_orbax(inference: Inference, folder: pathlib.Path) -> Predict:
    """The live function on the parameters as restored."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        variables = checkpointer.restore((folder / ORBAX).absolute())
    check_equal(folder / ORBAX, flatten(variables), inference)
    return inference.bind(variables)


def write_timm(inference: Inference, folder: pathlib.Path) -> Signature:
    """Weights under the names of timm, and how timm makes the network."""
    timm.save(inference, folder)
    return signature_of(inference)


def reopen_timm(inference: Inference, folder: pathlib.Path) -> Predict:
    """The live function on the weights, turned back into ours."""
    leaves = timm.reload(inference, folder)
    check_equal(folder / timm.WEIGHTS, leaves, inference)
    return inference.bind(unflatten(leaves))


def write_keras(inference: Inference, folder: pathlib.Path) -> Signature:
    """Weights in the layers of keras.applications, and how they make the network."""
    keras.save(inference, folder)
    return signature_of(inference)


def reopen_keras(inference: Inference, folder: pathlib.Path) -> Predict:
    """The live function on the weights, turned back into ours."""
    leaves = keras.reload(inference, folder)
    check_equal(folder / keras.WEIGHTS, leaves, inference)
    return inference.bind(unflatten(leaves))


def write_automl(inference: Inference, folder: pathlib.Path) -> Signature:
    """A TensorFlow checkpoint under the names of google/automl."""
    automl.save(inference, folder)
    return signature_of(inference)


def reopen_automl(inference: Inference, folder: pathlib.Path) -> Predict:
    """The live function on the weights, turned back into ours."""
    leaves = automl.reload(inference, folder)
    check_equal(folder / automl.WEIGHTS, leaves, inference)
    return inference.bind(unflatten(leaves))


FORMATS: dict[str, Format] = {
    "stablehlo": Format(write_stablehlo, reopen_stablehlo, readme.stablehlo, folds=True),
    "savedmodel": Format(write_savedmodel, reopen_savedmodel, readme.savedmodel, folds=True),
    "safetensors": Format(write_safetensors, reopen_safetensors, readme.safetensors),
    "orbax": Format(write_orbax, reopen_orbax, readme.orbax),
    "timm": Format(write_timm, reopen_timm, readme.timm),
    "keras": Format(write_keras, reopen_keras, readme.keras),
    "automl": Format(write_automl, reopen_automl, readme.automl),
}


def signature_of(inference: Inference) -> Signature:
    """Inputs and outputs of the live function."""
    inputs, outputs = inference.specs()
    return Signature(
        inputs={name: ArraySpec.of(spec) for name, spec in inputs.items()},
        outputs={name: ArraySpec.of(spec) for name, spec in outputs.items()},
        jax_version=jax.__version__,
    )


def check_equal(where: pathlib.Path, leaves: Mapping[str, Array | np.ndarray], inference: Inference) -> None:
    """Raises DamagedDataError unless the arrays read back are, bit for bit, those of the live model."""
    live: dict[str, Any] = flatten(inference.variables)
    if set(leaves) != set(live):
        raise DamagedDataError(f"{where}: read back other arrays: {sorted(set(leaves) ^ set(live))}")
    for name, leaf in live.items():
        read = np.asarray(leaves[name])
        if (read.dtype, read.shape) != (leaf.dtype, leaf.shape) or read.tobytes() != leaf.tobytes():
            raise DamagedDataError(
                f"{where}: array {name!r} read back is not the one written; check the disk"
            )
