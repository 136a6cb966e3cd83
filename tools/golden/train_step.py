"""Loss and gradient norms of a train step in timm, for tests/projects/image_classification/test_step.py.

Needs timm 1.0.31 with torch 2.13.0, nothing of this project:

    python tools/golden/train_step.py

A small EfficientNetV2 with all four kinds of block, a small CoAtNet, and B0 of both generations as published;
weights are drawn by the names they have in the state dict, so that the test can draw them again. The step
takes the statistics of the batch, smooths labels, and for EfficientNets adds half the squared norm of all
kernels, times a weight.
"""

import functools
import json
import math
import pathlib
import zlib

import numpy as np
import torch

# The CPU build of torch lacks two operators that torchvision, imported by timm, describes further.
library = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
from timm.models import _efficientnet_builder as builder  # noqa: E402
from timm.models.efficientnet import EfficientNet  # noqa: E402

FILE = pathlib.Path(__file__).parents[2] / "tests/projects/image_classification/golden/step.json"
BLOCKS = [
    ["cn_r1_k3_s1_e1_c8_skip"],
    ["er_r2_k3_s2_e4_c16"],
    ["ds_r1_k3_s1_e1_c16_se0.25"],
    ["ir_r2_k5_s2_e4_c24_se0.25"],
]
CLASSES, SIZE, SMOOTHING = 5, 64, 0.1
L2 = {"efficientnet": 0.01, "coatnet": 0.0, "efficientnet_v2_b0": 1e-4, "efficientnet_b0": 1e-4}


def efficientnet():
    """Layers as in tf_efficientnetv2_b0."""
    return EfficientNet(
        builder.decode_arch_def(BLOCKS),
        num_classes=CLASSES,
        num_features=24,
        stem_size=8,
        pad_type="same",
        act_layer=torch.nn.SiLU,
        norm_layer=functools.partial(torch.nn.BatchNorm2d, eps=1e-3),
        round_chs_fn=functools.partial(builder.round_channels, round_limit=0.0),
    )


def coatnet():
    """The network of the paper, in what timm calls it."""
    return timm.create_model(
        "coatnet_0_224",
        img_size=(SIZE, SIZE),
        embed_dim=(16, 32, 32, 64),
        depths=(1, 2, 2, 1),
        stem_width=(8, 16),
        num_classes=CLASSES,
        head_hidden_size=64,
        conv_stride_mode="1x1",
        conv_pool_type="max2",
        transformer_pool_type="max2",
    )


def drawn(name, shape):
    """Draw one tensor from a generator seeded by its name; scales are around 1."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        values = draw.uniform(0.5, 1.5, shape)
    elif name.endswith("relative_position_bias_table"):
        values = draw.standard_normal(shape)
    elif len(shape) == 1:
        values = 0.1 * draw.standard_normal(shape)
    else:
        values = draw.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    return values.astype(np.float32)


def step(model, l2):
    """One step on images of bytes, normalised to -1 .. 1."""
    tensors = model.state_dict()
    model.load_state_dict(
        {
            name: torch.from_numpy(drawn(name, tuple(tensor.shape))) if tensor.ndim else tensor
            for name, tensor in tensors.items()
        }
    )
    images = np.random.default_rng(7).integers(0, 256, (6, SIZE, SIZE, 3), np.uint8)
    pixels = torch.from_numpy((images.astype(np.float32).transpose(0, 3, 1, 2) - 127.5) / 127.5)
    labels = torch.arange(len(images)) % CLASSES
    loss = torch.nn.functional.cross_entropy(model.train()(pixels), labels, label_smoothing=SMOOTHING)
    kernels = [p for p in model.parameters() if p.ndim > 1]
    loss = loss + l2 * 0.5 * sum(kernel.square().sum() for kernel in kernels) if l2 else loss
    loss.backward()
    return {
        "loss": loss.item(),
        "gradient_norms": {name: float(f"{p.grad.norm():.6g}") for name, p in model.named_parameters()},
        "shapes": {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor.ndim},
    }


def main():
    """Write the file."""
    b0 = functools.partial(timm.create_model, num_classes=CLASSES)
    models = {
        "efficientnet": efficientnet,
        "coatnet": coatnet,
        "efficientnet_v2_b0": functools.partial(b0, "tf_efficientnetv2_b0"),
        "efficientnet_b0": functools.partial(b0, "tf_efficientnet_b0"),
    }
    found = {name: step(make(), L2[name]) for name, make in models.items()}
    print({name: (entry["loss"], max(entry["gradient_norms"].values())) for name, entry in found.items()})
    FILE.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
