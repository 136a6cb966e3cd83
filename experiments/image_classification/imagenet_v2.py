"""EfficientNetV2 on ImageNet-1k from scratch: S, M and L by progressive learning, B0 to B3 without.

    offsites train experiments/image_classification/imagenet_v2.py:m --workdir gs://BUCKET/imagenet_v2_m

Variants: s (default), m, l; s-minival, m-minival, l-minival; s-automl, m-automl, l-automl; b0, b1, b2, b3.
The first three are arXiv 2104.00298, section 4 and table 6: RMSProp, 350 epochs in batches of 4096, four
stages of growing images, RandAugment, mixup and dropout. They train on all images, and the newest
checkpoints stay. The `-minival` ones hold 2 % of the training images back, by which the best checkpoint
stays, too: choose settings with these. The `-automl` ones take sizes and strengths from the released code.
B0 to B3 train as EfficientNet did: one image size, AutoAugment, TensorFlow 1's bicubic kernel. So does the
paper; google/automl's configuration has four growing sizes for every EfficientNetV2, these too.

Data: TFDS imagenet2012 prepared with --file_format=array_record; data.path is its folder. ReaL and V2
labels: `offsites eval WORKDIR --config.evaluators.real.split=real`, or `v2`, once imagenet2012_real or
imagenet_v2 is there.
Pod: v5e:16x16
Cost: docs/plan.md
Expect: top-1 of 83.9, 85.1 and 85.7 % (S, M, L; table 7); 83.9, 85.2 and 85.7 % (`-automl`) and 78.7, 79.8,
80.5 and 82.1 % (B0 to B3; google/automl). The paper trained S, M and L in 7.1, 13 and 24 hours on 32 cores
of TPU v3 (as remembered, not checked). Not run here.
"""

from typing import Any

import ml_collections

from offsites_jax.projects.image_classification.recipes import efficientnet
from offsites_jax.projects.image_classification.recipes.shared import chosen, with_minival

VARIANTS = (
    "s", "m", "l", "s-minival", "m-minival", "l-minival", "s-automl", "m-automl", "l-automl",
    "b0", "b1", "b2", "b3",
)  # fmt: skip


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(recipe(*chosen(argument, VARIANTS).split("-")))


def recipe(size: str, how: str = "") -> dict[str, Any]:
    if size.startswith("b"):
        return efficientnet.v2_small(size)
    config = efficientnet.v2(size, "automl" if how == "automl" else "paper")
    return with_minival(config) if how == "minival" else config
