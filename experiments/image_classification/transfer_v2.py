"""EfficientNetV2 from ImageNet-1k on CIFAR-10, CIFAR-100, Flowers and Cars.

    offsites train experiments/image_classification/transfer_v2.py:s-cifar10 \
        --workdir gs://BUCKET/v2_s_cifar10 \
        --config.init_from.path=gs://BUCKET/imagenet_v2_s

Variants: {s, m, l}-{cifar10, cifar100, flowers, cars}; s-cifar10 is the default. arXiv 2104.00298, section
5.3: 10,000 steps of 512 images, rate 0.001 with cosine decay, no weight decay, cutout. The paper reports
means of five runs: change train.seed.

Data: TFDS cifar10, cifar100, oxford_flowers102 or cars196 prepared with --file_format=array_record.
Pod: v5e:8x8
Expect: table 8, e.g. 98.7, 91.5, 97.9 and 93.8 % with S. Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification import recipes

VARIANTS = tuple(f"{size}-{target}" for size in "sml" for target in recipes.TRANSFERS)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    size, _, target = recipes.chosen(argument, VARIANTS).partition("-")
    return ml_collections.ConfigDict(recipes.efficientnet_v2_transfer(size, target))
