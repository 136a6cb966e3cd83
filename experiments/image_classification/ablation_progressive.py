"""ResNet-50, ResNet-152, EfficientNet-B4, B5 and B7 with one image size, or with progressive learning.

    offsites train experiments/image_classification/ablation_progressive.py:resnet_50-progressive \
        --workdir gs://BUCKET/resnet_50_progressive

Variants: {resnet_50, resnet_152, efficientnet_b4, efficientnet_b5, efficientnet_b7}-{fixed, progressive}; the
first is the default. arXiv 2104.00298, table 12, and for B7 its text. Progressive runs have four stages from
128 pixels on; fixed ones are as their last stage throughout. What grows with the images the paper does not
print: it is what grows for EfficientNetV2-S (for B7, for V2-M).

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:16x16
Cost: docs/plan.md
Expect: fixed to progressive 80.0 to 80.3, 82.4 to 82.9, 82.9 to 83.1, 83.7 to 84.0 % top-1 (table 12, as
remembered, not checked), 1.4 to 2.2 times as fast (text); B7 85.0 % with progressive learning, in 54 instead
of 139 hours on 32 cores of TPU v3 (text). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification.recipes import ablations, efficientnet
from offsites_jax.projects.image_classification.recipes.shared import REMEMBERED, chosen, expect

TABLE = f"{efficientnet.PAPER}, table 12{REMEMBERED}"
NETWORKS = {  # largest images, what else grows as for, top-1 fixed and progressive, source
    "resnet_50": (380, "s", 0.800, 0.803, TABLE),
    "resnet_152": (380, "s", 0.824, 0.829, TABLE),
    "efficientnet_b4": (380, "s", 0.829, 0.831, TABLE),
    "efficientnet_b5": (456, "s", 0.837, 0.840, TABLE),
    "efficientnet_b7": (600, "m", None, 0.850, f"{efficientnet.PAPER}, text"),
}
VARIANTS = tuple(f"{name}-{how}" for name in NETWORKS for how in ("fixed", "progressive"))


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    name, _, how = chosen(argument, VARIANTS).partition("-")
    pixels, alike, fixed, grown, source = NETWORKS[name]
    progressive = how == "progressive"
    regularisation = efficientnet.V2_MODELS["paper"][alike].regularisation
    config = ablations.resized(name, pixels, regularisation, progressive=progressive)
    return ml_collections.ConfigDict(expect(config, grown if progressive else fixed, source))
