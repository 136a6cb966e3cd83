"""Faces and other parts of photos inside scikit-image: 200 cuttings of Labeled Faces in the Wild."""

import numpy as np

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.one_class.readers.records import ANOMALOUS, GOOD, NORMAL, PixelSource
from offsites_jax.projects.one_class.readers.textures import installed

FACES = 100  # come first; the other 100 are no faces
TRAIN = 70


def open_faces(split: str) -> PixelSource:
    """70 faces to train on; 30 faces and 100 cuttings without one to test on; 25 x 25 pixels, grey.

    Raises:
      UserError: there is no such split, or scikit-image is not installed.
      DamagedDataError: its file is not what it should be.

    """
    if split not in ("train", "test"):
        raise UserError(f"config.data: faces has no split {split!r}; use train or test")
    file = installed("lfw_subset.npy")
    try:
        values = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DamagedDataError(f"{file}: cannot be read ({error}); reinstall scikit-image") from None
    pixels = np.round(values * 255).astype(np.uint8)[..., None]
    chosen = np.arange(TRAIN) if split == "train" else np.arange(TRAIN, len(pixels))
    labels = np.where(chosen < FACES, NORMAL, ANOMALOUS).astype(np.int32)
    kinds = [GOOD if label == NORMAL else "no_face" for label in labels]
    names = [f"faces/{number:03d}" for number in chosen]
    return PixelSource("faces", pixels[chosen], labels, kinds, names=names)
