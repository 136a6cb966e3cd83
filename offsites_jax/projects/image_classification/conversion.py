"""Copies of a split as ArrayRecord files, whatever it is stored as, with an index of the records' sizes."""

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from etils import epath
from jaxtyping import Int
from PIL import Image, UnidentifiedImageError

from offsites_jax.data.atomic import write_atomically
from offsites_jax.data.source import RandomAccess, Record, describe, write_array_record
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.image_classification.classes import CLASSES, known_names, write_classes
from offsites_jax.projects.image_classification.data_config import DataConfig
from offsites_jax.projects.image_classification.sources import create_source
from offsites_jax.projects.image_classification.transforms import labels_of, stored_image
from offsites_jax.train.config import Experiment

ID_KEYS = ("id", "path", "file_name", "image/filename")  # that name a record, in tables, TFDS and TFRecords


@dataclasses.dataclass(frozen=True)
class Copy:
    """What was written.

    Attributes:
      files: ArrayRecord files.
      sizes: of each record: its bytes, and height and width of its image, 0 where it is no image.
      section: what section `data` has to say to read the copy.

    """

    files: list[epath.Path]
    sizes: Int[np.ndarray, "records 3"]
    section: dict[str, Any]


def copy_split(experiment: Experiment, split: str, folder: epath.Path, shards: int) -> Copy:
    """Writes `<split>-00000-of-0000N.array_record`, `<split>.index.npz`, and `classes.txt` of known names.

    Records are msgpack maps {image: bytes of a file, label: int or labels: list of int, id: text}; labels are
    class numbers from 0. The index has the `files`, how many records each has (`counts`), and of each record
    its `bytes` and the `height` and `width` of its image.

    Raises:
      UserError: there is no such split, or the folder has other classes.
      DamagedDataError: a record without image, or with labels that the experiment has no classes for.

    """
    config = experiment.data.of_split(split)[0]
    source = create_source(experiment.data, split)
    classes = experiment.model.num_classes
    folder.mkdir(parents=True, exist_ok=True)
    _write_names(folder, known_names(experiment.data, split, classes))
    ranges = [range(n * len(source) // shards, (n + 1) * len(source) // shards) for n in range(shards)]
    files = [folder / f"{split}-{n:05d}-of-{shards:05d}.array_record" for n in range(shards)]
    sizes: list[tuple[int, int, int]] = []
    for file, rows in zip(files, ranges, strict=True):
        write_array_record(file, _records(source, rows, split, config, classes, sizes))
    table = np.array(sizes, np.int64).reshape(-1, 3)
    _write_index(folder / f"{split}.index.npz", files, [len(rows) for rows in ranges], table)
    section: dict[str, Any] = {"source": "array_record", "path": f"{folder}/{{split}}-*"}
    section |= {"image_key": "image", "label_key": "labels" if config.max_labels else "label"}
    return Copy(files, table, section | {"label_offset": 0, "max_labels": config.max_labels})


def portable(record: Record, name: str, config: DataConfig, num_classes: int) -> dict[str, Any]:
    """A record as bytes, numbers and text: its image as a file, PNG where it is pixels; classes; name.

    A record of a split without labels has none. `name` is for one that has none of its own.
    """
    image = stored_image(record, config)
    found: dict[str, Any] = {"image": image if isinstance(image, bytes) else _as_png(np.asarray(image))}
    if config.label_key in record:
        labels = labels_of(record, config, num_classes)
        found |= {"labels": labels[labels >= 0].tolist()} if config.max_labels else {"label": int(labels)}
    return found | {"id": _name_of(record) or name}


def _records(
    source: RandomAccess,
    rows: range,
    split: str,
    config: DataConfig,
    num_classes: int,
    sizes: list[tuple[int, int, int]],
) -> Iterator[dict[str, Any]]:
    """The records of one file; their sizes are added to the list."""
    for row in rows:
        try:
            record = portable(source[row], f"{split}-{row:08d}", config, num_classes)
        except DamagedDataError as error:
            raise DamagedDataError(f"{describe(source, row)}: {error}") from None
        sizes.append((len(msgspec.msgpack.encode(record)), *_image_size(record["image"])))
        yield record


def _as_png(pixels: np.ndarray) -> bytes:
    """Grey, RGB or RGBA pixels as a file."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4):
        raise DamagedDataError(
            f"an image of {pixels.dtype}{list(pixels.shape)}, not uint8 [height, width, 1, 3 or 4]"
        )
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def _name_of(record: Record) -> str:
    for key in ID_KEYS:
        value = record.get(key)
        if isinstance(value, list) and len(value) == 1:  # a feature of a tf.train.Example
            value = value[0]
        if isinstance(value, bytes):
            value = value.decode(errors="backslashreplace")
        if isinstance(value, str) and value:
            return value
    return ""


def _image_size(data: bytes) -> tuple[int, int]:
    """Height and width as the file's head says; 0, 0 where it is no image."""
    with (
        contextlib.suppress(UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError),
        Image.open(io.BytesIO(data)) as image,
    ):
        return image.height, image.width
    return 0, 0


def _write_names(folder: epath.Path, names: Sequence[str] | None) -> None:
    file = folder / CLASSES
    if names is None:
        return
    if file.exists() and tuple(file.read_text().splitlines()) != tuple(names):
        raise UserError(f"{file}: has other classes than this split; choose another --output")
    write_classes(file, names)


def _write_index(
    file: epath.Path, files: Sequence[epath.Path], counts: list[int], sizes: Int[np.ndarray, "records 3"]
) -> None:
    stream = io.BytesIO()
    np.savez(
        stream,
        files=np.array([shard.name for shard in files]),
        counts=np.array(counts, np.int64),
        bytes=sizes[:, 0],
        height=sizes[:, 1],
        width=sizes[:, 2],
    )
    write_atomically(file, stream.getvalue())
