"""The published recipes as experiment configurations, for the files in experiments/one_class.

Each function returns the sections model, task, optimizer and train as plain values; a file adds its data, and
may change anything. Sources: two-stage one-class learning (DROC) arXiv 2011.02578 with the scripts of
google-research/deep_representation_one_class, whose flags have other defaults; CutPaste arXiv 2104.04015.
"""

from typing import Any, Literal, get_args

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.views.pretexts import UNIONS, PretextName, UnionName

Config = dict[str, Any]

DrocName = Literal["rotation", "contrastive", "contrastive_da"]

MLP = (512,) * 8
DROC_EPOCHS = 2048
CUTPASTE_EPOCH, CUTPASTE_EPOCHS = 256, 256  # steps, and how many times so many: 65,536 steps
TUNE_HEAD_EPOCHS, TUNE_ALL_EPOCHS = 10, 64
IMAGES = 32  # of a CutPaste batch: 64 rows, 96 for three classes
IMAGES_B4 = 8

_DROC_VIEW = {
    "min_crop": 0.5,
    "flip": True,
    "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.4},
    "grey": 0.2,
}
_DROC = {  # images a batch, widths of the head
    "rotation": (64, MLP),
    "contrastive": (32, (*MLP, 128)),
    "contrastive_da": (32, (*MLP, 128)),
}


def droc(name: DrocName, images: int, union: UnionName = "rot") -> Config:
    """Rotation prediction or contrastive learning of a ResNet-18, as the released scripts run them.

    The blur that the scripts name does not happen in them, and is left out here too; `augmentation.blur` 0.5
    adds it.

    Args:
      name: which of the three.
      images: number of training images. With a union, before it is made; the data must then give as many
        copies of each (`data.copies`).
      union: of contrastive_da.

    Raises:
      UserError: no such recipe, or fewer images than a batch.

    """
    if name not in get_args(DrocName):
        raise UserError(f"no recipe {name!r}: known are {', '.join(get_args(DrocName))}")
    batch, head = _DROC[name]
    pretext: Config = {"name": name.removesuffix("_da"), "augmentation": _DROC_VIEW}
    if name == "contrastive_da":
        pretext["union"] = union
        images *= len(UNIONS[union])
    epoch = images // batch
    if epoch == 0:
        raise UserError(
            f"{images} training images do not fill a batch of {batch}; use fewer a batch or more images"
        )
    return {
        "model": {"name": "resnet_18", "head": head},
        "task": {"pretext": pretext, "l2": 3e-4},
        "optimizer": _momentum(0.01, epoch),
        "train": {"steps": DROC_EPOCHS * epoch, "batch_size": batch},
    }


def cutpaste(name: PretextName = "cutpaste_3way", jitter: float = 0.1) -> Config:
    """A defect task, or rotation prediction beside it, on whole images with a ResNet-18.

    The base augmentation is not published in numbers: shifts by an eighth, and jitter as strong as that of
    what is pasted.

    Args:
      name: which task.
      jitter: of colours, of the image and of what is pasted; the paper studies 0 to 0.3.

    Raises:
      UserError: contrastive, which is no task of that paper.

    """
    if name == "contrastive":
        raise UserError("cutpaste has no recipe 'contrastive': use droc")
    colors = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), jitter)
    view = {"translate": 0.125, "jitter": colors}
    return {
        "model": {"name": "resnet_18", "head": MLP},
        "task": {"pretext": {"name": name, "augmentation": view, "colors": colors}, "l2": 3e-5},
        "optimizer": _momentum(0.03, CUTPASTE_EPOCH),
        "train": {"steps": CUTPASTE_EPOCHS * CUTPASTE_EPOCH, "batch_size": IMAGES},
    }


def cutpaste_patch(name: PretextName = "cutpaste_3way", window: int = 32, jitter: float = 0.1) -> Config:
    """The same on small windows, for maps of where a defect is; 32 or 64 pixels."""
    config = cutpaste(name, jitter)
    config["model"]["stem"] = "small"
    config["task"]["pretext"]["window"] = window
    return config


def cutpaste_b4(features: Literal["pool", "level7"] = "pool") -> Config:
    """Fine-tuning of a pretrained EfficientNet-B4: the head alone at 0.03, then everything at 1e-4.

    Statistics of its batch norms stay. Weights come from `init_from`. The optimizer is one section for each
    of the parameter groups `backbone` and `head`.
    """
    config = cutpaste()
    config["model"] |= {
        "name": "efficientnet_b4",
        "features": features,
        "pixels": "imagenet",
        "frozen_norm": True,
    }
    switch = TUNE_HEAD_EPOCHS * CUTPASTE_EPOCH
    config["optimizer"] = {
        group: {
            "name": "momentum",
            "momentum": 0.9,
            "learning_rate": {"name": "piecewise", "boundaries": (switch,), "values": (start, 1e-4)},
        }
        for group, start in (("backbone", 0.0), ("head", 0.03))
    }
    config["train"] = {"steps": switch + TUNE_ALL_EPOCHS * CUTPASTE_EPOCH, "batch_size": IMAGES_B4}
    return config


def _momentum(rate: float, epoch: int) -> Config:
    """SGD with momentum 0.9; a cosine down to 0 that moves once per epoch, of so many steps."""
    cosine = {"name": "cosine", "peak": rate, "every": epoch}
    return {"name": "momentum", "momentum": 0.9, "learning_rate": cosine}
