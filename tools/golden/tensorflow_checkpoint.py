"""Checkpoints written by TensorFlow, for tests/export/test_bundle.py and test_importing.py.

Needs tensorflow-cpu 2.21.0 with keras 3.15.1, nothing of this project:

    python tools/golden/tensorflow_checkpoint.py

`numbers` has tensors of all types in three shards, a text and a partitioned variable. `automl_tiny` is laid
out as google/automl leaves it after training: a tiny EfficientNetV2 under its names of variables, with
averages, optimizer slots and the step. The network is keras.applications', which also computed the logits
beside it from the averages; TensorFlow itself names averages and slots.
"""

import json
import pathlib
import re

import keras
import numpy as np
import tensorflow as tf
from keras.src.applications.efficientnet_v2 import EfficientNetV2

FOLDER = pathlib.Path(__file__).parents[2] / "tests/export/golden"
KEYS = (
    "num_repeat", "kernel_size", "strides", "expand_ratio", "input_filters", "output_filters", "se_ratio",
    "conv_type",
)  # fmt: skip
STAGES = [
    (1, 3, 1, 1, 8, 8, 0.0, 1),
    (1, 3, 2, 2, 8, 16, 0.0, 1),
    (1, 3, 1, 1, 16, 16, 0.25, 0),
    (2, 5, 2, 2, 16, 16, 0.25, 0),
]
WIDTH = 24 / 1280  # Keras makes every head 1280 channels times the width, and has no other say on it
KINDS = {  # google/automl's names of layers, to be counted within a block
    keras.layers.Conv2D: "conv2d",
    keras.layers.DepthwiseConv2D: "depthwise_conv2d",
    keras.layers.BatchNormalization: "tpu_batch_normalization",
    keras.layers.Dense: "dense",
}
tf1 = tf.compat.v1


def numbers():
    """Every value is a simple function of its index, so that the test can say what it must be."""
    count = np.arange(300)
    pieces = [
        {
            "first/float32": tf.constant((count / 7).reshape(3, 100), tf.float32),
            "first/float32_scalar": tf.constant(0.1, tf.float32),
            "first/int64": tf.constant(count.astype(np.int64) << 33),
            "first/text": tf.constant(["no", "number"]),
        },
        {
            "second/bfloat16": tf.constant(count[:50] / 8, tf.bfloat16),
            "second/float16": tf.constant(count[:50] / 8, tf.float16),
            "second/float64": tf.constant(count[:5] / 7, tf.float64),
            "second/empty": tf.zeros((0, 4)),
        },
    ]
    parts = []
    for number, piece in enumerate(pieces):
        parts.append(str(FOLDER / f"part_{number}"))
        slices = [""] * len(piece)
        tf.raw_ops.SaveV2(
            prefix=parts[-1], tensor_names=list(piece), shape_and_slices=slices, tensors=list(piece.values())
        )
    # A partitioned variable: its lower half alone, of [4, 2].
    parts.append(str(FOLDER / "part_2"))
    half = tf.ones((2, 2))
    tf.raw_ops.SaveV2(
        prefix=parts[-1], tensor_names=["sliced"], shape_and_slices=["4 2 0,2:-"], tensors=[half]
    )
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=str(FOLDER / "numbers"), delete_old_dirs=False
    )


def tiny_network():
    """Build it with 24 channels in the head, and those of STAGES in the stages: the width cancels out."""
    stages = [dict(zip(KEYS, stage, strict=True)) for stage in STAGES]
    for stage in stages:
        stage |= {key: stage[key] / WIDTH for key in ("input_filters", "output_filters")}
    return EfficientNetV2(
        WIDTH, 1.0, 64, name="golden", weights=None, input_shape=(37, 50, 3), blocks_args=stages, classes=5,
        classifier_activation=None, include_preprocessing=False,
    )  # fmt: skip


def scope_of(layer, blocks):
    """Where google/automl keeps a layer; blocks are numbered through all stages."""
    block, _, part = layer.name.partition("_")
    if block not in blocks:
        return "stem" if block == "stem" else "head"
    return f"blocks_{blocks.index(block)}" + ("/se" if part.startswith("se_") else "")


def named_weights(model):
    """Yield google/automl's name for each weight of Keras, in the order of the network."""
    blocks = list(dict.fromkeys(re.findall(r"block\d+[a-z]", " ".join(layer.name for layer in model.layers))))
    layers = [layer for layer in model.layers if layer.weights]
    taken = set()
    for layer in layers:
        first = f"efficientnetv2-b0/{scope_of(layer, blocks)}/{KINDS[type(layer)]}"
        name = next(name for name in (first, f"{first}_1", f"{first}_2") if name not in taken)
        taken.add(name)
        for weight in layer.weights:
            leaf = weight.path.rsplit("/", 1)[-1]
            is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            yield f"{name}/{'depthwise_kernel' if is_depthwise else leaf}", weight


def drawn(draw, name, shape):
    """Values that keep activations near 1."""
    if "gamma" in name or "variance" in name:
        return draw.uniform(0.5, 1.5, shape)
    if len(shape) == 1:
        return 0.1 * draw.standard_normal(shape)
    fan_in = np.prod(shape[:2]) if "depthwise" in name else np.prod(shape[:-1])
    return draw.standard_normal(shape) * np.sqrt(2 / fan_in)


def save(values):
    """Write what a training run would have saved, had its averages those values; raw ones are 1 larger."""
    with tf.Graph().as_default(), tf1.Session() as session:
        step = tf1.train.get_or_create_global_step()
        variables = [
            tf1.get_variable(name, initializer=value.astype(np.float32)) for name, value in values.items()
        ]
        tf1.train.ExponentialMovingAverage(0.9999).apply(variables)
        loss = tf.add_n([tf.nn.l2_loss(variable) for variable in variables])
        tf1.train.RMSPropOptimizer(0.01, momentum=0.9).minimize(loss, step, var_list=variables[:2])
        session.run(tf1.global_variables_initializer())
        session.run([variable.assign_add(tf.ones_like(variable)) for variable in variables])
        session.run(step.assign(12345))
        saver = tf1.train.Saver(tf1.global_variables(), save_relative_paths=True)
        saver.save(session, str(FOLDER / "automl_tiny/model.ckpt"), 12345, write_meta_graph=False)


def automl_tiny():
    """Train-time variables of a tiny model, and logits of its averages."""
    model, draw, values = tiny_network(), np.random.default_rng(0), {}
    for name, weight in named_weights(model):
        values[name] = drawn(draw, name, tuple(weight.shape))
        weight.assign(values[name])
    images = np.random.default_rng(7).standard_normal((2, 37, 50, 3)).astype(np.float32)
    logits = np.asarray(model(images, training=False))
    (FOLDER / "automl_tiny").mkdir(exist_ok=True)
    (FOLDER / "automl_tiny/logits.json").write_text(json.dumps(logits.tolist()) + "\n")
    save(values)


if __name__ == "__main__":
    numbers()
    automl_tiny()
