"""CelebA as published: aligned faces, a table of attributes and one of partitions (Liu et al. 2015)."""

import numpy as np
from etils import epath
from jaxtyping import Bool, Integer
from PIL import Image

from offsites_jax.data.image import RGBImage
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.one_class.readers import splits
from offsites_jax.projects.one_class.readers.records import GOOD, Photo, PhotoSource
from offsites_jax.train.schema import nearest

IMAGES, ATTRIBUTES, PARTITIONS = "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"
HEIGHT, WIDTH = 218, 178
EYEGLASSES = "Eyeglasses"

_SPLITS = {"train": 0, "validation": 1, "test": 2}


def open_celeba(root: epath.PathLike, attribute: str, split: str) -> PhotoSource:
    """Faces, anomalous where they have the attribute; in training there are none of those.

    Args:
      root: the folder that holds `img_align_celeba/` and the two tables.
      attribute: by name, as in the second line of the table of attributes.
      split: train, validation or test, as published.

    Raises:
      UserError: there is no such split or attribute, or a file is missing.
      DamagedDataError: a table is cut off, or the two do not list the same files.

    """
    if split not in _SPLITS:
        raise UserError(f"config.data: celeba has no split {split!r}; use {', '.join(_SPLITS)}")
    folder = epath.Path(root)
    if not (folder / IMAGES).is_dir():
        raise UserError(f"{folder / IMAGES}: no such folder; config.data.path names the one that holds it")
    names, has = _attribute(folder / ATTRIBUTES, attribute)
    partition = _partition(folder / PARTITIONS, names)
    chosen = splits.celeba(partition, has, _SPLITS[split], normal_only=split == "train")
    photos = [
        Photo(f"{IMAGES}/{names[index]}", int(label), attribute if label else GOOD)
        for index, label in zip(chosen.indices, chosen.labels, strict=True)
    ]
    return PhotoSource(folder, photos)


def face(image: RGBImage, size: int) -> RGBImage:
    """The face without its surroundings, bicubically resized, as the published protocol has it.

    Rows 40 to 20 before the end, columns 10 to 10 before it (google-research/deep_representation_one_class).

    Raises:
      DamagedDataError: the image is not of 178 x 218 pixels.
    """
    if image.shape[:2] != (HEIGHT, WIDTH):
        raise DamagedDataError(
            f"is of {image.shape[1]} x {image.shape[0]} pixels; aligned faces are of {WIDTH} x {HEIGHT}"
        )
    inner = Image.fromarray(image[40:-20, 10:-10])
    return np.asarray(inner.resize((size, size), Image.Resampling.BICUBIC))


def _attribute(file: epath.Path, attribute: str) -> tuple[list[str], Bool[np.ndarray, " faces"]]:
    """File names, and which of them have the attribute. Its column is found by name."""
    lines = _lines(file)
    if len(lines) < 3 or not lines[0].strip().isdecimal():
        raise DamagedDataError(f"{file}: does not start with the number of faces; download it again")
    known = lines[1].split()
    if attribute not in known:
        raise UserError(f"config.data.category: no attribute {attribute!r}{nearest(attribute, known)}")
    column = known.index(attribute) + 1
    rows = [line.split() for line in lines[2:]]
    for number, row in enumerate(rows, start=3):
        if len(row) != len(known) + 1 or row[column] not in ("1", "-1"):
            raise DamagedDataError(f"{file}:{number}: not a file name and {len(known)} times 1 or -1")
    if len(rows) != int(lines[0]):
        raise DamagedDataError(
            f"{file}: lists {len(rows)} faces instead of {lines[0].strip()}; download it again"
        )
    return [row[0] for row in rows], np.array([row[column] == "1" for row in rows])


def _partition(file: epath.Path, names: list[str]) -> Integer[np.ndarray, " faces"]:
    """The partition of each face."""
    rows = [line.split() for line in _lines(file)]
    wrong = next(
        (number for number, row in enumerate(rows, start=1) if row[1:] not in (["0"], ["1"], ["2"])), 0
    )
    if wrong:
        raise DamagedDataError(f"{file}:{wrong}: not a file name and 0, 1 or 2")
    number = {row[0]: int(row[1]) for row in rows}
    missing = next((name for name in names if name not in number), None)
    if missing or len(rows) != len(names):
        raise DamagedDataError(
            f"{file}: does not list the same faces as {ATTRIBUTES}"
            f"{f' (no {missing})' if missing else ''}; download both again"
        )
    return np.array([number[name] for name in names], np.int64)


def _lines(file: epath.Path) -> list[str]:
    if not file.is_file():
        raise UserError(f"{file}: no such file; it comes with CelebA's annotations")
    return [line for line in file.read_text().splitlines() if line.strip()]
