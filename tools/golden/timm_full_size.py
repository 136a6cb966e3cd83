"""Published networks at full width and depth in timm, for tests/export/test_full_size.py.

Needs timm 1.0.31 with torch 2.13.0, nothing of this project:

    python tools/golden/timm_full_size.py

Small networks see images of the size they are evaluated at, large ones smaller images, some of an odd size,
where padding is uneven. Weights are drawn by the names they have in the state dict, so that the test can draw
them again; running variances are scaled by what the network really meets, one number a layer: where signals
die or grow on the way, mistakes hide. The test shows that they do not: relative biases turned round, and
another epsilon, are far from these numbers.

Each entry of `timm_full_size.json` holds a digest of the names and shapes of the state dict, the scales in
the order of the names of layers, the norm of each image's map at each halving, and a few logits.
"""

import hashlib
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

FILE = pathlib.Path(__file__).parents[2] / "tests/export/golden/timm_full_size.json"
SHOWN = 4
SMALL = {"embed_dim": (32, 64, 96, 128), "depths": (1, 2, 2, 2), "stem_width": (16, 32), "num_classes": 10}
PAPER = {"conv_stride_mode": "1x1", "conv_pool_type": "max2", "transformer_pool_type": "max2"}
MODELS = {  # ours: timm's name, its settings, side of the images
    "efficientnet_v2_b0": ("tf_efficientnetv2_b0", {}, 224),
    "efficientnet_v2_b3": ("tf_efficientnetv2_b3", {}, 171),
    "efficientnet_v2_s": ("tf_efficientnetv2_s", {}, 128),
    "efficientnet_b3": ("tf_efficientnet_b3", {}, 101),
    "efficientnet_b7": ("tf_efficientnet_b7", {}, 96),
    "coatnet_0": ("coatnet_0_224", PAPER, 224),
    "coatnet_pico_rw_224": ("coatnet_pico_rw_224", {}, 224),
    "coatnet_0_rw_224": ("coatnet_0_rw_224", {}, 96),
    "coatnet_rmlp_1_rw2_224": ("coatnet_rmlp_1_rw2_224", {}, 96),
    "small/coatnet_0": ("coatnet_0_224", SMALL | {"head_hidden_size": 128}, 64),  # as it is there by default
}


def drawn(name, shape):
    """Draw one tensor from a generator seeded by its name; scales and variances are around 1."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
        return draw.uniform(0.5, 1.5, shape).astype(np.float32)
    values = draw.standard_normal(shape, np.float32)
    if leaf == "relative_position_bias_table":
        return values
    return values * np.float32(0.1 if len(shape) == 1 else math.sqrt(2 / math.prod(shape[1:])))


def images_of(size):
    """Draw two images, channels last: coarse squares, so that means over an image tell one from another."""
    draw = np.random.default_rng(7)
    side = -(-size // 32)
    coarse = draw.standard_normal((2, side, side, 3)).repeat(32, 1).repeat(32, 2)[:, :size, :size]
    return (coarse + draw.standard_normal((2, size, size, 3))).astype(np.float32)


def fill(model):
    """Give every tensor the values drawn for its name."""
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.ndim and tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(drawn(name, tuple(tensor.shape))))


@torch.no_grad()
def calibrate(model, images):
    """Scale the running variances of each batch norm in turn to what it meets; give the scales by name."""
    scales = {}

    def scale(name):
        def before(layer, inputs):
            scales[name] = float(f"{inputs[0].var((0, 2, 3), correction=0).mean():.3g}")
            layer.running_var *= scales[name]

        return before

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    hooks = [layer.register_forward_pre_hook(scale(name)) for name, layer in layers]
    model(images)
    for hook in hooks:
        hook.remove()
    return scales


@torch.no_grad()
def golden(name):
    """What the test needs of one network."""
    timm_name, settings, size = MODELS[name]
    if "coatnet" in name:
        settings = settings | {"img_size": size}
    model = timm.create_model(timm_name, **settings).eval()
    fill(model)
    images = torch.from_numpy(images_of(size).transpose(0, 3, 1, 2))
    scales = calibrate(model, images)
    logits = model(images).numpy()
    maps = model.forward_intermediates(images, intermediates_only=True)
    rows = sorted(
        f"{key} {list(tensor.shape)}"
        for key, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    )
    found = {
        "size": size,
        "layout": hashlib.sha256("\n".join(rows).encode()).hexdigest(),
        "scales": [scales[layer] for layer in sorted(scales)],
        "maps": [[float(f"{norm:.7g}") for norm in one.flatten(1).norm(dim=1)] for one in maps],
        "largest": float(np.abs(logits).max()),
        "spread": float(np.abs(logits[0] - logits[1]).max()),
        "logits": logits[:, :SHOWN].tolist(),
    }
    print(name, found["largest"], found["spread"], min(scales.values()), max(scales.values()), flush=True)
    return found


def main():
    """Write the file."""
    rows = [f"{json.dumps(name)}: {json.dumps(golden(name), separators=(',', ':'))}" for name in MODELS]
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
