"""A batch as something to look at or listen to."""

import hashlib
import os
import pathlib
import wave
from typing import Any

import numpy as np
from PIL import Image

Batch = dict[str, np.ndarray]

COLUMNS = 16
AUDIO_RATE = 16_000


def describe_batch(batch: Batch) -> list[dict[str, Any]]:
    """Name, dtype, shape, range and SHA-256 of every entry; equal digests mean equal batches."""
    return [
        {
            "name": name,
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "low": float(array.min()) if array.size else 0.0,
            "high": float(array.max()) if array.size else 0.0,
            "digest": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16],
        }
        for name, array in sorted(batch.items())
    ]


def write_batch(batch: Batch, folder: pathlib.Path) -> list[str]:
    """Writes images as one contact sheet, waveforms as wav files and all arrays as `batch.npz`.

    Images are uint8 [batch, height, width, 1 or 3]; waveforms are float entries named `audio` or `waveform`
    of shape [batch, samples] in -1..1 at 16 kHz.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = dict(batch)
    files = [_publish(folder / "batch.npz", lambda partial: np.savez(partial, **arrays))]
    for name, array in sorted(batch.items()):
        if array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] in (1, 3):
            sheet = contact_sheet(array)
            files.append(_publish(folder / f"{name}.png", lambda partial, s=sheet: s.save(partial)))
        if name in ("audio", "waveform") and array.ndim == 2:
            for row, samples in enumerate(array):
                files.append(
                    _publish(folder / f"{name}_{row}.wav", lambda partial, x=samples: _write_wav(partial, x))
                )
    return files


def contact_sheet(images: np.ndarray) -> Image.Image:
    """Images in rows of 16 with a thin frame, small ones enlarged."""
    count, height, width, channels = images.shape
    zoom = max(1, 64 // max(height, width))
    images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    cell_height, cell_width = height * zoom + 2, width * zoom + 2
    sheet = np.full((rows * cell_height, columns * cell_width, channels), 128, np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * cell_height + 1, (index % columns) * cell_width + 1
        sheet[top : top + height * zoom, left : left + width * zoom] = image
    return Image.fromarray(sheet.squeeze(-1) if channels == 1 else sheet)


def _write_wav(file: str, samples: np.ndarray) -> None:
    with wave.open(file, "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(AUDIO_RATE)
        stream.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def _publish(file: pathlib.Path, write: Any) -> str:
    """Writes beside the file and renames, so that it is never seen half-written."""
    partial = file.with_name(f".{os.getpid()}.{file.name}")
    write(str(partial))
    partial.rename(file)
    return str(file)
