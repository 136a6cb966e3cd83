"""EfficientNetV2 from ImageNet-21k fine-tuned on ImageNet-1k.

    offsites train experiments/image_classification/imagenet21k_to_1k_v2.py:m \
        --workdir gs://BUCKET/v2_m_21k_1k \
        --config.init_from.path=gs://BUCKET/imagenet21k_v2_m

Variants: s (default), m, l, xl, and s-cosine, m-cosine, l-cosine, xl-cosine. The first are google/automl's
ImagenetFt: 15 epochs in batches of 512 at a constant rate of 0.001, whole images at evaluation size, flip
and cutout, label smoothing 0.1, EMA 0.9996. arXiv 2104.00298 says cosine decay instead, which the `-cosine`
ones have, with all else from the code. `init_from.path` may also be what `offsites import` made of a
published checkpoint (`efficientnetv2-m-21k`).

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:8x8
Cost: docs/plan.md
Expect: top-1 of 84.9, 86.2, 86.9 and 87.2 % (S, M, L, XL; google/automl); 84.9, 86.2, 86.8 and 87.3 % in
arXiv 2104.00298, table 7. Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification.recipes import efficientnet
from offsites_jax.projects.image_classification.recipes.shared import chosen

VARIANTS = ("s", "m", "l", "xl", "s-cosine", "m-cosine", "l-cosine", "xl-cosine")


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    size, _, rate = chosen(argument, VARIANTS).partition("-")
    config = efficientnet.v2_21k_to_1k(size, "cosine" if rate == "cosine" else "constant")
    return ml_collections.ConfigDict(config)
