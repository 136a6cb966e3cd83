"""How a record becomes an example: decoded, brought to the model's size, nothing random.

Augmentation is drawn on the device, inside the objective, so that images are the same at every visit.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from offsites_jax.data import image as images
from offsites_jax.data.image import AnyImage, RGBImage
from offsites_jax.data.pipeline import Example
from offsites_jax.errors import DamagedDataError
from offsites_jax.projects.one_class.readers.cat_dog import short_side
from offsites_jax.projects.one_class.readers.celeba import face
from offsites_jax.projects.one_class.readers.records import UNKNOWN

View = Callable[[RGBImage, int], RGBImage]
Mask = Bool[np.ndarray, "height width"]


def whole(image: AnyImage, size: int) -> RGBImage:
    """All of an image, squashed to a square, bilinearly and antialiased."""
    if image.shape[:2] == (size, size):
        return image
    resized = images.resize(image, (size, size), antialias=True)
    return np.clip(np.round(resized), 0, 255).astype(np.uint8)


VIEWS: dict[str, View] = {"cat_dog": short_side, "celeba": face}


def view_of(source: str) -> View:
    """What a data set's images are cut and resized by: its published protocol, or `whole`."""
    return VIEWS.get(source, whole)


def prepare(
    record: dict[str, Any], rng: np.random.Generator | None = None, *, view: View, size: int
) -> Example:
    """An example: image uint8 [size, size, 3], label int32, index int32, and what else the record has.

    With a mask also `defect` uint8 [size, size]: 1 where something is wrong. Of a file that a user names,
    label and index are -1.

    Raises:
      DamagedDataError: image or mask cannot be read, or they do not belong together.

    """
    stored = record["content"] if "content" in record else record["image"]
    image = images.decode(stored) if isinstance(stored, bytes) else stored
    example: Example = {
        "image": _three_channels(view(image, size)),
        "label": np.asarray(record.get("label", UNKNOWN), np.int32),
        "index": np.asarray(record.get("index", UNKNOWN), np.int32),
    }
    if "copy" in record:
        example["copy"] = record["copy"]
    if "mask" in record:
        mask = _mask_of(record["mask"], image.shape[:2])
        example["defect"] = nearest_neighbour(mask, size).astype(np.uint8)
    return example


def decode_mask(data: bytes) -> Mask:
    """Where a mask file is above 0.

    Raises:
      DamagedDataError: it cannot be read, is a colour picture, or has more than two values.

    """
    values = _values(data)
    if values.ndim == 3:
        grey = values[..., 0]
        if (values[..., :3] != grey[..., None]).any():
            raise DamagedDataError("the mask is a colour picture; it has to be black and white")
        values = grey
    found = np.unique(values)
    if len(found) > 2:
        raise DamagedDataError(
            f"the mask has {len(found)} values ({', '.join(map(str, found[:4]))}, ...), not two; "
            "save it as PNG of 0 and 255"
        )
    return values > 0


def nearest_neighbour(mask: Mask, size: int) -> Bool[np.ndarray, "size size"]:
    """A mask resized by taking the pixel under the centre of each new one."""
    rows, columns = (
        np.floor((np.arange(size) + 0.5) * length / size).astype(np.intp) for length in mask.shape
    )
    return mask[rows[:, None], columns]


def _mask_of(stored: bytes | Mask, shape: tuple[int, ...]) -> Mask:
    if isinstance(stored, np.ndarray):
        return stored
    if not stored:
        return np.zeros(shape, bool)
    mask = decode_mask(stored)
    if mask.shape != shape:
        raise DamagedDataError(
            f"the mask is of {mask.shape[1]} x {mask.shape[0]} pixels, the image of {shape[1]} x {shape[0]}"
        )
    return mask


def _values(data: bytes) -> np.ndarray:
    """Pixels of a mask as they are stored: `images.decode` would round a 1 of 16 bits to 0."""
    try:
        with Image.open(io.BytesIO(data), formats=images.FORMATS) as picture:
            if picture.width * picture.height > images.MAX_PIXELS:
                raise DamagedDataError(
                    f"the mask has {picture.width} x {picture.height} pixels, too many to decode"
                )
            return np.asarray(picture.getchannel(0) if picture.mode in ("LA", "PA") else picture)
    except DamagedDataError:
        raise
    except Exception as error:  # Pillow's readers raise nearly every type on damaged bytes
        raise DamagedDataError(f"the mask cannot be decoded ({error})") from error


def _three_channels(image: AnyImage) -> UInt8[np.ndarray, "height width 3"]:
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else np.ascontiguousarray(image)
