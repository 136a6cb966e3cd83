"""Tuberculosis in Shenzhen's radiographs, starting from ImageNet: what tb_from_abnormal.py is compared with.

    offsites train experiments/chest_xray/tb_from_imagenet.py --workdir workdirs/tb_imagenet \
        --config.data.path=ChinaSet_AllFiles --config.init_from.path=imagenet_b7/params.safetensors

The same in all but the start. Variants: b7 (default), b4, b0.

Data: `ChinaSet_AllFiles/` or `MontgomerySet/` as unpacked, split by patient.
Pod: v5e:2x2
Expect: no published figure; the difference from tb_from_abnormal.py is the result. Not run here. Research use
only.
"""

import ml_collections

from offsites_jax.projects.chest_xray import recipes

VARIANTS = recipes.BACKBONES


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(recipes.tuberculosis(argument))
