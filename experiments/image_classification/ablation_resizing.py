"""Adaptive regularisation under progressive and random resizing: the four arms of one table.

    offsites train experiments/image_classification/ablation_resizing.py:random-adaptive \
        --workdir gs://BUCKET/arm

Variants: progressive-adaptive (default), progressive-vanilla, random-adaptive, random-vanilla. arXiv
2104.00298, table 13: image sizes grow in four stages or are drawn anew every 8 epochs; the regularisation
goes with the size or stays at its strongest. The network is EfficientNetV2-M, because 85.1 % is its published
accuracy: that the table's is the same is our guess. The first arm is imagenet_v2.py:m.

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:16x16
Cost: docs/plan.md
Expect: adaptive 0.7 points above vanilla in both (section 5.4); 85.1, 84.3, 84.2 and 83.5 % (table 13, as
remembered, not checked). Not run here.
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
VARIANTS = tuple(ACCURACY)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    variant = chosen(argument, VARIANTS)
    order, _, regularisation = variant.partition("-")
    adaptive = regularisation == "adaptive"
    config = ablations.resizing_arm("random" if order == "random" else "progressive", adaptive=adaptive)
    source = f"{efficientnet.PAPER}, table 13{REMEMBERED}"
    return ml_collections.ConfigDict(expect(config, ACCURACY[variant], source))
