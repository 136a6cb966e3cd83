"""EfficientNetV2 on ImageNet-1k from scratch: S, M and L by progressive learning, B0 to B3 without.

    offsites train experiments/image_classification/imagenet_v2.py:m --workdir gs://BUCKET/imagenet_v2_m

Variants: s (default), m, l; s-automl, m-automl, l-automl; b0, b1, b2, b3. The first three are arXiv
2104.00298, section 4 and table 6: RMSProp, 350 epochs in batches of 4096, four stages of growing images,
RandAugment, mixup and dropout. The `-automl` ones take sizes and strengths from the released code instead.
B0 to B3 train as EfficientNet did: one image size, AutoAugment, TensorFlow 1's bicubic kernel.

Data: TFDS imagenet2012 prepared with --file_format=array_record; data.path is its folder. ReaL and V2
labels: `offsites eval WORKDIR --config.evaluators.real.split=real`, or `v2`, once imagenet2012_real or
imagenet_v2 is there.
Pod: v5e:16x16
Expect: top-1 of 83.9, 85.1 and 85.7 % (S, M, L; table 7); 78.7, 79.8, 80.5 and 82.1 % (B0 to B3;
google/automl). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification import recipes

VARIANTS = ("s", "m", "l", "s-automl", "m-automl", "l-automl", "b0", "b1", "b2", "b3")


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    size, _, schedule = recipes.chosen(argument, VARIANTS).partition("-")
    if size.startswith("b"):
        return ml_collections.ConfigDict(recipes.efficientnet_v2_small(size))
    return ml_collections.ConfigDict(
        recipes.efficientnet_v2(size, "automl" if schedule == "automl" else "paper")
    )
