"""What CoAtNet is without one of its parts, on ImageNet-1k, and without relative biases on ImageNet-21k, too.

    offsites train experiments/image_classification/ablation_coatnet.py:absolute \
        --workdir gs://BUCKET/no_bias
    offsites train experiments/image_classification/ablation_coatnet.py:absolute-384 \
        --workdir gs://BUCKET/no_bias_384 --config.init_from.path=gs://BUCKET/no_bias

Variants of CoAtNet-2 at 224 pixels: absolute (no relative bias; default); cccc, ccct, cttt (kinds of the four
stages, cctt being CoAtNet's); vit_rel (attention alone on patches of 16 pixels, in 12 blocks as wide as
CoAtNet-2's size allows: the paper does not say how wide its own were); shallow, deep (fewer or more
convolutional blocks in stage 2, the rest in stage 3); head_64; layer_norm (in the convolutional blocks);
strided_dw (stride in the depthwise convolution). Of CoAtNet-0 and 1: strided_dw-0, strided_dw-1. And without
relative biases: absolute-384 (CoAtNet-2 fine-tuned), absolute-21k and absolute-21k-384 (CoAtNet-4
pre-trained on ImageNet-21k, and fine-tuned: at 384 pixels it is the one with the table's 87.9 %). arXiv
2106.04803, sections 2.2 and 4.3, tables 6 to 9; the recipes are those of imagenet_coatnet.py and
imagenet21k_coatnet.py.

Layouts keep depths and widths, not the size: cccc has 62.7, ccct 67.4, cttt 75.6 and vit_rel 73.4 million
parameters where CoAtNet-2 has 74.7; shallow has 84.7 and deep 69.7.

Data: TFDS imagenet2012 prepared with --file_format=array_record; for absolute-21k that of
imagenet21k_coatnet.py.
Pod: v5e:16x16
Cost: docs/plan.md
Expect: with all parts 84.1 %, fine-tuned 85.7 %; 83.8 (absolute) and 85.3 % (absolute-384); on ImageNet-21k
52.8 % precision at 1 for 53.0, and then 87.4 % for 87.9 (table 6); 83.4 (shallow) and 84.0 % (deep; table 7);
83.9 (head_64) and 84.1 % (layer_norm; table 8); 84.1 (strided_dw), 82.0 and 83.5 % (of 0 and 1; table 9). The
paper compares layouts by learning curves and after JFT: see ablation_transfer_coatnet.py. Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification.recipes import coatnet
from offsites_jax.projects.image_classification.recipes.shared import Config, chosen, expect

ABSOLUTE: Config = {"attention": {"relative": "none"}}
STRIDED: Config = {"conv": {"downsample": "dw"}}
CHANGES: dict[str, tuple[str, Config, float | None, int]] = {  # size, overrides, accuracy, its table
    "absolute": ("2", ABSOLUTE, 0.838, 6),
    "cccc": ("2", {"layout": "cccc"}, None, 0),
    "ccct": ("2", {"layout": "ccct"}, None, 0),
    "cttt": ("2", {"layout": "cttt"}, None, 0),
    "vit_rel": ("2", {"stages": ("t12_d704",), "stem_widths": (704, 704), "patch_size": 16}, None, 0),
    "shallow": ("2", {"stages": ("c2_d128", "c2_d256", "t18_d512", "t2_d1024")}, 0.834, 7),
    "deep": ("2", {"stages": ("c2_d128", "c8_d256", "t12_d512", "t2_d1024")}, 0.840, 7),
    "head_64": ("2", {"attention": {"head_size": 64}}, 0.839, 8),
    "layer_norm": ("2", {"conv": {"norm": "layer"}}, 0.841, 8),
    "strided_dw": ("2", STRIDED, 0.841, 9),
    "strided_dw-0": ("0", STRIDED, 0.820, 9),
    "strided_dw-1": ("1", STRIDED, 0.835, 9),
}
VARIANTS = (*CHANGES, "absolute-384", "absolute-21k", "absolute-21k-384")


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(recipe(chosen(argument, VARIANTS)))


def recipe(variant: str) -> Config:
    if variant in CHANGES:
        size, overrides, accuracy, table = CHANGES[variant]
        return changed(coatnet.scratch_1k(size), overrides, accuracy, table)
    if variant == "absolute-384":
        config = coatnet.fine_tuned_1k("2", 384)
        config["init_from"]["path"] = "workdirs/coatnet_2_absolute"
        return changed(config, ABSOLUTE, 0.853, 6)
    if variant == "absolute-21k":
        return changed(coatnet.scratch_21k("4"), ABSOLUTE, 0.528, 6, "eval/precision_at_1")
    config = coatnet.fine_tuned_21k("4", 384)
    config["init_from"]["path"] = "workdirs/imagenet21k_coatnet_4_absolute"
    return changed(config, ABSOLUTE, 0.874, 6)


def changed(
    config: Config, overrides: Config, value: float | None, table: int, metric: str = "validation/accuracy"
) -> Config:
    config["model"]["overrides"] |= overrides
    return expect(config, value, f"{coatnet.PAPER}, table {table}", metric)
