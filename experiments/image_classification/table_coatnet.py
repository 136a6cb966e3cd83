"""CoAtNet on your own table of images with several labels each, by the recipe that JFT was trained with.

    offsites train experiments/image_classification/table_coatnet.py:3 \
        --workdir gs://BUCKET/table_coatnet_3 \
        --config.data.path=/data/mine --config.model.num_classes=18000

Variants: 3 (default), 4, 5. arXiv 2106.04803, table 10: 14 epochs in batches of 4096, a sigmoid for each
class, AdamW with linear decay after 20,000 steps, RandAugment of magnitude 5. JFT itself is not public.
`train.steps` is for 300 million images: set it to 14 x images / 4096.

Data: /data/mine/train.csv and val.csv with columns `path,labels` (labels separated by ";"), or train.jsonl
and val.jsonl; classes.txt names the classes in order.
Pod: v5e:16x16
Expect: figures of your own. With JFT-300M, then fine-tuning at 512: 88.81 % (3), 89.11 % (4), 89.77 % (5)
on ImageNet (table 13). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification import recipes

VARIANTS = ("3", "4", "5")
IMAGES, CLASSES = 300_000_000, 18_000


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    size = recipes.chosen(argument, VARIANTS)
    return ml_collections.ConfigDict(recipes.coatnet_table(size, IMAGES, CLASSES))
