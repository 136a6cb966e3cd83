"""Published figures, in percent: what experiment files expect, and tables are compared with."""

from collections.abc import Mapping
from typing import Any

from offsites_jax.errors import UserError
from offsites_jax.train.schema import nearest

CUTPASTE = "CutPaste, arXiv 2104.04015"
DROC = "arXiv 2011.02578; figures of the Google AI blog, September 2021"

TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
OBJECTS = (
    "bottle", "cable", "capsule", "hazelnut", "metal_nut",
    "pill", "screw", "toothbrush", "transistor", "zipper",
)  # fmt: skip
MVTEC = (*TEXTURES, *OBJECTS)

CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "mvtec": MVTEC,
    "cifar10": tuple(map(str, range(10))),
    "cifar100": tuple(map(str, range(20))),
    "fashion_mnist": tuple(map(str, range(10))),
    "cat_dog": ("cat", "dog"),
    "celeba": ("Eyeglasses",),
    "digits": tuple(map(str, range(10))),
    "textures": ("brick", "grass", "gravel"),
    "faces": ("face",),
}
"""What is normal in turn, by data set."""

GROUPS: Mapping[str, Mapping[str, tuple[str, ...]]] = {"mvtec": {"texture": TEXTURES, "object": OBJECTS}}
"""Groups of categories with a mean of their own, by data set."""


def _of_mvtec(*figures: float) -> dict[str, float]:
    """Figures of the five textures, their mean, the ten objects, their mean, and the mean of all."""
    return dict(zip((*TEXTURES, "texture", *OBJECTS, "object", "mean"), figures, strict=True))


IMAGE_AUC: Mapping[str, Mapping[str, float]] = {
    "cutpaste": _of_mvtec(
        67.9, 99.9, 99.7, 95.9, 94.9, 91.7,
        99.2, 87.1, 87.9, 91.3, 96.8, 93.4, 54.4, 99.2, 96.4, 99.4, 90.5, 90.9,
    ),
    "cutpaste_scar": _of_mvtec(
        94.6, 95.5, 100.0, 89.4, 98.7, 95.7,
        98.0, 78.8, 95.3, 96.7, 97.9, 85.8, 83.7, 96.7, 91.1, 99.5, 92.4, 93.5,
    ),
    "cutpaste_3way": _of_mvtec(
        93.1, 99.9, 100.0, 93.4, 98.6, 97.0,
        98.3, 80.6, 96.2, 97.3, 99.3, 92.4, 86.3, 98.3, 95.5, 99.4, 94.3, 95.2,
    ),
    "ensemble": _of_mvtec(
        93.9, 100.0, 100.0, 94.6, 99.1, 97.5,
        98.2, 81.2, 98.2, 98.3, 99.9, 94.9, 88.7, 99.4, 96.1, 99.9, 95.5, 96.1,
    ),
    "cutpaste_union": {"mean": 94.3},
    "rotation": {"mean": 73.1},
    "cutout_grey": {"mean": 71.3},
    "cutout_mean": {"mean": 73.9},
    "cutout_color": {"mean": 76.1},
    "scar_color": {"mean": 85.0},
    "confetti": {"mean": 77.8},
    "b4_pool": {"mean": 96.6},
    "b4_level7": {"mean": 97.1},
}  # fmt: skip
"""Tables 1, 3, 4 and 5 of CutPaste, by pretext; the rotation of the blog post's table is 86.3 instead."""

PIXEL_AUC: Mapping[str, float] = _of_mvtec(
    98.3, 97.5, 99.5, 90.5, 95.5, 96.3,
    97.6, 90.0, 97.4, 97.3, 93.1, 95.7, 96.7, 98.1, 93.0, 99.3, 95.8, 96.0,
)  # fmt: skip
"""Table 2 of CutPaste: 3-way on patches."""

TWO_STAGE: Mapping[tuple[str, str], tuple[float, float]] = {
    ("rotation", "cifar10"): (91.3, 0.3),
    ("rotation", "cifar100"): (84.1, 0.6),
    ("rotation", "fashion_mnist"): (95.8, 0.3),
    ("rotation", "cat_dog"): (86.4, 0.6),
    ("contrastive_da", "cifar10"): (92.5, 0.6),
    ("contrastive_da", "cifar100"): (86.5, 0.7),
    ("contrastive_da", "fashion_mnist"): (94.8, 0.3),
    ("contrastive_da", "cat_dog"): (89.6, 0.5),
}
"""Mean over classes and standard deviation over five seeds, by pretext and data set."""


def expected_of_mvtec(
    figures: Mapping[str, float], category: str, tolerance: float, where: str
) -> dict[str, Any]:
    """Section `expected`: of a table for `protocol`, and of one category for a single run.

    Args:
      figures: percent by category or group.
      category: of the single run.
      tolerance: how far off still counts as reproduced.
      where: table of CutPaste.

    """
    source = f"{CUTPASTE}, {where}"
    entries = {
        f"{name}/auc": {"value": value, "tolerance": tolerance, "source": source}
        for name, value in figures.items()
    }
    if category in figures:
        entries = {"test/auc": entries[f"{category}/auc"], **entries}
    return entries


def chosen(argument: str | None, variants: tuple[str, ...], categories: tuple[str, ...]) -> tuple[str, str]:
    """Variant and category that the argument of an experiment file names: `VARIANT` or `VARIANT-CATEGORY`.

    Returns:
      The first of either where it is not named.

    Raises:
      UserError: there is no such variant or category.

    """
    variant, category = argument or variants[0], categories[0]
    if variant not in variants and "-" in variant:
        variant, _, category = variant.rpartition("-")
    if variant not in variants:
        raise UserError(f"no variant {variant!r}{nearest(variant, variants)}")
    if category not in categories:
        raise UserError(f"no category {category!r}{nearest(category, categories)}")
    return variant, category
