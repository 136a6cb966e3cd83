"""How a labelled image becomes an example: cropped and augmented for training, plain for evaluation."""

import numpy as np
from jaxtyping import Int32, UInt8

from offsites_jax.data import image as images
from offsites_jax.data.augment import (
    Draw,
    apply,
    cutout,
    draw_autoaugment,
    draw_cutout,
    draw_randaugment,
    joined,
)
from offsites_jax.errors import DamagedDataError
from offsites_jax.projects.image_classification.data_config import DataConfig

Record = dict[str, np.ndarray]
Pixels = UInt8[np.ndarray, "height width channels"]

V1_ATTEMPTS, V1_MIN_COVERED = 10, 0.1


def augment(record: Record, rng: np.random.Generator, *, config: DataConfig, num_classes: int) -> Record:
    """A random view of the image at training size, and its labels.

    With `data.augment_on="device"` also what the train step shall do to it, as `augment.Draw` has it:
    `augment_op` [operations] and `augment_arguments` [operations, 3].
    """
    labels = labels_of(record, config, num_classes)
    if (labels < 0).all():
        raise DamagedDataError("has no label, which training needs")
    stored = stored_image(record, config)
    if config.fast_decode and isinstance(stored, bytes):
        image = fast_view(stored, rng, config)
    else:
        image = random_view(pixels_of(record, config), rng, config)
    if config.flip:
        image = images.random_flip(image, rng)
    if config.augment_on == "device":
        op, arguments = joined([*operations(rng, config), *holes(rng, config)])
        drawn = {"augment_op": op, "augment_arguments": arguments}
        return {"image": np.ascontiguousarray(image), "label": labels, **drawn}
    for draw in operations(rng, config):
        image = apply(image, draw)
    if config.cutout:
        image = cutout(image, rng, hole_of(config), fill="noise" if config.cutout_fill == "noise" else 128)
    return {"image": np.ascontiguousarray(image), "label": labels}


def operations(rng: np.random.Generator, config: DataConfig) -> list[Draw]:
    """What `data.augment` does to one image."""
    if config.augment == "randaugment":
        draw = draw_randaugment(
            rng, magnitude=config.magnitude, num_ops=config.num_ops, out_of_range=config.out_of_range
        )
        return [draw]
    if config.augment == "autoaugment":
        return [draw_autoaugment(rng, out_of_range=config.out_of_range)]
    return []


def holes(rng: np.random.Generator, config: DataConfig) -> list[Draw]:
    """What `data.cutout` does to one image, where it is filled with grey."""
    return [draw_cutout(rng, hole_of(config))] if config.cutout else []


def hole_of(config: DataConfig) -> int:
    """Side of the square that is cut out, in pixels."""
    return 2 * round(config.cutout * config.image_size / 2)


def prepare(
    record: Record, rng: np.random.Generator | None = None, *, config: DataConfig, num_classes: int
) -> Record:
    """The image at evaluation size, and its labels; -1 where there are none."""
    known = config.label_key in record
    labels = (
        labels_of(record, config, num_classes) if known else np.full(config.max_labels or (), -1, np.int32)
    )
    return {"image": plain_view(pixels_of(record, config), config), "label": labels}


def random_view(image: Pixels, rng: np.random.Generator, config: DataConfig) -> Pixels:
    """The image, or a random part of it, at training size (google/automl, efficientnetv2)."""
    size = (config.image_size, config.image_size)
    if config.preprocess == "whole":
        return to_uint8(images.resize(image, size))
    if config.preprocess == "v2":
        part = images.inception_crop(image, rng, area=config.crop_area, aspect=config.crop_aspect)
        return to_uint8(images.resize(part, size))
    height, width = image.shape[:2]
    box = images.sample_crop(
        height,
        width,
        rng,
        area=config.crop_area,
        aspect=config.crop_aspect,
        attempts=V1_ATTEMPTS,
        min_covered=V1_MIN_COVERED,
    )
    if box is None or (box.height, box.width) == (height, width):
        part = v1_center_crop(image, config.image_size)
    else:
        part = images.crop(image, box)
    return to_uint8(images.resize_legacy_bicubic(part, size))


def fast_view(data: bytes, rng: np.random.Generator, config: DataConfig) -> Pixels:
    """What `random_view` shows of an image file, decoded no larger than needed; see `data.fast_decode`."""
    view = images.decode_inception_crop(
        data,
        (config.image_size, config.image_size),
        rng,
        area=config.crop_area,
        aspect=config.crop_aspect,
        fast_decode=True,
    )
    return with_channels(to_uint8(view), config.channels)


def plain_view(image: Pixels, config: DataConfig) -> Pixels:
    """The image at evaluation size: its centre, or all of it squashed."""
    size = config.eval_size or config.image_size
    crop = config.eval_crop
    if crop == "auto":
        centred = {"v1": True, "v2": size < 320, "whole": False}[config.preprocess]
        crop = "center" if centred else "whole"
    v1 = config.preprocess == "v1"
    if crop == "center":
        image = v1_center_crop(image, size) if v1 else images.center_crop(image, size)
    resize = images.resize_legacy_bicubic if v1 else images.resize
    return to_uint8(resize(image, (size, size)))


def v1_center_crop(image: Pixels, size: int) -> Pixels:
    """The central square of EfficientNet; where it has no middle, one pixel further down and right."""
    height, width = image.shape[:2]
    side = max(int(np.float32(size / (size + 32)) * np.float32(min(height, width))), 1)
    return images.crop(image, images.Box((height - side + 1) // 2, (width - side + 1) // 2, side, side))


def labels_of(record: Record, config: DataConfig, num_classes: int) -> Int32[np.ndarray, "*most"]:
    """The class number of a record, or all of them, filled up with -1.

    Raises:
      DamagedDataError: there are none, too many, or some that no class has.
    """
    if config.label_key not in record:
        raise DamagedDataError(
            f"has no field {config.label_key!r} (data.label_key), only {', '.join(record)}"
        )
    stored = np.asarray(record[config.label_key], np.int64).reshape(-1)
    numbers = np.where(stored < 0, -1, stored + config.label_offset)
    wrong = numbers[(numbers >= num_classes) | ((numbers < 0) & (stored >= 0))]
    if len(wrong):
        raise DamagedDataError(f"label {wrong[0]} is not in 0..{num_classes - 1} (model.num_classes)")
    if not config.max_labels:
        if len(numbers) != 1:
            raise DamagedDataError(f"has {len(numbers)} labels; set data.max_labels where that is right")
        return np.asarray(numbers[0], np.int32)
    if len(numbers) > config.max_labels:
        raise DamagedDataError(f"has {len(numbers)} labels; raise data.max_labels, now {config.max_labels}")
    filled = np.full(config.max_labels, -1, np.int32)
    filled[: len(numbers)] = numbers
    return filled


def stored_image(record: Record, config: DataConfig) -> bytes | Pixels:
    """The image of a record as it is stored: the bytes of a file, or pixels.

    Raises:
      DamagedDataError: there is none.
    """
    key = "content" if "content" in record else config.image_key
    if key not in record:
        raise DamagedDataError(f"has no field {key!r} (data.image_key), only {', '.join(record)}")
    image = record[key]
    if isinstance(image, list) and len(image) == 1:  # a feature of a tf.train.Example
        image = image[0]
    return image


def pixels_of(record: Record, config: DataConfig) -> Pixels:
    """Decoded and padded pixels with the wanted number of channels."""
    image = stored_image(record, config)
    image = images.decode(image) if isinstance(image, bytes) else image
    if config.pad:
        image = np.pad(image, ((config.pad, config.pad), (config.pad, config.pad), (0, 0)))
    return with_channels(image, config.channels)


def with_channels(image: Pixels, channels: int) -> Pixels:
    """The image in colour or grey; colour becomes grey by luma weights."""
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    return to_uint8(image @ np.array([[0.299], [0.587], [0.114]]))


def to_uint8(image: np.ndarray) -> Pixels:
    """Rounded and clipped to 0..255."""
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
