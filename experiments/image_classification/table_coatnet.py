"""CoAtNet on your own table of images with several labels each, as JFT was trained with; then ImageNet-1k.

    offsites train experiments/image_classification/table_coatnet.py:3 \
        --workdir gs://BUCKET/table_coatnet_3 \
        --config.data.path=/data/mine --config.model.num_classes=18000
    offsites train experiments/image_classification/table_coatnet.py:3-512 \
        --workdir gs://BUCKET/coatnet_3_512 \
        --config.init_from.path=gs://BUCKET/table_coatnet_3

Variants: 3 (default), 4, 5, 6, 7; and to fine-tune {3, 4, 5, 6, 7}-{384, 512}. arXiv 2106.04803, table 10:
14 epochs in batches of 4096, a sigmoid for each class, AdamW with linear decay after 20,000 steps,
RandAugment of magnitude 5; then 30 epochs of ImageNet-1k in batches of 512 at a constant rate of 5e-5. JFT
itself is not public. `train.steps` is for 300 million images: set it to 14 x images / 4096. CoAtNet-3
strides in its depthwise convolutions, as the one of table 5 (3 with a dagger). How 6 and 7 were trained on
JFT-3B is not in table 10: they have the settings of 5 on JFT-300M, which is our choice.

Parameters and optimizer of 5 are split over 8 chips, of 6 and 7 over 32, and their blocks are computed again
for the gradient. `--config.mesh.tensor=2` also splits heads, hidden units and classes; take
`--config.model.overrides.attention.heads_at_once=0` with it.

Data: /data/mine/train.csv and val.csv with columns `path,labels` (labels separated by ";"), or train.jsonl
and val.jsonl; classes.txt names the classes in order. To fine-tune: TFDS imagenet2012.
Pod: v5e:16x16
Cost: docs/plan.md
Expect: figures of your own. From JFT-300M 88.52 % at 384 and 88.81 % at 512 pixels (3), at 512 89.11 % (4)
and 89.77 % (5); from JFT-3B 90.45 % (6) and 90.88 % (7), after 6,600 and 20,100 days of a core of TPU v3
(table 5). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification.recipes import coatnet
from offsites_jax.projects.image_classification.recipes.shared import chosen

SIZES = tuple(coatnet.LARGE)
VARIANTS = (*SIZES, *(f"{size}-{pixels}" for pixels in (384, 512) for size in SIZES))
IMAGES, CLASSES = 300_000_000, 18_000


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    size, _, pixels = chosen(argument, VARIANTS).partition("-")
    if pixels:
        return ml_collections.ConfigDict(coatnet.fine_tuned_table(size, int(pixels)))
    return ml_collections.ConfigDict(coatnet.scratch_table(size, IMAGES, CLASSES))
