"""EfficientNetV2 pre-trained on ImageNet-21k, an image with several of 21,843 classes.

    offsites train experiments/image_classification/imagenet21k_v2.py:m \
        --workdir gs://BUCKET/imagenet21k_v2_m

Variants: s (default), m, l, xl, and s-30, m-30, l-30, xl-30. arXiv 2104.00298, section 5.2, and
google/automl's recipe: 60 epochs (or 30) of 12,720,275 images at 224 pixels in batches of 4096, multi-label
softmax, RMSProp with cosine decay, no augmentation but the crop, no dropout.

Data: google/automl's TFRecords, `imagenet21k*` with `image` and `labels`; 100,357 images in the first 16
files are for evaluation, 25,089 in the next 4 for choosing settings (split minival). Set data.path, and
data.index to a folder that keeps where the records are.
Pod: v5e:16x16
Cost: docs/plan.md
Expect: no published figure for this stage; imagenet21k_to_1k_v2.py follows. The paper trained S, M, L and XL
in 9, 15, 26 and 45 hours on 32 cores of TPU v3 (as remembered, not checked). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification.recipes import efficientnet
from offsites_jax.projects.image_classification.recipes.shared import chosen

VARIANTS = ("s", "m", "l", "xl", "s-30", "m-30", "l-30", "xl-30")


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    size, _, epochs = chosen(argument, VARIANTS).partition("-")
    return ml_collections.ConfigDict(efficientnet.v2_21k(size, int(epochs or 60)))
