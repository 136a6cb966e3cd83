"""Logits of keras.applications' EfficientNetV2, for tests/models/test_efficientnet.py.

Needs keras 3.15.1 with the JAX backend, nothing of this project:

    KERAS_BACKEND=jax python tools/golden/efficientnet.py
"""

import math
import re
import zlib

import numpy as np
from keras.src.applications.efficientnet_v2 import EfficientNetV2

STAGES = [  # repeats, kernel, stride, expansion, input, output, squeeze ratio, fused
    (2, 3, 1, 1, 16, 16, 0.0, 1),
    (2, 3, 2, 4, 16, 24, 0.0, 1),
    (2, 5, 2, 4, 24, 32, 0.25, 0),
    (1, 3, 2, 6, 32, 40, 0.25, 0),
    (1, 3, 1, 1, 40, 40, 0.25, 0),
]
KEYS = (
    "num_repeat", "kernel_size", "strides", "expand_ratio", "input_filters", "output_filters", "se_ratio",
    "conv_type",
)  # fmt: skip
LEAVES = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var", "bias": "bias"}
OUTER = {
    "stem_conv": "stem/conv",
    "stem_bn": "stem/bn",
    "top_conv": "head/conv",
    "top_bn": "head/bn",
    "predictions": "classifier",
}
INNER = {
    "dwconv2": "depthwise_conv",
    "bn": "depthwise_bn",
    "se_reduce": "se/reduce",
    "se_expand": "se/expand",
}


def drawn(path, shape):
    """Draw the values of one array from a generator seeded by its path in our tree."""
    draw = np.random.default_rng(zlib.crc32(path.encode()))
    leaf = path.rsplit("/", 1)[-1]
    if leaf in ("scale", "var"):
        return draw.uniform(0.5, 1.5, shape).astype(np.float32)
    if leaf in ("bias", "mean"):
        return (0.1 * draw.standard_normal(shape)).astype(np.float32)
    return (draw.standard_normal(shape) * math.sqrt(2 / math.prod(shape[:-1]))).astype(np.float32)


def fill(model):
    """Give every weight the values drawn for its name in our tree."""
    blocks = list(dict.fromkeys(re.findall(r"block\d+[a-z]", " ".join(layer.name for layer in model.layers))))
    for layer in model.layers:
        if not layer.weights:
            continue
        block, _, part = layer.name.partition("_")
        base = OUTER.get(layer.name) or f"blocks_{blocks.index(block)}/{INNER.get(part, part)}"
        values = []
        for weight in layer.weights:
            shape = tuple(weight.shape)
            ours = (*shape[:2], 1, shape[2]) if part == "dwconv2" else shape
            leaf = LEAVES.get(weight.path.rsplit("/", 1)[-1], "kernel")
            values.append(drawn(f"{base}/{leaf}", ours).reshape(shape))
        layer.set_weights(values)


def main():
    """Print the logits of two drawn images of 37 x 50 pixels."""
    model = EfficientNetV2(
        1.0, 1.0, 64, min_depth=1, bn_momentum=0.9, name="golden", weights=None, input_shape=(37, 50, 3),
        blocks_args=[dict(zip(KEYS, stage, strict=True)) for stage in STAGES],
        classes=5, classifier_activation=None, include_preprocessing=False,
    )  # fmt: skip
    fill(model)
    images = np.random.default_rng(7).standard_normal((2, 37, 50, 3)).astype(np.float32)
    print(np.asarray(model(images, training=False)).tolist())


if __name__ == "__main__":
    main()
