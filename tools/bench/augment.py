"""Speed of the whole training input of an image classifier on one core.

    python tools/bench/augment.py [--baseline-python /path/to/venv/bin/python] [--rounds 7]

Writes JPEGs cut from scikit-learn's two photographs, with long sides of 320, 500 and 1280 pixels, and turns
them into 224-pixel training images: decode, Inception crop, resize, flip, RandAugment (2 operations of
magnitude 10). The baseline does the same with timm's `create_transform`, under an interpreter that has
timm 1.0.31 and torch, on the same files. Both are charged the CPU seconds they use, which other programs
on the machine disturb little. Rounds alternate and medians are reported, one JSON line each.
"""

import argparse
import io
import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

SIZE = 224
MAGNITUDE = 10
PER_ROUND = 128
SIDES = (320, 500, 1280)  # long side in pixels
PER_SIDE = 32


def write_photographs(root):
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    for photograph in load_sample_images().images:
        for side in SIDES:
            for number in range(PER_SIDE // 2):
                height, width = rng.integers(300, 427), rng.integers(480, 640)
                top, left = rng.integers(427 - height), rng.integers(640 - width)
                part = Image.fromarray(photograph[top : top + height, left : left + width])
                size = (side, round(side * height / width))
                name = f"{side}_{photograph[0, 0, 0]}_{number:02}.jpg"
                part.resize(size, Image.Resampling.LANCZOS).save(root / name, quality=90)


def files_of(root, side, seed):
    """The same files in the same order for everybody."""
    files = sorted(pathlib.Path(root).glob(f"{side}_*.jpg"))
    return random.Random(seed).choices(files, k=PER_ROUND)


def rate(load, files, seed):
    """Images made per CPU second."""
    start = time.process_time()
    for number, file in enumerate(files):
        load(file.read_bytes(), 1000 * seed + number)
    return len(files) / (time.process_time() - start)


def our_loader(fast_decode):
    import numpy as np

    from offsites_jax.data import augment
    from offsites_jax.data import image as images

    def load(data, seed):
        rng = np.random.default_rng(seed)
        image = images.decode_inception_crop(data, (SIZE, SIZE), rng, fast_decode=fast_decode)
        image = images.random_flip(image.astype(np.uint8), rng)
        return augment.apply(image, augment.draw_randaugment(rng, magnitude=MAGNITUDE))

    return load


def timm_loader():
    import torch

    torch.set_num_threads(1)
    library = torch.library.Library("torchvision", "DEF")  # a build without its kernels cannot be imported
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from PIL import Image
    from timm.data import create_transform

    transform = create_transform(
        SIZE, is_training=True, use_prefetcher=True, scale=(0.05, 1.0), interpolation="bilinear",
        auto_augment=f"rand-m{MAGNITUDE}-n2", color_jitter=None,
    )  # fmt: skip
    transform.library = library

    def load(data, seed):
        random.seed(seed)
        return transform(Image.open(io.BytesIO(data)).convert("RGB"))

    return load


def serve_baseline(root):
    """Answer each line "side seed" with a rate."""
    load = timm_loader()
    for line in sys.stdin:
        side, seed = map(int, line.split())
        print(rate(load, files_of(root, side, seed), seed), flush=True)


class Baseline:
    """The baseline in a process of its own, alive for all rounds."""

    def __init__(self, python, root):
        command = [python, __file__, "--serve", root]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def rate(self, side, seed):
        """Images made per CPU second in one round."""
        print(side, seed, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def mixing_rate():
    """Images mixed (half mixup, half CutMix) per second of one core, in batches of 64."""
    import functools

    import jax
    import numpy as np

    from offsites_jax.data.augment.mix import mix

    images = np.random.default_rng(0).integers(0, 256, (64, SIZE, SIZE, 3), np.uint8)
    targets = np.eye(64, 1000, dtype=np.float32)
    run = jax.jit(functools.partial(mix, mixup_alpha=0.2, cutmix_alpha=0.2))
    times = []
    for seed in range(6):
        start = time.process_time()
        jax.block_until_ready(run(images, targets, jax.random.key(seed)))
        times.append(time.process_time() - start)
    return 64 / statistics.median(times[1:])


def report(name, value, unit, **about):
    print(json.dumps({"name": name, "value": round(value, 3), "unit": unit, **about}), flush=True)


def compare(root, side, baseline, rounds):
    """Median rates of both decoders and of the baseline over alternating rounds."""
    sides = {"exact": our_loader(False), "scaled": our_loader(True)}
    rates = {name: [] for name in (*sides, "baseline")}
    for seed in range(rounds + 1):
        for name, load in sides.items():
            rates[name].append(rate(load, files_of(root, side, seed), seed))
        if baseline:
            rates["baseline"].append(baseline.rate(side, seed))
    rates = {name: values[1:] for name, values in rates.items()}  # the first round warms up
    for name in sides:
        median = statistics.median(rates[name])
        report(
            "augment_images_per_second_per_core", median, "images/cpu-second", decoding=name, long_side=side
        )
        if baseline:
            ratios = [ours / theirs for ours, theirs in zip(rates[name], rates["baseline"], strict=True)]
            report(
                "augment_ratio", statistics.median(ratios), "ours / timm", decoding=name, long_side=side,
                baseline=round(statistics.median(rates["baseline"]), 1),
            )  # fmt: skip
    return statistics.median(rates["exact"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--baseline-python")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve_baseline(arguments.serve)
    with tempfile.TemporaryDirectory() as root:
        write_photographs(pathlib.Path(root))
        baseline = arguments.baseline_python and Baseline(arguments.baseline_python, root)
        rates = {side: compare(root, side, baseline, arguments.rounds) for side in SIDES}
        if baseline:
            baseline.close()
    report("augment_mix_share", rates[500] / mixing_rate(), "time to mix / time to load an image")


if __name__ == "__main__":
    main()
