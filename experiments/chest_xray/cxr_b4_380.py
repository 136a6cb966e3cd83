"""Normal against abnormal chest radiographs, EfficientNet-B4 at 380 pixels: an eighth of B7's cost.

    offsites import efficientnet_b4 tf_efficientnet_b4.safetensors --from timm --new-head --output imagenet_b4
    offsites train experiments/chest_xray/cxr_b4_380.py --workdir gs://BUCKET/cxr_b4 \
        --config.data.path=gs://BUCKET/cxr/manifest.csv \
        --config.init_from.path=imagenet_b4/params.safetensors

Variants: manifest (default) and cxr14, as in cxr_b7_600.py, whose recipe this is.

Data: 16-bit PNGs of `offsites chest_xray convert --size 512`, or ChestX-ray14 as downloaded.
Pod: v5e:4x8
Cost: 4.2 G multiply-adds an image; about 4 hours at 35 % utilisation.
Expect: no published figure for this size. Not run here. Research use only.
"""

import ml_collections

from offsites_jax.projects.chest_xray import recipes

VARIANTS = recipes.SOURCES


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(recipes.detector("efficientnet_b4", 380, argument))
