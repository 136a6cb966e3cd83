"""Artifacts as the bytes of a file: PNG, GIF, WAV, CSV, JSON and text."""

import csv
import dataclasses
import io
import json
import math
import wave
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image

_TABLE_ROWS = 100


@dataclasses.dataclass(frozen=True)
class Media:
    """An encoded artifact.

    Attributes:
      kind: image, audio, text or data (which only becomes a file).
      extension: of its file.
      content: the bytes of the file.
      size: (height, width, channels) of an image; (rate, channels, frames) of audio.
      markdown: what TensorBoard shows for a text.

    """

    kind: str
    extension: str
    content: bytes
    size: tuple[int, int, int] = (0, 0, 0)
    markdown: str = ""


def encode_image(image: UInt8[np.ndarray, "height width *channels"]) -> Media:
    """Grey, RGB or RGBA pixels as PNG."""
    image = _pixels(image)
    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return Media("image", "png", stream.getvalue(), image.shape)


def encode_figure(figure: Figure) -> Media:
    """A matplotlib figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    stream.seek(0)
    width, height = Image.open(stream).size
    return Media("image", "png", stream.getvalue(), (height, width, 4))


def encode_video(frames: UInt8[np.ndarray, "time height width 3"], rate: float) -> Media:
    """RGB frames as GIF, `rate` a second."""
    pictures = [Image.fromarray(_pixels(frame)) for frame in frames]
    stream = io.BytesIO()
    pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:], duration=1000 / rate, loop=0)
    return Media("image", "gif", stream.getvalue(), frames.shape[1:])


def encode_audio(samples: Float[np.ndarray, "frames *channels"], rate: int) -> Media:
    """Sound in [-1, 1] as 16-bit WAV, `rate` frames a second."""
    samples = np.nan_to_num(np.asarray(samples, np.float64)).clip(-1, 1)
    frames, channels = len(samples), samples[0].size if len(samples) else 1
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return Media("audio", "wav", stream.getvalue(), (rate, channels, frames))


def encode_table(rows: Sequence[Mapping[str, Any]]) -> Media:
    """Rows as CSV, over the columns of all of them."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    cells = [columns, ["---"] * len(columns)]
    cells += [[str(row.get(column, "")) for column in columns] for row in rows[:_TABLE_ROWS]]
    lines = (" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) for line in cells)
    markdown = "\n".join(lines)
    return Media("text", "csv", stream.getvalue().encode(), markdown=markdown)


def encode_text(text: str) -> Media:
    """Text as it is; in a fixed-width font where it is rendered."""
    return Media("text", "txt", text.encode(), markdown=f"```\n{text}\n```")


def encode_json(value: Any) -> Media:
    """Nested dicts, lists, numbers and arrays as strict JSON."""
    return Media("data", "json", f"{json.dumps(strict(value), indent=2, allow_nan=False)}\n".encode())


def strict(value: Any) -> Any:
    """The value in JSON's own types: arrays as lists, non-finite numbers as strings."""
    if isinstance(value, Mapping):
        return {str(key): strict(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return strict(np.asarray(value).tolist())
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _pixels(image: np.ndarray) -> np.ndarray:
    """The image as [height, width, channels], checked to be one."""
    image = np.asarray(image)
    image = image[..., None] if image.ndim == 2 else image
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise TypeError(
            f"an image of {image.dtype}{list(image.shape)}; give uint8 [height, width, 1, 3 or 4]"
        )
    return image
