"""Layouts and logits of published EfficientNets, for tests/export/test_importing.py.

Needs one of keras 3.15.1 with the JAX backend, and timm 1.0.31 with torch 2.13.0; nothing of this project:

    KERAS_BACKEND=jax python tools/golden/published_efficientnet.py keras
    python tools/golden/published_efficientnet.py timm

Weights are drawn by the names they have in the file, so that the test can draw them again; each `.json` holds
those names with their shapes, and four of the logits of two images of 64 x 64 pixels.
"""

import json
import math
import pathlib
import sys
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parents[2] / "tests/export/golden"
GAINS = {  # below, activations die out; above, they grow until rounding shows in the logits
    "keras": {"efficientnet_v2_b0": 1.7, "efficientnet_b0": 2.2},
    "timm": {"efficientnet_v2_b0": 1.7, "efficientnet_b0": 2.0},
}
IMAGES = np.random.default_rng(7).standard_normal((2, 64, 64, 3)).astype(np.float32)
SHOWN = 4


def drawn(name, shape, fan_in, gain):
    """Draw one tensor from a generator seeded by its name; scales and variances are around 1."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rsplit("/", 1)[-1].rsplit(".", 1)[-1]
    if leaf in ("gamma", "moving_variance", "running_var") or (leaf == "weight" and len(shape) == 1):
        values = draw.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        values = 0.1 * draw.standard_normal(shape)
    else:
        values = draw.standard_normal(shape) * math.sqrt(gain / fan_in)
    return values.astype(np.float32)


def from_keras(name, gain):
    """Shapes by `layer/weight`, as in a legacy weights file, and logits."""
    from keras import applications

    version_2 = {"include_preprocessing": False} if "v2" in name else {}
    make = applications.EfficientNetV2B0 if "v2" in name else applications.EfficientNetB0
    model = make(weights=None, input_shape=(64, 64, 3), classifier_activation=None, **version_2)
    shapes = {}
    for layer in model.layers:
        values = []
        for weight in layer.weights:
            path, shape = f"{layer.name}/{weight.path.rsplit('/', 1)[-1]}", tuple(weight.shape)
            shapes[path] = shape
            fan_in = math.prod(shape[:2]) if shape[-1:] == (1,) else math.prod(shape[:-1])
            values.append(drawn(path, shape, fan_in, gain))
        if layer.name == "normalization":
            values = [np.zeros(3), np.ones(3), np.zeros(())]  # mean, variance, count
        layer.set_weights(values)
    # The first generation divides pixels by 255 inside the model.
    return shapes, model(IMAGES if "v2" in name else 255 * IMAGES, training=False)


def from_timm(name, gain):
    """Shapes by name in the state dict, and logits."""
    import torch

    # The CPU build of torch lacks two operators that torchvision, imported by timm, describes further.
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

    model = timm.create_model("tf_" + name.replace("_v2", "v2")).eval()
    shapes, values = {}, {}
    for path, tensor in model.state_dict().items():
        shapes[path] = shape = tuple(tensor.shape)
        if shape:
            values[path] = torch.from_numpy(drawn(path, shape, math.prod(shape[1:]), gain))
        else:
            values[path] = tensor
    model.load_state_dict(values)
    with torch.no_grad():
        return shapes, model(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2))).numpy()


def main(source):
    """Write a file for each generation."""
    for name, gain in GAINS[source].items():
        shapes, logits = {"keras": from_keras, "timm": from_timm}[source](name, gain)
        golden = {
            "gain": gain,
            "largest": float(np.abs(logits).max()),
            "logits": np.asarray(logits)[:, :SHOWN].tolist(),
            "shapes": shapes,
        }
        (FOLDER / f"{source}_{name}.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
