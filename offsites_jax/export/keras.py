"""Our EfficientNets as keras.applications load them."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from offsites_jax.errors import UserError
from offsites_jax.export.foreign import leaves_of, model_of, published_name, read_back, tensors_there
from offsites_jax.export.inference import Inference
from offsites_jax.models import efficientnet
from offsites_jax.models.efficientnet import EfficientNet

WEIGHTS = "model.h5"
NETWORK = "keras.json"
FAMILIES = ("EfficientNet",)

_MISSING = ("efficientnet_v2_xl", "efficientnet_b8", "efficientnet_l2")
_ORDER = (  # of layers within a block; keras.applications list them as they run
    *("expand_conv", "expand_bn", "dwconv", "dwconv2", "bn"),
    *("se_reduce", "se_expand", "project_conv", "project_bn"),
)
_ENDS = ("normalization", "stem_conv", "stem_bn"), ("top_conv", "top_bn", "predictions")


def keras_network(model: EfficientNet, channels: int) -> dict[str, Any]:
    """Function of keras.applications, and its arguments, that make the same network.

    Raises:
      UserError: there is none.

    """
    name = published_name(model)
    if name is None or name in _MISSING:
        raise UserError(
            f"--format keras: keras.applications has no {name or 'EfficientNet of these blocks'}; export in "
            "another format"
        )
    second = "_v2_" in name
    size = efficientnet.variant(name).eval_size
    arguments: dict[str, Any] = {"weights": None, "input_shape": [size, size, channels]}
    arguments |= {"include_preprocessing": False} if second else {}
    if model.num_classes:
        arguments |= {"classes": model.num_classes, "classifier_activation": None}
    else:
        arguments |= {"include_top": False, "pooling": "avg"}
    short = name.rpartition("_")[2].upper()
    return {"function": f"EfficientNet{'V2' if second else ''}{short}", "arguments": arguments}


def save(inference: Inference, folder: pathlib.Path) -> None:
    """Writes the weights in the form that keras.applications publish theirs in, and how to make the network.

    Raises:
      UserError: the project has no EfficientNet that is among them, or h5py is missing.

    """
    model = model_of(inference, "keras", FAMILIES)
    assert isinstance(model, EfficientNet)
    channels = leaves_of(inference.variables)["params/stem/conv/kernel"].shape[2]
    network = keras_network(model, channels)
    # The second generation calls depthwise layers otherwise, which the importer sees by the file.
    second = network["function"].startswith("EfficientNetV2")
    known = ("block1a_dwconv2/0",) if second else ()
    tensors = tensors_there(model, inference.variables, "keras", known)
    if not second:  # its own normalisation of pixels, which comes after a division by 255, does nothing
        zeros = np.zeros(channels, np.float32)
        tensors |= dict(zip(_normalization(), (zeros, zeros + 1, np.zeros((), np.int32)), strict=True))
    write_h5(folder / WEIGHTS, tensors)
    (folder / NETWORK).write_text(json.dumps(network, indent=2) + "\n")


def reload(inference: Inference, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Our leaves by flat name, out of a folder that `save` wrote."""
    return read_back(inference, model_of(inference, "keras", FAMILIES), folder / WEIGHTS, "keras")


def write_h5(file: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """A group for each layer, in the order of the network; Keras goes by order, of layers and within one.

    Args:
      file: to write.
      tensors: by `layer/index`.

    """
    try:
        import h5py
    except ImportError:
        raise UserError("--format keras: needs h5py; pip install 'offsites-jax[keras]'") from None
    layers: dict[str, list[np.ndarray]] = {}
    for name in sorted(tensors, key=_place):
        layers.setdefault(name.partition("/")[0], []).append(tensors[name])
    with h5py.File(file, "w") as target:
        target.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, arrays in layers.items():
            names = [f"{layer}/{leaf}:0" for leaf in _leaves(layer, len(arrays))]
            group = target.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, arrays, strict=True):
                group[name] = array


def _normalization() -> list[str]:
    return [f"normalization/{index}" for index in range(3)]


def _place(name: str) -> tuple[int, str, int, int]:
    """Where a tensor comes in the network: before, in or after the blocks; block; layer; weight."""
    layer, _, index = name.partition("/")
    block, _, part = layer.partition("_")
    for side, ends in ((0, _ENDS[0]), (2, _ENDS[1])):
        if layer in ends:
            return side, "", ends.index(layer), int(index)
    return 1, block, _ORDER.index(part), int(index)


def _leaves(layer: str, count: int) -> tuple[str, ...]:
    """What Keras calls the weights of a layer, in its order."""
    if layer == "normalization":
        return "mean", "variance", "count"
    if count == 4:
        return "gamma", "beta", "moving_mean", "moving_variance"
    return ("kernel", "bias")[:count]
