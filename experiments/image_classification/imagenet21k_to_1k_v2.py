"""EfficientNetV2 from ImageNet-21k fine-tuned on ImageNet-1k.

    offsites train experiments/image_classification/imagenet21k_to_1k_v2.py:m \
        --workdir gs://BUCKET/v2_m_21k_1k \
        --config.init_from.path=gs://BUCKET/imagenet21k_v2_m

Variants: s (default), m, l, xl. google/automl's ImagenetFt: 15 epochs in batches of 512 at a constant
rate, whole images at evaluation size, flip and cutout. `init_from.path` may also be what `offsites import`
made of a published checkpoint (`efficientnetv2-m-21k`).

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:8x8
Expect: top-1 of 84.9, 86.2, 86.8 and 87.3 % (S, M, L, XL; arXiv 2104.00298, table 7). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification import recipes

VARIANTS = ("s", "m", "l", "xl")


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(recipes.efficientnet_v2_21k_to_1k(recipes.chosen(argument, VARIANTS)))
