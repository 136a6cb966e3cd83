"""What arXiv 2104.00298 compares: fused stages, image sizes that grow or vary, strength of augmentation."""

from typing import Literal

from offsites_jax.models.efficientnet import variant
from offsites_jax.projects.image_classification.progressive import (
    Regularisation,
    progressive_stages,
    random_resize_stages,
)
from offsites_jax.projects.image_classification.recipes import efficientnet
from offsites_jax.projects.image_classification.recipes.shared import Config


def fused_b4(stages: int) -> Config:
    """EfficientNet-B4 whose first stages are Fused-MBConv (arXiv 2104.00298, table 3)."""
    blocks = variant("efficientnet_b4").settings["blocks"]
    fused = [f"{block.replace('_se0.25', '')}_c1" for block in blocks[:stages]]
    config = efficientnet.v1("efficientnet_b4")
    config["model"]["overrides"]["blocks"] = (*fused, *blocks[stages:])
    return config


def resized(name: str, pixels: int, regularisation: Regularisation, *, progressive: bool) -> Config:
    """A network on ImageNet-1k with one image size, or with progressive learning (table 12).

    The arms differ in nothing but the stages: the one without them has the settings of the other's last.
    """
    config = efficientnet.from_scratch(name)
    strongest = regularisation.at(0, 1)
    config["data"] |= {
        "image_size": pixels, "augment": "randaugment", "magnitude": strongest["magnitude"],
    }  # fmt: skip
    config["task"] |= {f"{key}_alpha": strongest[key] for key in ("mixup", "cutmix") if key in strongest}
    config["model"]["overrides"]["dropout_rate"] = strongest["dropout"]
    if progressive:
        config["stages"] = progressive_stages((128, pixels), regularisation)
    return config


def resizing_arm(model: str, order: Literal["progressive", "random"], *, adaptive: bool) -> Config:
    """EfficientNetV2-S, M or L in one of the four arms of table 13."""
    config = efficientnet.v2(model)
    about = efficientnet.V2_MODELS["paper"][model]
    size, regularisation = (128, about.train_size), about.regularisation
    if order == "progressive":
        config["stages"] = progressive_stages(size, regularisation, adaptive=adaptive)
    else:
        config["stages"] = random_resize_stages(size, regularisation, epochs=350, adaptive=adaptive)
    return config


def augmented(pixels: int, magnitude: float) -> Config:
    """EfficientNetV2-S with one image size and one strength of RandAugment (table 5)."""
    config = efficientnet.from_scratch("efficientnet_v2_s")
    config["data"] |= {"image_size": pixels, "augment": "randaugment", "magnitude": magnitude}
    return config
