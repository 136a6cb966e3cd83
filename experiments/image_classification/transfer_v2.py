"""EfficientNetV2 from ImageNet-1k on CIFAR-10, CIFAR-100, Flowers and Cars.

    offsites train experiments/image_classification/transfer_v2.py:s-cifar10 \
        --workdir gs://BUCKET/v2_s_cifar10 \
        --config.init_from.path=gs://BUCKET/imagenet_v2_s

Variants: {s, m, l}-{cifar10, cifar100, flowers, cars}; s-cifar10 is the default. arXiv 2104.00298, section
5.3: 10,000 steps of 512 images, rate 0.001 with cosine decay, no weight decay, cutout. EMA of 0.9996, label
smoothing of 0.1, RMSProp and whole images are those of google/automl's fine-tuning (Cifar10Ft). The paper
reports means of five runs; so does

    offsites image_classification arms --experiment experiments/image_classification/transfer_v2.py \
        --variants s-cifar10 --seeds 0 1 2 3 4 --metric test/accuracy --workdir gs://BUCKET/v2_s_cifar10 \
        --overrides init_from.path=gs://BUCKET/imagenet_v2_s

No checkpoint is picked by the test images. To choose settings hold training images back:
--config.data.train_split='train[:90%]' --config.evaluators.held.split='train[90%:]'.

Data: TFDS cifar10, cifar100, oxford_flowers102 or cars196 prepared with --file_format=array_record.
Pod: v5e:8x8
Cost: docs/plan.md
Expect: 98.7, 91.5, 97.9 and 93.8 % with S, 99.0, 92.2, 98.5 and 94.6 % with M, 99.1, 92.3, 98.8 and 95.1 %
with L (table 8). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification.recipes import efficientnet
from offsites_jax.projects.image_classification.recipes.shared import chosen

VARIANTS = tuple(f"{size}-{target}" for size in "sml" for target in efficientnet.TRANSFERS)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    size, _, target = chosen(argument, VARIANTS).partition("-")
    return ml_collections.ConfigDict(efficientnet.v2_transfer(size, target))
