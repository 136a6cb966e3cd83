"""Adaptive regularisation under progressive and random resizing: the four arms of one table.

    offsites train experiments/image_classification/ablation_resizing.py:random-adaptive \
        --workdir gs://BUCKET/arm

Variants: progressive-adaptive (default), progressive-vanilla, random-adaptive, random-vanilla. arXiv
2104.00298, table 13, here with EfficientNetV2-S: image sizes grow in four stages or are drawn anew every 8
epochs; the regularisation goes with the size or stays at its strongest.

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:16x16
Expect: adaptive 0.7 points above vanilla in both (section 5.4). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification import recipes

VARIANTS = ("progressive-adaptive", "progressive-vanilla", "random-adaptive", "random-vanilla")


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    order, _, regularisation = recipes.chosen(argument, VARIANTS).partition("-")
    adaptive = regularisation == "adaptive"
    config = recipes.resizing_arm("random" if order == "random" else "progressive", adaptive=adaptive)
    return ml_collections.ConfigDict(config)
