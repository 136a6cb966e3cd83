"""Normal against abnormal chest radiographs, EfficientNet-B7 at 600 pixels: the published network.

    offsites import efficientnet_b7 tf_efficientnet_b7.safetensors --from timm --new-head --output imagenet_b7
    offsites train experiments/chest_xray/cxr_b7_600.py --workdir gs://BUCKET/cxr_b7 \
        --config.data.path=gs://BUCKET/cxr/manifest.csv \
        --config.init_from.path=imagenet_b7/params.safetensors

Variants: manifest (default), own images and labels such as `offsites chest_xray label` gives; cxr14, the
published ChestX-ray14 folder and its weak labels. Nabulsi et al. 2021 (Scientific Reports 11:15523) train an
ImageNet-pretrained B7 on more than 200,000 images with labels from reports; the rest of the recipe is not
published and is our own: momentum 0.9 at 0.01 per 256 images, 60,000 steps, the head alone for the first
1,000, moving average 0.9999. Early stopping is `train.keep.best`: the checkpoint with the highest area under
the curve on the tuning patients stays. Train several with --config.train.seed and give all to
`offsites chest_xray predict --workdir`, which averages their probabilities.

Data: 16-bit PNGs of `offsites chest_xray convert --size 1024`, or ChestX-ray14 as downloaded.
Pod: v5e:4x8
Cost: 37 G multiply-adds an image, so 3.4e18 multiply-adds for 15.4 M images with the backward pass; at 35 %
utilisation of 32 chips about 31 hours.
Expect: 0.94 on the 810 expert-labelled images of ChestX-ray14 and 0.87 on the authors' own set, after their
data, which are private; weak labels of ChestX-ray14 are another experiment. Not run here. Research use only.
"""

import ml_collections

from offsites_jax.projects.chest_xray import recipes

VARIANTS = recipes.SOURCES


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = recipes.detector("efficientnet_b7", 600, argument)
    config["expected"] = recipes.PUBLISHED if not argument or argument == "manifest" else {}
    return ml_collections.ConfigDict(config)
