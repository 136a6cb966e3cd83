"""Layouts and logits of timm's CoAtNets and ResNets, for tests/export/test_importing_timm.py.

Needs timm 1.0.31 with torch 2.13.0, nothing of this project:

    python tools/golden/timm_models.py

Weights are drawn by the names they have in the state dict, so that the test can draw them again. Running
variances are scaled by what the network really meets, one number a layer: where they are far off, signals die
on the way, and every mistake with them. Each entry of `timm_models.json` holds the shapes by name, those
scales, a few logits, and for one network the loss and the gradient norms of a step in training mode.
"""

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

FILE = pathlib.Path(__file__).parents[2] / "tests/export/golden/timm_models.json"
SHOWN = 4
SMALL = {"embed_dim": (32, 64, 96, 128), "depths": (1, 2, 2, 2), "stem_width": (16, 32), "num_classes": 10}
PAPER = {"conv_stride_mode": "1x1", "conv_pool_type": "max2", "transformer_pool_type": "max2"}
DIALECTS = [  # at one small size, all others are made of the choices of these
    *(f"coatnet_{size}_rw_224" for size in ("nano", "0", "1", "2", "bn_0")),
    *(f"coatnet_rmlp_{size}_rw_224" for size in ("nano", "1", "2")),
]
MODELS = {  # ours: timm's name, its settings, height and width of the images
    "coatnet_0": ("coatnet_0_224", PAPER, (64, 64)),
    "coatnet_1": ("coatnet_1_224", PAPER, (64, 64)),
    "small/coatnet_0": ("coatnet_0_224", PAPER | SMALL | {"head_hidden_size": 128}, (64, 96)),
    **{f"small/{name}": (name, SMALL, (64, 64)) for name in DIALECTS},
    "resnet_50": ("resnet50", {}, (64, 64)),
    "small/resnet_50": ("resnet50", {"layers": (1, 2, 1, 1), "num_classes": 10}, (64, 96)),
}
STEPPED = "small/coatnet_0"


def drawn(name, shape):
    """Draw one tensor from a generator seeded by its name; scales and variances are around 1."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rsplit(".", 1)[-1]
    if leaf in ("gamma", "running_var") or (leaf == "weight" and len(shape) == 1):
        values = draw.uniform(0.5, 1.5, shape)
    elif leaf == "relative_position_bias_table":
        values = draw.standard_normal(shape)
    elif len(shape) == 1:
        values = 0.1 * draw.standard_normal(shape)
    else:
        values = draw.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    return values.astype(np.float32)


def images_of(count, size):
    """Draw images, channels last: coarse squares, so that means over an image tell one from another."""
    draw = np.random.default_rng(7)
    coarse = draw.standard_normal((count, size[0] // 32, size[1] // 32, 3)).repeat(32, 1).repeat(32, 2)
    return (coarse + draw.standard_normal((count, *size, 3))).astype(np.float32)


def fill(model):
    """Give every tensor the values drawn for its name."""
    state = {
        name: torch.from_numpy(drawn(name, tuple(tensor.shape))) if tensor.ndim else tensor
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state)


@torch.no_grad()
def calibrate(model, images):
    """Scale the running variances of each batch norm in turn to what it meets; give the scales."""
    scales = {}

    def scale(name):
        def before(layer, inputs):
            met = inputs[0].var((0, 2, 3), correction=0).mean() if inputs[0].ndim == 4 else inputs[0].var()
            scales[name] = float(f"{met:.3g}")
            layer.running_var *= scales[name]

        return before

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    hooks = [layer.register_forward_pre_hook(scale(name)) for name, layer in layers]
    model(images)
    for hook in hooks:
        hook.remove()
    return scales


def step(model, images):
    """Loss and gradient norms of one step with the statistics of the batch."""
    labels = torch.arange(len(images)) % model.num_classes
    loss = torch.nn.functional.cross_entropy(model.train()(images), labels)
    loss.backward()
    norms = {name: float(f"{p.grad.norm():.6g}") for name, p in model.named_parameters()}
    return {"loss": loss.item(), "gradient_norms": norms}


def golden(name):
    """What the test needs of one model."""
    timm_name, settings, size = MODELS[name]
    place = {} if "resnet" in name else {"img_size": size}
    torch.manual_seed(0)
    model = timm.create_model(timm_name, **place, **settings).eval()
    fill(model)
    images = torch.from_numpy(images_of(2, size).transpose(0, 3, 1, 2))
    scales = calibrate(model, images)
    with torch.no_grad():
        logits = model(images).numpy()
    found = {
        "size": size,
        "largest": float(np.abs(logits).max()),
        "spread": float(np.abs(logits[0] - logits[1]).max()),
        "logits": logits[:, :SHOWN].tolist(),
        "scales": scales,
        "shapes": {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
    }
    if name == STEPPED:
        found |= step(model, torch.from_numpy(images_of(4, size).transpose(0, 3, 1, 2)))
    print(name, found["largest"], found["spread"], min(scales.values()), max(scales.values()))
    return found


def main():
    """Write the file."""
    found = {name: golden(name) for name in MODELS}
    FILE.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
