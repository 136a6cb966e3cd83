"""MVTec AD as published, a category at a time, its numbers of images checked (Bergmann et al. 2019)."""

from typing import NamedTuple

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.readers.folder import open_folder
from offsites_jax.projects.one_class.readers.records import PhotoSource
from offsites_jax.train.schema import nearest


class Counts(NamedTuple):
    """Numbers of images of a category."""

    train: int
    good: int
    defective: int

    def __str__(self) -> str:
        return f"{self.train} training, {self.good} good and {self.defective} defective test images"


COUNTS = {
    "carpet": Counts(280, 28, 89),
    "grid": Counts(264, 21, 57),
    "leather": Counts(245, 32, 92),
    "tile": Counts(230, 33, 84),
    "wood": Counts(247, 19, 60),
    "bottle": Counts(209, 20, 63),
    "cable": Counts(224, 58, 92),
    "capsule": Counts(219, 23, 109),
    "hazelnut": Counts(391, 40, 70),
    "metal_nut": Counts(220, 22, 93),
    "pill": Counts(267, 26, 141),
    "screw": Counts(320, 41, 119),
    "toothbrush": Counts(60, 12, 30),
    "transistor": Counts(213, 60, 40),
    "zipper": Counts(240, 32, 119),
}
TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
OBJECTS = tuple(category for category in COUNTS if category not in TEXTURES)
# Photographed in one pose: a score may depend on the place in the image (Li et al. 2021, appendix A.5).
ALIGNED = ("bottle", "cable", "capsule", "metal_nut", "pill", "toothbrush", "transistor", "zipper")


def open_mvtec(root: epath.PathLike, category: str, split: str) -> PhotoSource:
    """The images of a category; test images with the masks of their defects.

    Args:
      root: the folder of the categories.
      category: its name.
      split: train or test.

    Raises:
      UserError: there is no such category or split, images are missing or too many, or photos and masks do
        not belong together.

    """
    _check_known(category)
    folder = epath.Path(root) / category
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; config.data.path names the folder of the categories")
    wrong = difference(root, category)
    if wrong:
        raise UserError(f"{wrong}; unpack all of it, or read it with data.source=folder")
    return open_folder(folder, split)


def difference(root: epath.PathLike, category: str) -> str:
    """How the number of images of a category differs from the published one; empty when it does not."""
    _check_known(category)
    folder = epath.Path(root) / category
    train, test = open_folder(folder, "train"), open_folder(folder, "test")
    found = Counts(len(train), int((test.labels == 0).sum()), int((test.labels == 1).sum()))
    if found == COUNTS[category]:
        return ""
    return f"{folder}: has {found}, instead of {COUNTS[category]}"


def differences(root: epath.PathLike) -> list[str]:
    """What differs from the published data set, a line a category."""
    lines = []
    for category in COUNTS:
        try:
            lines.append(difference(root, category))
        except UserError as error:
            lines.append(str(error))
    return [line for line in lines if line]


def _check_known(category: str) -> None:
    if category not in COUNTS:
        raise UserError(
            f"config.data.category: MVTec AD has no {category!r}{nearest(category, COUNTS)} "
            "(other data of that layout: data.source=folder)"
        )
