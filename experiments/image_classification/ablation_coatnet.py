"""What CoAtNet-2 is without one of its parts, on ImageNet-1k at 224 pixels.

    offsites train experiments/image_classification/ablation_coatnet.py:absolute \
        --workdir gs://BUCKET/no_bias

Variants: absolute (no relative bias; default); cccc, ccct, cttt (kinds of the four stages, cctt being
CoAtNet's); vit_rel (attention alone on patches of 16 pixels, in 12 blocks as wide as CoAtNet-2's size
allows: the paper does not say how wide its own were); shallow, deep (fewer or more convolutional blocks in
stage 2, the rest in stage 3); head_64; layer_norm (in the convolutional blocks); strided_dw (stride in the
depthwise convolution). arXiv 2106.04803, sections 2.2 and 4.3, tables 6 to 9; the recipe is that of
imagenet_coatnet.py:2.

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:16x16
Expect: 84.1 % with all parts; 83.8 (absolute), 83.4 (shallow), 84.0 (deep), 83.9 (head_64), 84.1
(layer_norm) and 84.1 % (strided_dw). The paper compares layouts by learning curves and after JFT, without
a figure here. Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification import recipes

CHANGES = {
    "absolute": ({"attention": {"relative": "none"}}, 0.838),
    "cccc": ({"layout": "cccc"}, None),
    "ccct": ({"layout": "ccct"}, None),
    "cttt": ({"layout": "cttt"}, None),
    "vit_rel": ({"stages": ("t12_d704",), "stem_widths": (704, 704), "patch_size": 16}, None),
    "shallow": ({"stages": ("c2_d128", "c2_d256", "t18_d512", "t2_d1024")}, 0.834),
    "deep": ({"stages": ("c2_d128", "c8_d256", "t12_d512", "t2_d1024")}, 0.840),
    "head_64": ({"attention": {"head_size": 64}}, 0.839),
    "layer_norm": ({"conv": {"norm": "layer"}}, 0.841),
    "strided_dw": ({"conv": {"downsample": "dw"}}, 0.841),
}
VARIANTS = tuple(CHANGES)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    overrides, accuracy = CHANGES[recipes.chosen(argument, VARIANTS)]
    config = recipes.coatnet("2")
    config["model"]["overrides"] |= overrides
    if accuracy is None:
        config["expected"] = {}
    else:
        config["expected"]["validation/accuracy"]["value"] = accuracy
    return ml_collections.ConfigDict(config)
