"""CoAtNet on ImageNet-1k: from scratch at 224 pixels, then fine-tuned at 384 or 512.

    offsites train experiments/image_classification/imagenet_coatnet.py:0 \
        --workdir gs://BUCKET/imagenet_coatnet_0
    offsites train experiments/image_classification/imagenet_coatnet.py:0-384 \
        --workdir gs://BUCKET/coatnet_0_384 \
        --config.init_from.path=gs://BUCKET/imagenet_coatnet_0

Variants: 0 (default), 1, 2, 3; and 0-384, 1-384, 2-384, 3-384, 2-512, 3-512. arXiv 2106.04803, table 10:
300 epochs in batches of 4096 with AdamW, RandAugment, mixup; fine-tuning takes 30 epochs at a constant
rate. Relative biases stay as they were trained and are resized within the network. CoAtNet-4 has no
published recipe on ImageNet-1k alone; see imagenet21k_coatnet.py.

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:16x16
Expect: 81.6, 83.3, 84.1 and 84.5 % at 224; 83.9, 85.1, 85.7 and 85.8 % at 384; 85.9 and 86.0 % at 512
(table 4). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification import recipes

VARIANTS = ("0", "1", "2", "3", "0-384", "1-384", "2-384", "3-384", "2-512", "3-512")


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    size, _, pixels = recipes.chosen(argument, VARIANTS).partition("-")
    if pixels:
        return ml_collections.ConfigDict(recipes.coatnet_fine_tuning(size, int(pixels)))
    return ml_collections.ConfigDict(recipes.coatnet(size))
