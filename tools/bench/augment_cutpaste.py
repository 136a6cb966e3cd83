"""Speed on one core of making the rows of 3-way CutPaste: the view, the patch and the scar of each image.

    python tools/bench/augment_cutpaste.py [--baseline-python /path/to/venv/bin/python] [--rounds 5]

Ours is the program that runs inside the train step, on a batch of 32 images of 256 pixels. The baseline does
the same to one image after another with Pillow and NumPy, as public re-implementations do in their data
loaders: shift, colour jitter, crop, jitter, paste, and a turned crop pasted through its mask; under an
interpreter that has both. Both are charged the CPU seconds they use. Rounds alternate and medians are
reported, one JSON line each: images per second, where an image becomes three rows.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time

SIZE = 256
BATCH = 32
SHIFT = 32  # pixels
JITTER = 0.1


def pictures():
    """Smooth random pictures."""
    import numpy as np

    coarse = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE // 8, SIZE // 8, 3), np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


def our_rate():
    """A function from the number of a round to images per CPU second."""
    # One thread, so that CPU seconds are seconds of one core.
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    from offsites_jax.projects.one_class.augment import Augmentation
    from offsites_jax.projects.one_class.color import Jitter
    from offsites_jax.projects.one_class.views.pretexts import PretextConfig, make_rows

    colors = Jitter(JITTER, JITTER, JITTER, JITTER)
    config = PretextConfig(
        "cutpaste_3way", Augmentation(translate=SHIFT / SIZE, jitter=colors), colors=colors
    )
    make, images = jax.jit(lambda key, images: make_rows(key, images, config)), jax.device_put(pictures())
    jax.block_until_ready(make(jax.random.key(0), images))

    def rate(number):
        key = jax.random.key(number)
        start = time.process_time()
        jax.block_until_ready(make(key, images))
        return BATCH / (time.process_time() - start)

    return rate


def jittered(image):
    """Brightness, contrast, saturation and hue in a random order, by Pillow."""
    import numpy as np
    from PIL import Image, ImageEnhance

    def hue(image, turn):
        hsv = np.array(image.convert("HSV"))
        hsv[..., 0] += np.uint8(int(turn * 255) % 256)
        return Image.fromarray(hsv, "HSV").convert("RGB")

    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    steps = [
        lambda image, make=make: make(image).enhance(1 + random.uniform(-JITTER, JITTER))
        for make in enhancers
    ]
    steps.append(lambda image: hue(image, random.uniform(-JITTER, JITTER)))
    random.shuffle(steps)
    for step in steps:
        image = step(image)
    return image


def shifted(pixels):
    """A window of the mirrored image."""
    import numpy as np

    padded = np.pad(pixels, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), "reflect")
    top, left = random.randint(0, 2 * SHIFT), random.randint(0, 2 * SHIFT)
    return padded[top : top + SIZE, left : left + SIZE]


def part_of(image, width, height):
    """A jittered random rectangle of the image."""
    left, top = random.randint(0, SIZE - width), random.randint(0, SIZE - height)
    return jittered(image.crop((left, top, left + width, top + height)))


def with_patch(image):
    """CutPaste."""
    area = random.uniform(0.02, 0.15) * SIZE**2
    aspect = random.choice((random.uniform(0.3, 1), random.uniform(1, 3.3)))
    width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    image, patch = image.copy(), part_of(image, width, height)
    image.paste(patch, (random.randint(0, SIZE - width), random.randint(0, SIZE - height)))
    return image


def with_scar(image):
    """CutPaste of a thin rectangle, turned."""
    image, scar = image.copy(), part_of(image, random.randint(2, 16), random.randint(10, 25)).convert("RGBA")
    scar = scar.rotate(random.uniform(-45, 45), expand=True)
    corner = random.randint(0, SIZE - scar.width), random.randint(0, SIZE - scar.height)
    image.paste(scar, corner, scar.split()[-1])
    return image


def floats(image):
    """What a network is given: channels first, as the loaders of torch do."""
    import numpy as np

    return np.ascontiguousarray(np.asarray(image, np.float32).transpose(2, 0, 1)) / 255


def baseline_rate():
    """The same as `our_rate`."""
    from PIL import Image

    images = pictures()

    def rate(number):
        random.seed(number)
        start = time.process_time()
        for pixels in images:
            view = jittered(Image.fromarray(shifted(pixels)))
            for image in (view, with_patch(view), with_scar(view)):
                floats(image)
        return BATCH / (time.process_time() - start)

    return rate


def serve_baseline():
    """Answer each line, the number of a round, with a rate."""
    rate = baseline_rate()
    for line in sys.stdin:
        print(rate(int(line)), flush=True)


class Baseline:
    """The baseline in a process of its own, alive for all rounds."""

    def __init__(self, python):
        command = [python, __file__, "--serve"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def rate(self, number):
        """Images made per CPU second in one round."""
        print(number, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def report(name, value, unit, **about):
    print(json.dumps({"name": name, "value": round(value, 3), "unit": unit, **about}), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--baseline-python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve_baseline()
    rate = our_rate()
    baseline = Baseline(arguments.baseline_python) if arguments.baseline_python else None
    ours, theirs = [], []
    for number in range(arguments.rounds):
        ours.append(rate(number))
        if baseline:
            theirs.append(baseline.rate(number))
    report("cutpaste_images_per_second_per_core", statistics.median(ours), "images/cpu-second", size=SIZE)
    if baseline:
        baseline.close()
        ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
        median = statistics.median(theirs)
        report(
            "cutpaste_ratio", statistics.median(ratios), "ours / Pillow", baseline=round(median, 1), size=SIZE
        )


if __name__ == "__main__":
    main()
