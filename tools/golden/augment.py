"""Augmented images and random crops, made by TensorFlow and Pillow, for tests/data.

Needs tensorflow-cpu 2.21.0 and pillow 13.0.0, nothing of this project:

    python tools/golden/augment.py

Each operation is formulated here once more, from what RandAugment (arXiv 1909.13719), AutoAugment (arXiv
1805.09501) and Pillow say it does. Pillow does what it has an operation for. Where google/automl, on whose
conventions the published EfficientNets were trained, means the arithmetic of a TensorFlow kernel (nearest
pixels of a turned image, sums in float32, bytes that wrap around), that kernel does it.

`augment.json`: checksums (CRC-32 of the pixels) of pictures, drawn from a seed, after each operation at
several magnitudes and after each of the 25 policies, signs drawn positive ("+") or negative ("-");
the policies; and quantiles of 20,000 random crops of a 375 x 500 image.
`augment.npz`: pictures after Color and Sharpness, whose float32 sums nobody need repeat bit by bit.
"""

import json
import math
import pathlib
import zlib

import numpy as np
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

FOLDER = pathlib.Path(__file__).parents[2] / "tests/data/golden"
SHAPES = {"small": (24, 40, 3), "large": (231, 300, 3)}
MAGNITUDES = (1, 2.5, 5, 25 / 3, 10, 15, 20, 25)
SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
SUMMED = ("Color", "Sharpness")
GREY = (128, 128, 128)  # of holes, and of what lies outside the image
CENTER = (17, 203)  # row and column of the hole
RANDAUGMENT = {"translate": 100, "cutout": 40}  # pixels at magnitude 10
AUTOAUGMENT = {"translate": 250, "cutout": 100}
NUM_CROPS = 20_000

# AutoAugment v0, two steps (operation, probability, magnitude) a line: released with google/automl, and
# listed again by timm as `auto_augment_policy_v0` (there TranslateY is in parts of the height); the article
# prints another table.
POLICIES = """
    Equalize 0.8 1, ShearY 0.8 4
    Color 0.4 9, Equalize 0.6 3
    Color 0.4 1, Rotate 0.6 8
    Solarize 0.8 3, Equalize 0.4 7
    Solarize 0.4 2, Solarize 0.6 2
    Color 0.2 0, Equalize 0.8 8
    Equalize 0.4 8, SolarizeAdd 0.8 3
    ShearX 0.2 9, Rotate 0.6 8
    Color 0.6 1, Equalize 1.0 2
    Invert 0.4 9, Rotate 0.6 0
    Equalize 1.0 9, ShearY 0.6 3
    Color 0.4 7, Equalize 0.6 0
    Posterize 0.4 6, AutoContrast 0.4 7
    Solarize 0.6 8, Color 0.6 9
    Solarize 0.2 4, Rotate 0.8 9
    Rotate 1.0 7, TranslateY 0.8 9
    ShearX 0.0 0, Solarize 0.8 4
    ShearY 0.8 0, Color 0.6 4
    Color 1.0 0, Rotate 0.6 2
    Equalize 0.8 4, Equalize 0.0 8
    Equalize 1.0 4, AutoContrast 0.6 2
    ShearY 0.4 7, SolarizeAdd 0.6 7
    Posterize 0.8 2, Solarize 0.6 10
    Solarize 0.6 8, Equalize 0.6 1
    Color 0.8 6, Rotate 0.4 5
"""

# Operations: from an image of Pillow, the tenth part of the magnitude (negative or positive where a sign is
# drawn) and the reach in pixels, to an image of Pillow or an array.


def byte(value):
    """What a whole number becomes as one of eight bits."""
    return tf.cast(value, tf.uint8)


def auto_contrast(image, level, reach):
    """Stretch each channel to 0..255; Pillow does so in float64."""
    pixels = tf.cast(image, tf.float32)
    low, high = (find(pixels, axis=(0, 1)) for find in (tf.reduce_min, tf.reduce_max))
    gain = 255 / (high - low)
    return tf.saturate_cast(pixels * gain - low * gain, tf.uint8)


def equalize(image, level, reach):
    return ImageOps.equalize(image)


def invert(image, level, reach):
    return ImageOps.invert(image)


def posterize(image, level, reach):
    """Keep the upper bits; Pillow refuses to keep none, or more than there are."""
    dropped = byte(8 - int(4 * level))
    return tf.bitwise.left_shift(tf.bitwise.right_shift(np.array(image), dropped), dropped)


def solarize(image, level, reach):
    return ImageOps.solarize(image, int(byte(int(256 * level))))


def solarize_add(image, level, reach):
    """Brighten the darker half of the levels."""
    added = int(110 * level)
    return image.point([min(value + added, 255) if value < 128 else value for value in range(256)] * 3)


def factor(level):
    """How far to go from another picture to the image, and beyond it above 1."""
    return 0.1 + 1.8 * level


def color(image, level, reach):
    """Pillow's luma is another."""
    luma = tf.image.rgb_to_grayscale(np.array(image))
    return Image.blend(as_image(tf.image.grayscale_to_rgb(luma)), image, factor(level))


def contrast(image, level, reach):
    """Away from the mean count of a histogram of 256 levels, where Pillow has the mean level."""
    luma = tf.cast(tf.image.rgb_to_grayscale(np.array(image)), tf.int32)
    counts = tf.histogram_fixed_width(luma, [0, 255], nbins=256)
    mean = int(tf.saturate_cast(tf.reduce_mean(tf.cast(counts, tf.float32)), tf.uint8))
    return Image.blend(Image.new("RGB", image.size, (mean,) * 3), image, factor(level))


def brightness(image, level, reach):
    return ImageEnhance.Brightness(image).enhance(factor(level))


def sharpness(image, level, reach):
    """Away from a smooth picture, with the weights of Pillow, which rounds it; the border is kept."""
    pixels = np.array(image)
    weights = np.ones((3, 3, 3, 1), np.float32)
    weights[1, 1] = 5
    smooth = tf.nn.depthwise_conv2d(pixels[None].astype(np.float32), weights / 13, [1, 1, 1, 1], "VALID")[0]
    pixels[1:-1, 1:-1] = tf.saturate_cast(smooth, tf.uint8)
    return Image.blend(Image.fromarray(pixels), image, factor(level))


def look_up(image, x, y):
    """Take pixel (column, row) from (x . (column, row, 1), y . (column, row, 1)), or the nearest to it."""
    matrix = tf.concat([tf.cast(x, tf.float32), tf.cast(y, tf.float32), [0, 0]], axis=0)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=np.array(image)[None], transforms=matrix[None], output_shape=image.size[::-1],
        interpolation="NEAREST", fill_mode="CONSTANT", fill_value=GREY[0],
    )[0]  # fmt: skip


def rotate(image, level, reach):
    """Around the middle, which lies between pixels 0 and size - 1."""
    angle = tf.constant(30 * level, tf.float32) * (math.pi / 180)
    turn = tf.stack([[tf.cos(angle), -tf.sin(angle)], [tf.sin(angle), tf.cos(angle)]])
    middle = tf.constant([(size - 1) / 2 for size in image.size])
    shift = middle - tf.reduce_sum(turn * middle, axis=1)
    return look_up(image, *tf.concat([turn, shift[:, None]], axis=1))


def shear_x(image, level, reach):
    return look_up(image, (1, 0.3 * level, 0), (0, 1, 0))


def shear_y(image, level, reach):
    return look_up(image, (1, 0, 0), (0.3 * level, 1, 0))


def translate_x(image, level, reach):
    return look_up(image, (1, 0, reach["translate"] * level), (0, 1, 0))


def translate_y(image, level, reach):
    return look_up(image, (1, 0, 0), (0, 1, reach["translate"] * level))


def cutout(image, level, reach):
    half = int(reach["cutout"] * level)
    (row, column), (width, height) = CENTER, image.size
    holed = image.copy()
    box = (max(column - half, 0), max(row - half, 0), min(column + half, width), min(row + half, height))
    holed.paste(GREY, box)
    return holed


OPERATIONS = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "Posterize": posterize,
    "Solarize": solarize,
    "SolarizeAdd": solarize_add,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Cutout": cutout,
}


def as_image(pixels):
    return Image.fromarray(np.array(pixels))


def picture(name):
    """Smooth with noise, so that all levels and many sums occur; the third channel has little contrast."""
    height, width, _ = shape = SHAPES[name]
    y, x = np.mgrid[:height, :width]
    base = np.stack([255 * x / width, 255 * y / height, 90 + 40 * (x + y) / (height + width)], axis=2)
    noise = np.random.default_rng(0).integers(-40, 41, shape)
    return as_image(np.clip(base.astype(np.int64) + noise, 0, 255).astype(np.uint8))


def checksum(image):
    return zlib.crc32(np.array(image).tobytes())


def augmented():
    """Yield (name, magnitude and sign; pixels) of every operation of RandAugment."""
    pictures = {name: picture(name) for name in SHAPES}
    for name, operation in OPERATIONS.items():
        image = pictures["small" if name in SUMMED else "large"]
        for magnitude in MAGNITUDES:
            for sign in "+-" if name in SIGNED else "+":
                level = float(f"{sign}1") * magnitude / 10
                yield f"{name} {magnitude:.4g} {sign}", np.array(operation(image, level, RANDAUGMENT))


def policies():
    """The table as lists of [operation, probability, magnitude]."""
    lines = [line.split(",") for line in POLICIES.strip().splitlines()]
    steps = [[step.split() for step in line] for line in lines]
    return [[[name, float(chance), int(magnitude)] for name, chance, magnitude in line] for line in steps]


def after_policy(policy):
    """Checksum after both steps, signs positive; a step of probability 0 is left out."""
    image = picture("small")
    for name, probability, magnitude in policy:
        if probability:
            image = as_image(OPERATIONS[name](image, magnitude / 10, AUTOAUGMENT))
    return checksum(image)


@tf.function
def draw_crops():
    """Top, left, height and width of crops as for training on ImageNet."""

    def crop(number):
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            (375, 500, 3), tf.zeros((0, 0, 4)), (number, 7), area_range=(0.05, 1.0),
            min_object_covered=0.0, use_image_if_no_bounding_boxes=True,
        )  # fmt: skip
        return tf.stack([begin[0], begin[1], size[0], size[1]])

    return tf.map_fn(crop, tf.range(NUM_CROPS))


def crop_quantiles():
    """Every half percent of the distributions of four properties."""
    top, left, height, width = draw_crops().numpy().T
    properties = {
        "area": height * width / (375 * 500),
        "aspect": width / height,
        "top": top / np.maximum(375 - height, 1),
        "left": left / np.maximum(500 - width, 1),
    }
    levels = np.linspace(0, 1, 201)
    return {name: np.quantile(values, levels).tolist() for name, values in properties.items()}


def main():
    """Write both files."""
    results = dict(augmented())
    summed = {key: pixels for key, pixels in results.items() if key.split()[0] in SUMMED}
    golden = {
        "checksums": {key: checksum(pixels) for key, pixels in results.items() if key not in summed},
        "policies": policies(),
        "policy_checksums": [after_policy(policy) for policy in policies()],
        "crops": crop_quantiles(),
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "augment.json").write_text(json.dumps(golden) + "\n")
    np.savez_compressed(FOLDER / "augment.npz", **summed)


if __name__ == "__main__":
    main()
