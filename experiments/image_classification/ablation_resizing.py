"""Adaptive regularisation under progressive and random resizing: the four arms of one table.

    offsites train experiments/image_classification/ablation_resizing.py:s-random-adaptive \
        --workdir gs://BUCKET/arm

Variants: {s, m}-{progressive, random}-{adaptive, vanilla}; the first is the default. arXiv 2104.00298, table
13: image sizes grow in four stages or are drawn anew every 8 epochs; the regularisation goes with the size or
stays at its strongest. Which network the table is of is our guess: 85.1 % is what EfficientNetV2-M is
published with. S shows the same comparison for less. The first arms are imagenet_v2.py:s and :m.

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:16x16
Cost: docs/plan.md
Expect: adaptive 0.7 points above vanilla in both (section 5.4); with M 85.1, 84.3, 84.2 and 83.5 % (table 13,
as remembered, not checked). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification.recipes import ablations, efficientnet
from offsites_jax.projects.image_classification.recipes.shared import REMEMBERED, chosen, expect

ACCURACY = {
    "progressive-adaptive": 0.851,
    "progressive-vanilla": 0.843,
    "random-adaptive": 0.842,
    "random-vanilla": 0.835,
}
VARIANTS = tuple(f"{size}-{arm}" for size in "sm" for arm in ACCURACY)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    size, _, arm = chosen(argument, VARIANTS).partition("-")
    order, _, regularisation = arm.partition("-")
    config = ablations.resizing_arm(
        size, "random" if order == "random" else "progressive", adaptive=regularisation == "adaptive"
    )
    source = f"{efficientnet.PAPER}, table 13{REMEMBERED}"
    return ml_collections.ConfigDict(expect(config, ACCURACY[arm] if size == "m" else None, source))
