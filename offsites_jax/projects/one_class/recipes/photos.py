"""CutPaste small enough for a laptop: for a folder of photos of good parts, and for real textures."""

import dataclasses
import os
from typing import Any

from offsites_jax.errors import UserError

Config = dict[str, Any]

HELD_OUT = 0.2
"""Share of the good photos that training does not see: their scores set the threshold."""

_HEAD = (128,)


@dataclasses.dataclass(frozen=True)
class PhotoSettings:
    """How a folder of photos is trained on.

    Attributes:
      image_size: side that photos are brought to, in pixels.
      window: side of the windows that the network sees, in pixels; 0 for whole photos.
      steps: of training.
      batch_size: photos a step; each becomes three rows.
      width: of the network; 1 is ResNet-10 with 64 to 512 channels.
      jitter: of colours, of the photo and of what is pasted.
      held_out: share of the good photos that sets the threshold.
      seed: of the training.

    """

    image_size: int = 128
    window: int = 32
    steps: int = 400
    batch_size: int = 32
    width: float = 0.25
    jitter: float = 0.3
    held_out: float = HELD_OUT
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise UserError(f"held out: is {self.held_out}; give a share between 0 and 1, such as 0.2")


def photos(path: str | os.PathLike[str], settings: PhotoSettings = PhotoSettings()) -> Config:
    """An experiment that trains 3-way CutPaste on the good photos of a folder.

    Windows of 32 pixels, as in arXiv 2104.04015, section 2.4, so that the network can say where; network and
    number of steps are smaller than published by far.

    Args:
      path: folder of good photos, or with `train/good` inside.
      settings: sizes.

    """
    return {
        **small_cutpaste(settings),
        "data": {
            "source": "folder",
            "path": os.fspath(path),
            "image_size": settings.image_size,
            "held_out": settings.held_out,
        },
    }


def small_cutpaste(settings: PhotoSettings = PhotoSettings()) -> Config:
    """All but the data: a ResNet-10 with narrow stages, 3-way CutPaste, momentum with one cosine."""
    colors = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), settings.jitter)
    view = {"translate": 0.125, "jitter": colors}
    return {
        "project": "one_class",
        "model": {
            "name": "resnet_10",
            "width": settings.width,
            "head": _HEAD,
            "overrides": {"stem_width": max(8, int(128 * settings.width))},
        },
        "task": {
            "pretext": {
                "name": "cutpaste_3way",
                "window": settings.window,
                "augmentation": view,
                "colors": colors,
            },
            "l2": 3e-5,
        },
        "optimizer": {
            "name": "momentum",
            "momentum": 0.9,
            "learning_rate": {"name": "cosine", "peak": 0.03},
        },
        "train": {
            "steps": settings.steps,
            "batch_size": settings.batch_size,
            "seed": settings.seed,
            "log_every": 50,
            "checkpoint_every": 200,
            "keep": {"last": 1},
        },
    }
