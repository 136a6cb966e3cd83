"""Checkpoints written by TensorFlow, for tests/export/test_bundle.py and test_importing.py.

Needs tensorflow-cpu 2.21.0, tf_keras 2.21.0, pyyaml and a checkout of google/automl; nothing of this project:

    TF_USE_LEGACY_KERAS=1 PYTHONPATH=.../automl/efficientnetv2 python tools/golden/tensorflow_checkpoint.py

`numbers` has tensors of all types in three shards, a text and a partitioned variable. `automl_tiny` is what
training leaves: a tiny EfficientNetV2 of google/automl with averages, optimizer slots and the step; the
logits beside it were computed by google/automl from the averages.
"""

import json
import pathlib
import sys
import types

import numpy as np
import tensorflow as tf

FOLDER = pathlib.Path(__file__).parents[2] / "tests/export/golden"
BLOCKS = (
    "r1_k3_s1_e1_i8_o8_c1",
    "r1_k3_s2_e2_i8_o16_c1",
    "r1_k3_s1_e1_i16_o16_se0.25",
    "r2_k5_s2_e2_i16_o16_se0.25",
)
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


def automl_tiny():
    """Train-time variables of a tiny model, and logits of its averages."""
    stand_in = types.ModuleType("tensorflow_addons.layers")
    stand_in.GroupNormalization = object  # imported there for another kind of norm
    addons = types.ModuleType("tensorflow_addons")
    addons.layers = stand_in
    sys.modules |= {"tensorflow_addons": addons, "tensorflow_addons.layers": stand_in}
    import effnetv2_configs
    import effnetv2_model

    blocks = effnetv2_configs.BlockDecoder().decode(list(BLOCKS))
    config = {"blocks_args": blocks, "num_classes": 5, "feature_size": 24}
    images = np.random.default_rng(7).standard_normal((2, 37, 50, 3)).astype(np.float32)
    draw = np.random.default_rng(0)
    with tf.Graph().as_default(), tf1.Session(config=tf1.ConfigProto(device_count={"CPU": 2})) as session:
        step = tf1.train.get_or_create_global_step()
        model = effnetv2_model.EffNetV2Model("efficientnetv2-b0", config)
        logits = model(tf.constant(images), training=False)
        variables = [v for v in tf1.global_variables() if v is not step]
        ema = tf1.train.ExponentialMovingAverage(0.9999)
        ema.apply(variables)
        loss = tf.reduce_sum(logits**2)
        tf1.train.RMSPropOptimizer(0.01, momentum=0.9).minimize(loss, step, var_list=variables[:2])
        session.run(tf1.global_variables_initializer())
        for variable in variables:
            value = drawn(draw, variable.name, variable.shape)
            variable.load(value, session)
            ema.average(variable).load(value, session)
        wanted = session.run(logits)
        for variable in variables:  # the raw values are others
            variable.load(session.run(variable) + 1, session)
        session.run(step.assign(12345))
        saver = tf1.train.Saver(tf1.global_variables(), save_relative_paths=True)
        saver.save(session, str(FOLDER / "automl_tiny/model.ckpt"), 12345, write_meta_graph=False)
    (FOLDER / "automl_tiny/logits.json").write_text(json.dumps(wanted.tolist()) + "\n")


def drawn(draw, name, shape):
    """Values that keep activations near 1."""
    shape = tuple(shape)
    if "gamma" in name or "variance" in name:
        return draw.uniform(0.5, 1.5, shape)
    if len(shape) == 1:
        return 0.1 * draw.standard_normal(shape)
    fan_in = np.prod(shape[:2]) if "depthwise" in name else np.prod(shape[:-1])
    return draw.standard_normal(shape) * np.sqrt(2 / fan_in)


if __name__ == "__main__":
    numbers()
    automl_tiny()
