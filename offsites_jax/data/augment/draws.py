"""What RandAugment and AutoAugment do to an image, decided before the image is seen.

Operations, their strength as a function of the magnitude, and the policies are those of google/automl
(`efficientnetv2/autoaugment.py`), which the published EfficientNetV2 and CoAtNet recipes ran on.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

# In the order of google/automl; the last one leaves the image alone.
OPS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast",
    "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd",
    "Identity",
)  # fmt: skip
INDEX = {name: index for index, name in enumerate(OPS)}
NUM_RANDOM_OPS = len(OPS) - 1
FILL = 128  # of pixels that come from outside the image, and of holes

OutOfRange = Literal["automl", "saturate"]

Policy = tuple[tuple[str, float, int], ...]

# (operation, probability, magnitude) twice each: `policy_v0`, found on ImageNet (arXiv 1805.09501).
POLICIES: tuple[Policy, ...] = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateY", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)


class Draw(NamedTuple):
    """Operations to apply one after another, for images of any size.

    Attributes:
        op: Index into `OPS`.
        arguments: By operation: Rotate (cosine, sine, 0); Cutout (half its side in pixels, and its
            centre as parts of height and width); Posterize (bits dropped, 0, 0); Solarize and
            SolarizeAdd (threshold or addition, 0, 0); others (factor, shear or pixels, 0, 0).

    """

    op: Int32[np.ndarray, "*batch num_ops"]
    arguments: Float32[np.ndarray, "*batch num_ops 3"]


class Reach(NamedTuple):
    """How far magnitude 10 moves an image and how large a hole it makes, in pixels."""

    translate: float
    cutout: float


RANDAUGMENT_REACH = Reach(translate=100, cutout=40)
AUTOAUGMENT_REACH = Reach(translate=250, cutout=100)


def draw_randaugment(
    rng: np.random.Generator, *, magnitude: float, num_ops: int = 2, out_of_range: OutOfRange = "automl"
) -> Draw:
    """Draw `num_ops` of the 16 operations, all at one magnitude (arXiv 1909.13719).

    Args:
        rng: Source of randomness.
        magnitude: 0 to 10 is the range the operations were made for; more extrapolates. Published
            recipes use 5 to 25.
        num_ops: Number of operations, drawn with replacement.
        out_of_range: What becomes of arguments that do not fit eight bits. "automl": Solarize's
            threshold and Posterize's shift wrap around as in google/automl, so that e.g. magnitude 10
            and 20 solarize everything. "saturate": they stay at the end of their range.

    """
    names = [OPS[rng.integers(NUM_RANDOM_OPS)] for _ in range(num_ops)]
    return _stack([(n, _arguments(n, magnitude, rng, RANDAUGMENT_REACH, out_of_range)) for n in names])


def draw_autoaugment(rng: np.random.Generator, *, out_of_range: OutOfRange = "automl") -> Draw:
    """Draw one of the 25 policies of AutoAugment v0 and which of its two operations take place.

    Args:
        rng: Source of randomness.
        out_of_range: See `draw_randaugment`.

    """
    ops = []
    for name, probability, magnitude in POLICIES[rng.integers(len(POLICIES))]:
        takes_place = rng.random() < probability
        arguments = _arguments(name, magnitude, rng, AUTOAUGMENT_REACH, out_of_range)
        ops.append((name, arguments) if takes_place else ("Identity", ()))
    return _stack(ops)


def draw_cutout(rng: np.random.Generator, size: int) -> Draw:
    """Draw where to cover a square of `size` pixels with grey, as `host.cutout` does with the same `rng`.

    Args:
        rng: Source of randomness.
        size: Side of the square in pixels, even.

    """
    return _stack([("Cutout", (size // 2, *rng.random(2, np.float32)))])


def joined(draws: Sequence[Draw]) -> Draw:
    """One draw of all operations, in order; of at least one draw."""
    ops, arguments = zip(*draws, strict=True)
    return Draw(np.concatenate(ops), np.concatenate(arguments))


def _arguments(
    name: str, magnitude: float, rng: np.random.Generator, reach: Reach, out_of_range: OutOfRange
) -> tuple[float, ...]:
    """Arguments of an operation. The same number of draws is made whatever the operation."""
    sign = 1 if rng.random() < 0.5 else -1
    center = rng.random(2, np.float32)
    level = magnitude / 10
    match name:
        case "Rotate":
            return _cosine_and_sine(sign * level * 30.0)
        case "ShearX" | "ShearY":
            return (sign * level * 0.3,)
        case "TranslateX" | "TranslateY":
            return (sign * level * reach.translate,)
        case "Color" | "Contrast" | "Brightness" | "Sharpness":
            return (level * 1.8 + 0.1,)
        case "Posterize":
            return (_dropped_bits(int(level * 4), out_of_range),)
        case "Solarize":
            threshold = int(level * 256)
            return (threshold % 256 if out_of_range == "automl" else min(threshold, 256),)
        case "SolarizeAdd":
            return (int(level * 110),)
        case "Cutout":
            return (int(level * reach.cutout), *center)
        case _:
            return ()


def _dropped_bits(kept: int, out_of_range: OutOfRange) -> int:
    if out_of_range == "automl":
        return min((8 - kept) % 256, 7)
    return 8 - min(max(kept, 1), 8)


def _cosine_and_sine(degrees: float) -> tuple[float, float]:
    """Of an angle in float32, so that nearest pixels are chosen as in google/automl."""
    radians = float(np.float32(degrees) * np.float32(math.pi / 180))
    return math.cos(radians), math.sin(radians)


def _stack(ops: list[tuple[str, tuple[float, ...]]]) -> Draw:
    arguments = np.zeros((len(ops), 3), np.float32)
    for row, (_, values) in zip(arguments, ops, strict=True):
        row[: len(values)] = values
    return Draw(np.array([INDEX[name] for name, _ in ops], np.int32), arguments)
