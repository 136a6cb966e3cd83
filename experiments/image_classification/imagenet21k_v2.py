"""EfficientNetV2 pre-trained on ImageNet-21k, an image with several of 21,843 classes.

    offsites train experiments/image_classification/imagenet21k_v2.py:m \
        --workdir gs://BUCKET/imagenet21k_v2_m

Variants: s (default), m, l, xl. google/automl's recipe: 60 epochs of 12,720,275 images at 224 pixels in
batches of 4096, multi-label softmax, RMSProp with cosine decay, no augmentation but the crop, no dropout.

Data: google/automl's TFRecords, `imagenet21k*` with `image` and `labels`; 100,357 images in the first 16
files are for evaluation. Set data.path, and data.index to a folder that keeps where the records are.
Pod: v5e:16x16
Expect: no published figure for this stage; imagenet21k_to_1k_v2.py follows. Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification import recipes

VARIANTS = ("s", "m", "l", "xl")


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(recipes.efficientnet_v2_21k(recipes.chosen(argument, VARIANTS)))
