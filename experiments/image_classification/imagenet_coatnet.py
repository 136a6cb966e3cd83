"""CoAtNet on ImageNet-1k: from scratch at 224 pixels, then fine-tuned at 384 or 512.

    offsites train experiments/image_classification/imagenet_coatnet.py:0 \
        --workdir gs://BUCKET/imagenet_coatnet_0
    offsites train experiments/image_classification/imagenet_coatnet.py:0-384 \
        --workdir gs://BUCKET/coatnet_0_384 \
        --config.init_from.path=gs://BUCKET/imagenet_coatnet_0

Variants: 0 (default), 1, 2, 3, 4; {0, 1, 2, 3, 4}-minival; and {0, 1, 2, 3, 4}-{384, 512}. arXiv 2106.04803,
table 10: 300 epochs in batches of 4096 with AdamW, RandAugment, mixup; fine-tuning takes 30 epochs at a
constant rate. Relative biases stay as they were trained and are resized within the network. The `-minival`
ones hold 2 % of the training images back, by which the best checkpoint stays; the others train on all and
keep the newest. CoAtNet-4 has no published recipe on ImageNet-1k alone: stochastic depth of 0.7 and
RandAugment of magnitude 20 in fine-tuning are CoAtNet-3's, the strongest of the table, and our choice.

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:16x16
Cost: docs/plan.md
Expect: 81.6, 83.3, 84.1 and 84.5 % at 224 (CoAtNet-0 to 3); 83.9, 85.1, 85.7 and 85.8 % at 384; 85.9 and
86.0 % at 512 (CoAtNet-2 and 3); tables 4, 13 and 14. No figure is published for 0 and 1 at 512, nor for 4.
Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification.recipes import coatnet
from offsites_jax.projects.image_classification.recipes.shared import chosen, with_minival

SIZES = tuple(coatnet.SMALL)
VARIANTS = (*SIZES, *(f"{size}-{how}" for how in ("minival", "384", "512") for size in SIZES))


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    size, _, how = chosen(argument, VARIANTS).partition("-")
    if how.isdigit():
        return ml_collections.ConfigDict(coatnet.fine_tuned_1k(size, int(how)))
    config = coatnet.scratch_1k(size)
    return ml_collections.ConfigDict(with_minival(config) if how else config)
