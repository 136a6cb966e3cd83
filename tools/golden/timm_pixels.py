"""How timm normalises pixels for its published weights, for tests/export/test_pixels.py.

Needs timm 1.0.31 with torch 2.13.0, nothing of this project:

    python tools/golden/timm_pixels.py

`timm_pixels.json` holds names with tags, as timm's repositories are called, and without, by
mean and deviation in thousandths.
"""

import json
import pathlib
import re

import torch

# The CPU build of torch lacks two operators that torchvision, imported by timm, describes further.
library = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402

FILE = pathlib.Path(__file__).parents[2] / "tests/export/golden/timm_pixels.json"
OURS = re.compile(
    r"(tf_efficientnet_(b\d|l2)|tf_efficientnetv2_(b\d|s|m|l|xl)|coatnet_\w+_rw2?_\d+|resnet(18|34|50|101|152))"
    r"(\..+)?"
)


def main():
    """Write the file."""
    found = {}
    names = [*timm.list_models(), *timm.list_pretrained()]
    for name in sorted(set(filter(OURS.fullmatch, names))):
        settings = timm.get_pretrained_cfg(name)
        place = " ".join(f"{1000 * value:.0f}" for value in (*settings.mean, *settings.std))
        found.setdefault(place, []).append(name)
    FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
