r"""CutPaste on MVTec AD, as published, and all that its tables compare it with.

    offsites train experiments/one_class/cutpaste_mvtec.py:3way-bottle --workdir gs://BUCKET/bottle \
        --config.data.path=MVTEC
    offsites one_class protocol experiments/one_class/cutpaste_mvtec.py:3way --workdir gs://BUCKET/3way \
        --overrides data.path=MVTEC

Variants: 3way (default), 2way, scar, union, rotation, cutout, cutout_mean, cutout_color, scar_color,
confetti, and patch (3way on windows of 32 pixels, for maps of where a defect is); each may name a category.
ResNet-18 from scratch on images of 256 pixels, 65,536 steps (arXiv 2104.04015, A.1 and A.2; the base
augmentation is not published in numbers, see `recipes/papers.py`).

Data: the folder of the 15 categories as MVTec ships it (CC BY-NC-SA 4.0).
Pod: v5e:2x2
Expect: mean AUC of the 15 categories 95.2 (3way), 90.9 (2way), 93.5 (scar), 94.3 (union), 73.1 (rotation; the
blog post prints 86.3), 71.3, 73.9, 76.1 (cutout: grey, mean, colour), 85.0 (scar in a colour), 77.8
(confetti); pixel AUC of patch 96.0. Runinho/pytorch-cutpaste reached 91.0 with 3way after 10,000 steps. Not
run here.
"""

import ml_collections

from offsites_jax.projects.one_class.recipes import papers, published

PRETEXTS = {
    "3way": "cutpaste_3way",
    "2way": "cutpaste",
    "scar": "cutpaste_scar",
    "union": "cutpaste_union",
    "rotation": "rotation",
    "cutout": "cutout_grey",
    "cutout_mean": "cutout_mean",
    "cutout_color": "cutout_color",
    "scar_color": "scar_color",
    "confetti": "confetti",
}
VARIANTS = (*PRETEXTS, "patch")


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    variant, category = published.chosen(argument, VARIANTS, published.MVTEC)
    if variant == "patch":
        config = ml_collections.ConfigDict({**papers.cutpaste_patch(), "expected": expected_of_pixels()})
    else:
        config = ml_collections.ConfigDict(papers.cutpaste(PRETEXTS[variant]))
        figures = published.IMAGE_AUC[PRETEXTS[variant]]
        config.expected = published.expected_of_mvtec(figures, category, 2.0, "tables 1, 4 and 5")
    config.project = "one_class"
    config.data = {"source": "mvtec", "path": "/data/mvtec", "category": category, "image_size": 256}
    config.evaluators = {"test": {"split": "test"}}
    return config


def expected_of_pixels() -> dict[str, dict[str, float | str]]:
    source = f"{published.CUTPASTE}, table 2"
    return {
        f"{name}/pixel_auc": {"value": value, "tolerance": 1.0, "source": source}
        for name, value in published.PIXEL_AUC.items()
    }
