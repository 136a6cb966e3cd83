"""EfficientNet-B4 with Fused-MBConv in none, the first 3, 5 or all 7 of its stages.

    offsites train experiments/image_classification/ablation_fused_b4.py:1-3 \
        --workdir gs://BUCKET/fused_b4_1_3

Variants: none (default), 1-3, 1-5, 1-7. arXiv 2104.00298, table 3. The paper leaves open kernels and
squeeze-and-excitation of the fused blocks; here kernels stay B4's and there is none of the latter, which
gives 19.3, 20.9, 43.5 and 132.1 million parameters for the published 19.3, 20.0, 43.4 and 132.0. The recipe
is that of imagenet_v1.py.

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:16x16
Cost: docs/plan.md
Expect: 82.8, 83.1, 83.1 and 81.7 % top-1, and the second the fastest on TPU and GPU: 262, 362, 327 and 254
images/s on a TPU core, 155, 216, 223 and 206 on a V100 (table 3). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification.recipes import ablations, efficientnet
from offsites_jax.projects.image_classification.recipes.shared import chosen, expect

FUSED = {"none": (0, 0.828), "1-3": (3, 0.831), "1-5": (5, 0.831), "1-7": (7, 0.817)}
VARIANTS = tuple(FUSED)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    stages, accuracy = FUSED[chosen(argument, VARIANTS)]
    config = expect(ablations.fused_b4(stages), accuracy, f"{efficientnet.PAPER}, table 3")
    return ml_collections.ConfigDict(config)
