"""Our EfficientNets as TensorFlow checkpoints under the names of google/automl."""

import pathlib

import numpy as np

from offsites_jax.export.bundle_file import write_bundle
from offsites_jax.export.foreign import model_of, published_name, read_back, tensors_there
from offsites_jax.export.inference import Inference
from offsites_jax.models.efficientnet import EfficientNet

WEIGHTS = "model.ckpt"
FAMILIES = ("EfficientNet",)
AVERAGED = "/ExponentialMovingAverage"


def save(inference: Inference, folder: pathlib.Path) -> None:
    """Writes the checkpoint. Each tensor has two names, as there: its own, and that of its average.

    Raises:
      UserError: the project has no EfficientNet.

    """
    model = model_of(inference, "automl", FAMILIES)
    assert isinstance(model, EfficientNet)
    # What stands before all names there is the network's.
    scope = (published_name(model) or "efficientnet").replace("_v2_", "v2-").replace("_", "-")
    tensors = tensors_there(model, inference.variables, "automl", (f"{scope}/stem/conv2d/kernel",))
    write_bundle(folder / WEIGHTS, tensors, {name: name + AVERAGED for name in tensors})


def reload(inference: Inference, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Our leaves by flat name, out of a folder that `save` wrote."""
    model = model_of(inference, "automl", FAMILIES)
    return read_back(inference, model, folder / f"{WEIGHTS}.index", "automl")
