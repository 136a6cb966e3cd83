"""CoAtNet pre-trained on ImageNet-21k, and fine-tuned from there on ImageNet-1k.

    offsites train experiments/image_classification/imagenet21k_coatnet.py:3 \
        --workdir gs://BUCKET/21k_coatnet_3
    offsites train experiments/image_classification/imagenet21k_coatnet.py:3-384 \
        --workdir gs://BUCKET/coatnet_3_384 \
        --config.init_from.path=gs://BUCKET/21k_coatnet_3

Variants: 2 (default), 3, 4; 4-ra (RandAugment in pre-training, PT-RA) and 4-ra-150 (150 epochs of it,
E150); and to fine-tune 2-224, 3-224 and {2, 3, 4, 4-ra, 4-ra-150}-{384, 512}. arXiv 2106.04803, table 10:
90 epochs in batches of 4096, a sigmoid for each class, AdamW with linear decay; then 30 epochs in batches
of 1024.

Data: google/automl's TFRecords of ImageNet-21k (see imagenet21k_v2.py), and TFDS imagenet2012.
Pod: v5e:16x16
Cost: docs/plan.md
Expect: CoAtNet-2, 3 and 4 87.1, 87.6 % and no figure at 224; 87.1, 87.6 and 87.9 % at 384; 87.3, 87.9 and
88.1 % at 512; CoAtNet-4 with PT-RA 88.3 and 88.4 %, with E150 too 88.4 and 88.56 %, at 384 and 512 (tables 4,
13 and 14). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification.recipes import coatnet
from offsites_jax.projects.image_classification.recipes.shared import chosen

PRETRAINED = ("2", "3", "4", "4-ra", "4-ra-150")
TUNED = ("2-224", "3-224", *(f"{model}-{pixels}" for pixels in (384, 512) for model in PRETRAINED))
VARIANTS = (*PRETRAINED, *TUNED)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    variant = chosen(argument, VARIANTS)
    if variant in TUNED:
        pretrained, _, pixels = variant.rpartition("-")
        return ml_collections.ConfigDict(coatnet.fine_tuned_21k(pretrained, int(pixels)))
    size, _, rest = variant.partition("-")
    epochs = 150 if rest.endswith("150") else 90
    return ml_collections.ConfigDict(
        coatnet.scratch_21k(size, epochs, with_randaugment=rest.startswith("ra"))
    )
