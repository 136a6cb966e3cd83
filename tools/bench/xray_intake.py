"""From a DICOM radiograph to what the network sees: one JSON line per figure, in CPU time of one core.

python tools/bench/xray_intake.py

A 12-bit radiograph of 2,500 x 2,048 pixels, uncompressed, with a window, becomes 600 x 600 pixels: by this
project, and plainly by pydicom's tables on every pixel and Pillow. Then the same picture as training reads
it, from its record. Sides take turns; the fastest of several runs counts. Ends with code 1 if pixels differ.
"""

import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from offsites_jax.projects.chest_xray.cohorts.sources import create_source
from offsites_jax.projects.chest_xray.data import DataConfig, example
from offsites_jax.projects.chest_xray.intake import radiograph
from offsites_jax.projects.chest_xray.intake.inputs import find_inputs
from offsites_jax.projects.chest_xray.intake.records import write_records
from offsites_jax.projects.chest_xray.synthetic.archive import dicom_file
from offsites_jax.projects.chest_xray.tables.case import Case

ROWS, COLUMNS, SIZE = 2_500, 2_048, 600
REPEATS, COPIES = 3, 5


def write_archive(folder: pathlib.Path) -> pathlib.Path:
    """One smooth, noisy picture with a window, and its manifest."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:ROWS, :COLUMNS]
    wave = 1500 + 900 * np.sin(x / 300) * np.cos(y / 400)
    pixels = np.clip(wave + rng.normal(0, 60, wave.shape), 0, 4095).astype(np.uint16)
    case = Case("a.dcm", "p", split="train", label=True, sex="F", age=40.0, view="PA")
    file = folder / case.image
    file.write_bytes(dicom_file(pixels, case, inverted=True))
    dataset = pydicom.dcmread(file)
    dataset.WindowCenter, dataset.WindowWidth = 2400, 3000
    dataset.save_as(file)
    (folder / "manifest.csv").write_text("image,patient_id,split,label\na.dcm,p,train,1\n")
    return file


def plainly(file: pathlib.Path) -> np.ndarray:
    """The same by pydicom and Pillow alone."""
    dataset = pydicom.dcmread(file)
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset, index=0)
    values = -values.astype(np.float64)
    values = ((values - values.min()) / np.ptp(values)).astype(np.float32)
    side = max(values.shape)
    top, left = ((side - length) // 2 for length in values.shape)
    square = np.zeros((side, side), np.float32)
    square[top : top + values.shape[0], left : left + values.shape[1]] = values
    return np.asarray(Image.fromarray(square).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def fastest(*functions: Callable[[], object]) -> list[float]:
    """CPU seconds of each, the best of several turns."""
    seconds = [[] for _ in functions]
    for _ in range(REPEATS):
        for function, own in zip(functions, seconds, strict=True):
            begin = time.process_time()
            for _ in range(COPIES):
                function()
            own.append((time.process_time() - begin) / COPIES)
    return [min(own) for own in seconds]


def report(name: str, value: float, **about: float) -> None:
    """One line of JSON."""
    print(json.dumps({"name": name, "value": round(value, 4), **about}), flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        file = write_archive(folder)
        ours, theirs = fastest(
            lambda: radiograph.prepare(radiograph.read(file).pixels, SIZE), lambda: plainly(file)
        )
        report("dicom_images_per_second_per_core", 1 / ours, plain=1 / theirs, size=SIZE)
        same = np.allclose(radiograph.prepare(radiograph.read(file).pixels, SIZE), plainly(file), atol=1e-5)

        write_records(find_inputs((str(folder / "manifest.csv"),)), folder / "records", SIZE, per_file=10)
        config = DataConfig(image_size=SIZE)
        files = create_source("manifest", str(folder / "manifest.csv"), "train", ("abnormal",))
        records = create_source("records", str(folder / "records"), "train", ("abnormal",))
        slow, quick = fastest(
            lambda: example(files[0], np.random.default_rng(0), config=config),
            lambda: example(records[0], np.random.default_rng(0), config=config),
        )
        report("record_views_per_second_per_core", 1 / quick, from_dicom=1 / slow, size=SIZE)
        views = [example(source[0], config=config)["image"] for source in (files, records)]
    sys.exit(0 if same and (views[0] == views[1]).all() else 1)


if __name__ == "__main__":
    main()
