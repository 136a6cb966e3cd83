"""ResNet-50, ResNet-152, EfficientNet-B4 and B5 with one image size, or with progressive learning.

    offsites train experiments/image_classification/ablation_progressive.py:resnet_50-progressive \
        --workdir gs://BUCKET/resnet_50_progressive

Variants: {resnet_50, resnet_152, efficientnet_b4, efficientnet_b5}-{fixed, progressive}; the first is the
default. arXiv 2104.00298, table 12. Progressive runs have four stages from 128 pixels on.

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:16x16
Expect: fixed to progressive 80.0 to 80.3, 82.4 to 82.9, 82.9 to 83.1, 83.7 to 84.0 % top-1, in 0.7 to 0.45
of the time (table 12, as remembered: not checked). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification import recipes

NETWORKS = {
    "resnet_50": (380, 0.800, 0.803),
    "resnet_152": (380, 0.824, 0.829),
    "efficientnet_b4": (380, 0.829, 0.831),
    "efficientnet_b5": (456, 0.837, 0.840),
}
VARIANTS = tuple(f"{name}-{how}" for name in NETWORKS for how in ("fixed", "progressive"))


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    name, _, how = recipes.chosen(argument, VARIANTS).partition("-")
    pixels, fixed, grown = NETWORKS[name]
    progressive = how == "progressive"
    accuracy = grown if progressive else fixed
    return ml_collections.ConfigDict(recipes.resized(name, pixels, accuracy, progressive=progressive))
