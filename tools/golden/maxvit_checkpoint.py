"""A checkpoint under the names of google-research/maxvit, for tests/export/test_importing_maxvit.py.

Needs tensorflow-cpu 2.21.0, nothing of this project:

    python tools/golden/maxvit_checkpoint.py

A tiny CoAtNet, written here with TensorFlow's own operations as the paper's authors lay out theirs: separate
projections of query, key and value, dense layers for 1x1 convolutions in transformers, and biases by the
position of the key minus that of the query. Beside each variable lies an average and a slot of an optimizer;
the logits are those of the averages.
"""

import json
import math
import pathlib
import zlib

import numpy as np
import tensorflow as tf

FOLDER = pathlib.Path(__file__).parents[2] / "tests/export/golden/maxvit_tiny"
PREFIX, AVERAGED = "maxvit/", "/ExponentialMovingAverage"
HEAD_SIZE, CLASSES = 8, 5
IMAGES = np.random.default_rng(7).standard_normal((2, 32, 48, 3)).astype(np.float32)


class Weights(dict):
    """Tensors by name, drawn when first asked for."""

    def __call__(self, name, *shape):
        """Draw one; scales and variances are around 1, tables large enough to show."""
        draw = np.random.default_rng(zlib.crc32(name.encode()))
        leaf = name.rpartition("/")[2]
        if leaf in ("gamma", "moving_variance"):
            values = draw.uniform(0.5, 1.5, shape)
        elif leaf == "relative_bias":
            values = draw.standard_normal(shape)
        elif len(shape) == 1 or leaf == "bias":
            values = 0.1 * draw.standard_normal(shape)
        else:
            inputs = shape[:2] if leaf == "depthwise_kernel" else shape[:-1]
            values = draw.standard_normal(shape) * math.sqrt(2 / math.prod(inputs))
        return self.setdefault(PREFIX + name, values.astype(np.float32))


def conv(w, x, name, width, size=1, stride=1, bias=True):
    """Convolve with SAME padding."""
    y = tf.nn.conv2d(x, w(f"{name}/kernel", size, size, x.shape[-1], width), stride, "SAME")
    return y + w(f"{name}/bias", width) if bias else y


def dense(w, x, name, axes, *shape):
    """Multiply the last axes by a weight that keeps its own."""
    y = tf.tensordot(x, w(f"{name}/weight", *x.shape[-axes:], *shape), axes)
    return y + w(f"{name}/bias", *shape)


def batch_norm(w, x, name):
    """Normalise by running statistics."""
    gamma, beta, mean, variance = (
        w(f"{name}/{leaf}", x.shape[-1]) for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3)


def layer_norm(w, x, name):
    """Normalise each pixel."""
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    gamma, beta = (w(f"{name}/{leaf}", x.shape[-1]) for leaf in ("gamma", "beta"))
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-5)


def gelu(x):
    """By tanh."""
    return tf.nn.gelu(x, approximate=True)


def pool(x, stride):
    """The largest of each square."""
    return tf.nn.max_pool2d(x, stride, stride, "SAME")


def conv_block(w, x, name, width, stride):
    """MBConv, norms in front."""
    y = batch_norm(w, x, f"{name}/pre_norm")
    y = conv(w, y, f"{name}/expand_conv", 4 * width, stride=stride, bias=False)
    y = gelu(batch_norm(w, y, f"{name}/expand_norm"))
    kernel = w(f"{name}/depthwise_conv/depthwise_kernel", 3, 3, 4 * width, 1)
    y = tf.nn.depthwise_conv2d(y, kernel, (1, 1, 1, 1), "SAME")
    y = gelu(batch_norm(w, y, f"{name}/depthwise_norm"))
    gate = tf.reduce_mean(y, (1, 2), keepdims=True)
    gate = tf.nn.silu(conv(w, gate, f"{name}/se/reduce_conv2d", width // 4))
    y *= tf.sigmoid(conv(w, gate, f"{name}/se/expand_conv2d", 4 * width))
    y = conv(w, y, f"{name}/shrink_conv", width)
    x = pool(x, stride)
    return y + (x if x.shape[-1] == width else conv(w, x, f"{name}/shortcut_conv", width))


def biases(table, height, width):
    """One for each query and key, by the position of the key minus that of the query."""
    found = np.zeros((len(table), height * width, height * width), np.float32)
    for query in range(height * width):
        for key in range(height * width):
            down, right = key // width - query // width, key % width - query % width
            found[:, query, key] = table[:, down + height - 1, right + width - 1]
    return found


def attention(w, x, name, width):
    """Among all pixels of a map."""
    _, height, breadth, _ = x.shape
    heads = width // HEAD_SIZE
    pixels = tf.reshape(x, (len(x), height * breadth, x.shape[-1]))
    query, key, value = (dense(w, pixels, f"{name}/{letter}", 1, heads, HEAD_SIZE) for letter in "qkv")
    table = w(f"{name}/relative_bias", heads, 2 * height - 1, 2 * breadth - 1)
    logits = tf.einsum("bqhd,bkhd->bhqk", query / math.sqrt(HEAD_SIZE), key) + biases(table, height, breadth)
    y = tf.einsum("bhqk,bkhd->bqhd", tf.nn.softmax(logits), value)
    return tf.reshape(dense(w, y, f"{name}/o", 2, width), (len(x), height, breadth, width))


def transformer(w, x, name, width, stride):
    """Attention and two dense layers, each with its norm in front."""
    y = attention(w, pool(layer_norm(w, x, f"{name}/attn_layer_norm"), stride), f"{name}/attention", width)
    x = pool(x, stride)
    x = y + (x if x.shape[-1] == width else dense(w, x, f"{name}/shortcut_proj", 1, width))
    y = gelu(dense(w, layer_norm(w, x, f"{name}/ffn_layer_norm"), f"{name}/ffn/expand_dense", 1, 4 * width))
    return x + dense(w, y, f"{name}/ffn/shrink_dense", 1, width)


def logits_of(w, images):
    """The whole network: one convolutional block, two transformers."""
    x = conv(w, images, "stem/conv_0", 8, 3, 2)
    x = conv(w, gelu(batch_norm(w, x, "stem/norm_0")), "stem/conv_1", 8, 3)
    x = conv_block(w, x, "block_00_00", 16, 2)
    x = transformer(w, x, "block_01_00", 24, 2)
    x = transformer(w, x, "block_01_01", 24, 1)
    x = layer_norm(w, tf.reduce_mean(x, (1, 2)), "final_layer_norm")
    x = tf.tanh(dense(w, x, "cls_head/inner_dense", 1, 24))
    return dense(w, x, "cls_head/logit_dense", 1, CLASSES)


def main():
    """Write the checkpoint and the logits."""
    weights = Weights()
    logits = logits_of(weights, tf.constant(IMAGES)).numpy()
    tensors = {"global_step": np.int64(12345)}
    for name, value in weights.items():
        tensors |= {name: value / 2, name + AVERAGED: value}
        if "moving_" not in name:
            tensors |= {f"{name}/adam_m": 0 * value, f"{name}/adam_v": 0 * value}
    FOLDER.mkdir(exist_ok=True)
    prefix = str(FOLDER / "model.ckpt-12345")
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )
    (FOLDER / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-12345"\n')
    (FOLDER / "logits.json").write_text(json.dumps(logits.tolist()) + "\n")
    print(logits, sum(file.stat().st_size for file in FOLDER.iterdir()))


if __name__ == "__main__":
    main()
