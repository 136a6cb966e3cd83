"""Strength of RandAugment by image size: why regularisation should grow with the images.

    offsites train experiments/image_classification/ablation_randaugment.py:128-5 \
        --workdir gs://BUCKET/randaugment_128_5

Variants: {128, 192, 300}-{5, 10, 15}, pixels in training and evaluation and magnitude; 128-5 is the default.
arXiv 2104.00298, table 5: small images want weak augmentation, large ones strong. Here with
EfficientNetV2-S and its recipe of 350 epochs, without stages; the table's network may be another.

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:16x16
Cost: docs/plan.md
Expect: with magnitudes 5, 10 and 15 78.3, 78.0 and 77.7 % at 128 pixels, 81.2, 81.6 and 81.5 % at 192, 82.5,
82.7 and 83.2 % at 300 (table 5, as remembered, not checked). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification.recipes import ablations, efficientnet
from offsites_jax.projects.image_classification.recipes.shared import REMEMBERED, chosen, expect

ACCURACY = {
    (128, 5): 0.783, (128, 10): 0.780, (128, 15): 0.777,
    (192, 5): 0.812, (192, 10): 0.816, (192, 15): 0.815,
    (300, 5): 0.825, (300, 10): 0.827, (300, 15): 0.832,
}  # fmt: skip
VARIANTS = tuple(f"{pixels}-{magnitude}" for pixels, magnitude in ACCURACY)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    pixels, magnitude = map(int, chosen(argument, VARIANTS).split("-"))
    config = ablations.augmented(pixels, magnitude)
    source = f"{efficientnet.PAPER}, table 5{REMEMBERED}"
    return ml_collections.ConfigDict(expect(config, ACCURACY[pixels, magnitude], source))
