"""Losses and small ResNets made by torch, for tests/projects/one_class and tests/models.

Needs torch 2.13.0 and timm 1.0.31, nothing of this project:

    python tools/golden/one_class.py

`losses.json`: inputs, values and gradients of the one-directional contrastive loss and of cross-entropy.
`resnets.json`: of ResNets of basic blocks with the large and with the small stem, logits in
evaluation, and loss and gradient norms of a step in training. Weights are drawn by the names of the tensors,
so that the tests can draw them again.
"""

import json
import math
import pathlib
import zlib

import numpy as np
import torch
from torch.nn import functional

# The CPU build of torch lacks two operators that torchvision, imported by timm, describes further.
library = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from timm.models.resnet import BasicBlock, ResNet  # noqa: E402

TESTS = pathlib.Path(__file__).parents[2] / "tests"
CLASSES = 5
NETWORKS = {  # blocks a stage, stem, side of the images
    "large": ((2, 1, 1, 1), "large", 64),
    "small": ((1, 1, 1, 1), "small", 16),
}


def contrastive(embeddings, temperature):
    """First views find their partners among all second views."""
    rows = functional.normalize(embeddings, dim=1)
    logits = rows[0::2] @ rows[1::2].T / temperature
    return functional.cross_entropy(logits, torch.arange(len(logits)))


def differentiated(values, loss, **about):
    """What the test needs of one loss."""
    given = torch.tensor(values, dtype=torch.float32, requires_grad=True)
    value = loss(given)
    value.backward()
    return {"input": values.tolist(), "value": value.item(), "gradient": given.grad.tolist(), **about}


def loss_goldens():
    """Both losses at random inputs."""
    draw = np.random.default_rng(3)
    embeddings, logits = draw.normal(0, 2, (12, 4)).round(4), draw.normal(0, 2, (6, 3)).round(4)
    labels = [0, 1, 2, 0, 1, 2]
    return {
        "contrastive": differentiated(embeddings, lambda x: contrastive(x, 0.2), temperature=0.2),
        "cross_entropy": differentiated(
            logits, lambda x: functional.cross_entropy(x, torch.tensor(labels)), labels=labels
        ),
    }


def drawn(name, shape):
    """Draw one tensor from a generator seeded by its name; scales and variances are around 1."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        values = draw.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        values = 0.1 * draw.standard_normal(shape)
    else:
        values = draw.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def images_of(count, side):
    """Draw images, channels last."""
    return np.random.default_rng(7).standard_normal((count, side, side, 3)).astype(np.float32)


def network_golden(depths, stem, side):
    """What the test needs of one network."""
    model = ResNet(BasicBlock, list(depths), num_classes=CLASSES)
    if stem == "small":
        model.conv1, model.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    state = model.state_dict()
    model.load_state_dict({n: drawn(n, tuple(t.shape)) if t.ndim else t for n, t in state.items()})
    images = torch.from_numpy(images_of(4, side).transpose(0, 3, 1, 2))
    with torch.no_grad():
        logits = model.eval()(images)
    loss = functional.cross_entropy(model.train()(images), torch.arange(4))
    loss.backward()
    return {
        "depths": depths,
        "stem": stem,
        "side": side,
        "shapes": {name: tuple(tensor.shape) for name, tensor in state.items() if tensor.ndim},
        "logits": logits.tolist(),
        "loss": loss.item(),
        "gradient_norms": {name: float(f"{p.grad.norm():.6g}") for name, p in model.named_parameters()},
    }


def write(file, found):
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(found, separators=(",", ":")) + "\n")


def main():
    """Write both files."""
    write(TESTS / "projects/one_class/golden/losses.json", loss_goldens())
    write(TESTS / "models/golden/resnets.json", {n: network_golden(*about) for n, about in NETWORKS.items()})


if __name__ == "__main__":
    main()
