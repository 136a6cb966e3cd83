"""Random views of a radiograph that a radiologist would still read alike. On the host, one image at a time.

No flips: the heart is on the left. Geometry first, then brightness and contrast, which saturate as an
exposure does, then gamma and noise; the range to [0, 1] last, since that is what the network sees at
evaluation, too.
"""

import dataclasses
import math

import cv2
import numpy as np
from jaxtyping import Float32

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.intake.grey import unit_range

Grey = Float32[np.ndarray, "size size"]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Subsection `data.augment`.

    Attributes:
      crop_area: share of the image that a random square crop covers, smallest and largest.
      rotation: degrees to either side.
      brightness: most that is added or taken away, of a range of 1.
      contrast: most by which distances from the mean grow or shrink.
      gamma: exponent of the brightness, smallest and largest; drawn evenly in its logarithm.
      noise: largest standard deviation of Gaussian noise.
      flip: mirror half of the images; mirrors the heart, too.

    """

    crop_area: tuple[float, float] = (0.8, 1.0)
    rotation: float = 10.0
    brightness: float = 0.2
    contrast: float = 0.2
    gamma: tuple[float, float] = (0.8, 1.25)
    noise: float = 0.02
    flip: bool = False

    def __post_init__(self) -> None:
        for name in ("crop_area", "gamma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise UserError(f"config.data.augment.{name}: {low} to {high} is no range above 0")
        if self.crop_area[1] > 1:
            raise UserError(f"config.data.augment.crop_area: {self.crop_area[1]} is more than all, 1")
        for name in ("rotation", "brightness", "contrast", "noise"):
            if getattr(self, name) < 0:
                raise UserError(f"config.data.augment.{name}: is {getattr(self, name)}, must be at least 0")


def augment(image: Grey, rng: np.random.Generator, config: AugmentConfig) -> Grey:
    """A random view of a square image, in [0, 1]."""
    size = len(image)
    side = math.sqrt(rng.uniform(*config.crop_area))
    angle = rng.uniform(-config.rotation, config.rotation)
    centre = 0.5 + rng.uniform(-0.5, 0.5, 2) * (1 - side)
    image = turned_crop(image, side, angle, centre * size)
    if config.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    image = unit_range(image)
    mean = image.mean()
    image = (image - mean) * np.float32(1 + rng.uniform(-config.contrast, config.contrast)) + mean
    image = np.clip(image + np.float32(rng.uniform(-config.brightness, config.brightness)), 0, 1)
    image = image ** np.float32(math.exp(rng.uniform(*np.log(config.gamma))))
    if config.noise:
        deviation = rng.uniform(0, config.noise)
        image = image + deviation * rng.standard_normal(image.shape, np.float32)
    return unit_range(image)


def turned_crop(image: Grey, side: float, angle: float, centre: np.ndarray) -> Grey:
    """A square part, turned, at the size of the whole; black where it reaches outside.

    Args:
      image: [size, size].
      side: of the part, as a share of the image's.
      angle: degrees, counter-clockwise as seen.
      centre: row and column, in pixels from the top left corner of the image.

    """
    size = len(image)
    cosine, sine = side * math.cos(math.radians(angle)), side * math.sin(math.radians(angle))
    # Where each pixel of the result comes from: half-pixel centres, turned and shrunk about the middle.
    half = (size - 1) / 2
    row, column = centre[0] - 0.5, centre[1] - 0.5
    matrix = np.array(
        [
            [cosine, -sine, column - half * (cosine - sine)],
            [sine, cosine, row - half * (sine + cosine)],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_CONSTANT)
