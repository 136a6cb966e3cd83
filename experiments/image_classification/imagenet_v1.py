"""EfficientNet-B0 to B7 on ImageNet-1k from scratch, the networks that EfficientNetV2 is measured against.

    offsites train experiments/image_classification/imagenet_v1.py:b7 --workdir gs://BUCKET/imagenet_b7

Variants: b0 (default), b1, b2, b3, b4, b5, b6, b7. The recipe of arXiv 1905.11946 as google/automl
(efficientnetv2) runs it: RMSProp, 350 epochs in batches of 4096, AutoAugment, stochastic depth 0.2, dropout
of 0.2 to 0.5, TensorFlow 1's bicubic kernel. Images are evaluated at the published size and trained at 0.8
of it, down to a multiple of 16, as there. With the full size in training, and with progressive learning:
ablation_progressive.py (B4, B5, B7).

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:16x16
Cost: docs/plan.md
Expect: no figure here for training at these sizes. Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification.recipes import efficientnet
from offsites_jax.projects.image_classification.recipes.shared import chosen

VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7")


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(efficientnet.v1(f"efficientnet_{chosen(argument, VARIANTS)}"))
