"""What section `data` may say."""

import dataclasses
from typing import Literal

from offsites_jax.data.pipeline import Loading
from offsites_jax.errors import UserError

SourceName = Literal[
    "cifar10", "cifar100", "fashion_mnist", "cat_dog", "celeba", "mvtec", "folder", "table", "digits",
    "textures", "faces",
]  # fmt: skip
CLASS_SETS = ("cifar10", "cifar100", "fashion_mnist", "cat_dog", "digits")
IN_MEMORY = ("digits", "textures", "faces")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Section `data`.

    Attributes:
      source: cifar10, cifar100 (python or binary version), fashion_mnist (idx.gz), cat_dog (Kaggle), celeba,
        mvtec, as published; folder (`train/good`, `test/<kind>`, perhaps `ground_truth/<kind>`; or simply
        good photos); table (a CSV `path,split,label,mask`); digits (inside scikit-learn); textures and faces
        (inside scikit-image).
      path: folder of the data, or the CSV file; digits, textures and faces need none.
      category: what is normal: a class by name or number, a category of mvtec, or a texture (brick, grass,
        gravel). For celeba the attribute that makes a face anomalous.
      fine_labels: count the 100 fine classes of cifar100 instead of the 20 coarse ones.
      train_split: split that training reads.
      held_out: share of the normal training images kept out of training as split `validation`, to set
        thresholds by; with classes as many images of the others are added to it, with celeba it is the
        published partition instead. Unless given, a fifth for a folder without `test/`, and none otherwise.
      split_seed: of the draw of held-out images, and of the defects in textures.
      image_size: side of an image as the model sees it, in pixels; of textures, side of a window.
      copies: how many times an epoch sees each training image; the field `copy` counts them, for
        distribution augmentation.
      cache: keep photos in memory at the model's size once they are decoded.
      loading: workers, prefetch, what to do about a bad record.

    """

    source: SourceName = "folder"
    path: str = ""
    category: str = ""
    fine_labels: bool = False
    train_split: str = "train"
    held_out: float | None = None
    split_seed: int = 1
    image_size: int = 256
    copies: int = 1
    cache: bool = True
    loading: Loading = Loading()

    def __post_init__(self) -> None:
        for name in ("image_size", "copies"):
            if getattr(self, name) < 1:
                raise UserError(f"config.data.{name}: is {getattr(self, name)}, must be at least 1")
        if not 0 <= self.split_seed < 2**32:
            raise UserError(f"config.data.split_seed: is {self.split_seed}, must be in [0, 2**32)")
        if self.held_out is not None and not 0 <= self.held_out < 1:
            raise UserError(f"config.data.held_out: is {self.held_out}, must be a share in [0, 1)")
        if not self.path and self.source not in IN_MEMORY:
            raise UserError(f"config.data.path: {self.source} needs the folder or file of the data")
