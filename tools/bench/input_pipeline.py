"""Speed of the image input pipeline against a plain loop over Pillow, and its worker scaling.

    python tools/bench/input_pipeline.py

Writes 240 JPEGs of about 500 x 375 pixels, cut from scikit-learn's two photographs, and turns them
into 224-pixel training images: decode, Inception crop, resize, flip. The plain loop does the same
with Pillow alone (its resize antialiases, ours does not, as the published recipes). Both sides are
charged the CPU seconds they use, over all threads, which other programs on the machine disturb
little; worker scaling is wall time. Sides alternate and medians are reported, one JSON line each.
"""

import functools
import io
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from offsites_jax.data import image as images
from offsites_jax.data.pipeline import Loading, Pipeline, train_batches
from offsites_jax.data.source import ImageFolderSource

NUM_IMAGES = 240
BATCH = 32
ROUNDS = 5
BATCHES_PER_ROUND = 10
SIZE = 224


def write_photographs(root: pathlib.Path) -> None:
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    for label, photograph in enumerate(load_sample_images().images):
        folder = root / "train" / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(NUM_IMAGES // 2):
            height, width = rng.integers(300, 420), rng.integers(420, 560)
            top, left = rng.integers(427 - height), rng.integers(640 - width)
            part = photograph[top : top + height, left : left + width]
            Image.fromarray(part).save(folder / f"{number:03}.jpg", quality=90)


def transform(record: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    image = images.inception_crop(images.decode(record["image"]), rng)
    image = images.resize(image, (SIZE, SIZE)).astype(np.uint8)
    return {"image": images.random_flip(image, rng), "label": record["label"]}


def plain_loop(files: list[pathlib.Path], seed: int) -> None:
    """Make the same number of images with Pillow, in the plainest way."""
    rng = np.random.default_rng(seed)
    for _ in range(BATCHES_PER_ROUND):
        rows = []
        for index in rng.integers(len(files), size=BATCH):
            image = Image.open(io.BytesIO(files[index].read_bytes())).convert("RGB")
            box = images.sample_crop(
                image.height, image.width, rng, area=(0.05, 1), aspect=(3 / 4, 4 / 3), attempts=100
            )
            corners = (box.left, box.top, box.left + box.width, box.top + box.height)
            image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=corners)
            if rng.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            rows.append(np.asarray(image))
        np.stack(rows)


def pipeline_round(pipeline: Pipeline, seed: int) -> None:
    with train_batches(
        pipeline, batch_size=BATCH, seed=seed, step=0, shard=(0, 1), loading=Loading(num_threads=1)
    ) as batches:
        for _ in range(BATCHES_PER_ROUND):
            next(batches)


def images_per_cpu_second(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return BATCH * BATCHES_PER_ROUND / (time.process_time() - start)


def images_per_second(pipeline: Pipeline, workers: int, seed: int) -> float:
    """Wall-clock rate after the workers have started and their buffers have been drained."""
    loading = Loading(num_workers=workers, num_threads=1, prefetch=1)
    with train_batches(
        pipeline, batch_size=BATCH, seed=seed, step=0, shard=(0, 1), loading=loading
    ) as batches:
        for _ in range(6):
            next(batches)
        start = time.perf_counter()
        for _ in range(2 * BATCHES_PER_ROUND):
            next(batches)
        return BATCH * 2 * BATCHES_PER_ROUND / (time.perf_counter() - start)


def report(name: str, value: float, unit: str) -> None:
    line = {"name": name, "value": round(value, 3), "unit": unit, "images": NUM_IMAGES, "size": SIZE}
    print(json.dumps(line), flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        write_photographs(root)
        files = sorted(root.glob("train/*/*.jpg"))
        pipeline = Pipeline(ImageFolderSource(root, "train"), transform)
        scaling = []
        for seed in range(3):
            serial = images_per_second(pipeline, 0, seed)
            scaling.append(images_per_second(pipeline, 2, seed) / serial)
        ours, plain = [], []
        for seed in range(ROUNDS + 1):
            ours.append(images_per_cpu_second(functools.partial(pipeline_round, pipeline, seed)))
            plain.append(images_per_cpu_second(functools.partial(plain_loop, files, seed)))
        ours, plain = ours[1:], plain[1:]  # the first round warms up
    ratios = [left / right for left, right in zip(ours, plain, strict=True)]
    report("input_images_per_second_per_core", statistics.median(ours), "images/cpu-second")
    report("input_pipeline_ratio", statistics.median(ratios), "ours / plain loop")
    report("input_worker_scaling", statistics.median(scaling), "2 workers / none")


if __name__ == "__main__":
    main()
