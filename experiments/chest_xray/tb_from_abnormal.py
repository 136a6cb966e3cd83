"""Tuberculosis in Shenzhen's radiographs, starting from the abnormality detector.

    offsites train experiments/chest_xray/tb_from_abnormal.py --workdir workdirs/tb_abnormal \
        --config.data.path=ChinaSet_AllFiles --config.init_from.path=workdirs/cxr_b7

    offsites chest_xray transfer experiments/chest_xray/tb_from_abnormal.py --output transfer \
        --starts abnormal=workdirs/cxr_b7 imagenet=imagenet_b7/params.safetensors \
        --overrides data.path=ChinaSet_AllFiles

The second command draws the learning curve: 1, 5, 10, 25 and 100 % of the training patients, five seeds, both
starts on the same patients; `--mode finetune` trains everything instead of a linear layer. Variants: b7
(default), b4, b0: the backbone of the run to start from.

Data: `ChinaSet_AllFiles/` or `MontgomerySet/` as unpacked, split by patient. For the other hospital:
`offsites chest_xray predict MontgomerySet/CXR_png --workdir workdirs/tb_abnormal`.
Pod: v5e:2x2
Expect: 0.95 to 0.97 for tuberculosis on two sets are published for the abnormality detector itself, without
any training on them (Google AI blog, 2021); for this fine-tuning nothing is. Not run here. Research use only.
"""

import ml_collections

from offsites_jax.projects.chest_xray import recipes

VARIANTS = recipes.BACKBONES


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(recipes.tuberculosis(argument))
