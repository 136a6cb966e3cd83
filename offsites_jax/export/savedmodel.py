"""SavedModel: the exported function as TensorFlow loads and serves it.

TensorFlow is an extra. It is imported inside these functions only, which no training calls.
"""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from offsites_jax.errors import UserError
from offsites_jax.export.inference import Inference

SAVED_MODEL = "saved_model"
SERVING = "serving_default"


def save(inference: Inference, folder: pathlib.Path) -> jax.export.Exported:
    """Writes `saved_model/`: the lowered function, with its parameters as variables by flat name.

    Raises:
      UserError: TensorFlow is missing; the model is not exported for CPUs; predict needs its batch size.

    """
    if "cpu" not in inference.platforms:
        raise UserError("platforms: cpu is missing; a SavedModel is checked here, on the CPU")
    tf = import_tensorflow()
    from jax.experimental import jax2tf

    from offsites_jax.train.state import flatten

    exported = inference.export()
    shapes = {name: f"({', '.join(map(str, spec.shape))})" for name, spec in inference.inputs().items()}
    convert = jax2tf.convert(
        exported.call,
        polymorphic_shapes=[None, shapes],
        with_gradient=False,
        native_serialization_platforms=inference.platforms,
    )
    module = tf.Module()
    module.params = {
        name: tf.Variable(leaf, trainable=False) for name, leaf in flatten(inference.variables).items()
    }
    predict = tf.function(lambda **inputs: convert(dict(module.params), inputs), autograph=False)
    specs = {
        name: tf.TensorSpec(
            [size if isinstance(size, int) else None for size in spec.shape], spec.dtype, name
        )
        for name, spec in inference.inputs().items()
    }
    signatures = {SERVING: predict.get_concrete_function(**specs)}
    tf.saved_model.save(module, str(folder / SAVED_MODEL), signatures)
    return exported


def open_saved_model(
    folder: pathlib.Path,
) -> tuple[dict[str, np.ndarray], Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]]:
    """Parameters by flat name, and the function that TensorFlow serves.

    Raises:
      UserError: TensorFlow is missing.

    """
    tf = import_tensorflow()
    model = tf.saved_model.load(str(folder / SAVED_MODEL))

    def predict(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # Through the model, which owns the variables and has to live as long as its signature.
        outputs = model.signatures[SERVING](**{name: tf.constant(array) for name, array in inputs.items()})
        return {name: np.asarray(output) for name, output in outputs.items()}

    return {name: np.asarray(variable) for name, variable in model.params.items()}, predict


def import_tensorflow() -> Any:
    """TensorFlow, quiet.

    Raises:
      UserError: it is not installed.

    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow
    except ImportError:
        raise UserError("a SavedModel needs TensorFlow; pip install 'offsites-jax[savedmodel]'") from None
    return tensorflow
