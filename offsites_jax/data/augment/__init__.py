"""Augmentation of uint8 images, drawn apart from being applied.

`draw_randaugment` and `draw_autoaugment` decide what happens to an image, as a few numbers; `apply` does
it on the host, `device.apply_batch` does the same inside a jitted step. Mixing images of a batch is in
`mix`. The last two modules need JAX and are imported by their own names, so that data workers stay light.
"""

from offsites_jax.data.augment.draws import (
    Draw,
    OutOfRange,
    draw_autoaugment,
    draw_cutout,
    draw_randaugment,
    joined,
)
from offsites_jax.data.augment.host import apply, cutout

__all__ = [
    "Draw",
    "OutOfRange",
    "apply",
    "cutout",
    "draw_autoaugment",
    "draw_cutout",
    "draw_randaugment",
    "joined",
]
