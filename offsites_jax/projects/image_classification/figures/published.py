"""Published ImageNet figures to set beside one's own runs."""

import dataclasses
from typing import Literal

V2 = "arXiv 2104.00298"
AUTOML = "google/automl"
COATNET = "arXiv 2106.04803"


@dataclasses.dataclass(frozen=True)
class Published:
    """A network as published.

    Attributes:
      name: of it.
      data: what it was trained on before or besides ImageNet-1k.
      pixels: side of the images at test; 0 where not said here.
      accuracy: top-1 on ImageNet's validation images.
      params: millions.
      macs: multiply-adds of a prediction, billions; None where not known for sure.
      source: where it is published.
      hours: of training on 32 cores of TPU v3; None where not known.
      hours_recalled: whether the hours are from memory, not checked against the paper.

    """

    name: str
    data: Literal["1k", "21k", "JFT"]
    pixels: int
    accuracy: float
    params: float
    macs: float | None
    source: str
    hours: float | None = None
    hours_recalled: bool = False


PUBLISHED = (
    Published("B0", "1k", 224, 0.787, 7.1, 0.72, AUTOML),
    Published("B1", "1k", 240, 0.798, 8.1, 1.2, AUTOML),
    Published("B2", "1k", 260, 0.805, 10.1, 1.7, AUTOML),
    Published("B3", "1k", 300, 0.821, 14.4, 3.0, AUTOML),
    Published("S", "1k", 384, 0.839, 21.5, 8.4, V2, 7.1, True),
    Published("M", "1k", 480, 0.851, 54.1, 24.7, V2, 13, True),
    Published("L", "1k", 480, 0.857, 119.5, 56.3, V2, 24, True),
    Published("B7", "1k", 0, 0.850, 66, 38, V2, 54),
    Published("S", "21k", 384, 0.849, 21.5, 8.4, V2, 9, True),
    Published("M", "21k", 480, 0.862, 54.1, 24.7, V2, 15, True),
    Published("L", "21k", 480, 0.868, 119.5, 56.3, V2, 26, True),
    Published("XL", "21k", 512, 0.873, 208, None, V2, 45, True),
    Published("CoAtNet-0", "1k", 224, 0.816, 25, 4.2, COATNET),
    Published("CoAtNet-1", "1k", 224, 0.833, 42, 8.4, COATNET),
    Published("CoAtNet-2", "1k", 224, 0.841, 75, 15.7, COATNET),
    Published("CoAtNet-3", "1k", 224, 0.845, 168, 34.7, COATNET),
    Published("CoAtNet-0", "1k", 384, 0.839, 25, 13.4, COATNET),
    Published("CoAtNet-1", "1k", 384, 0.851, 42, 27.4, COATNET),
    Published("CoAtNet-2", "1k", 384, 0.857, 75, 49.8, COATNET),
    Published("CoAtNet-3", "1k", 384, 0.858, 168, 107.4, COATNET),
    Published("CoAtNet-2", "1k", 512, 0.859, 75, 96.7, COATNET),
    Published("CoAtNet-3", "1k", 512, 0.860, 168, 203.1, COATNET),
    Published("CoAtNet-2", "21k", 384, 0.871, 75, 49.8, COATNET),
    Published("CoAtNet-3", "21k", 384, 0.876, 168, 107.4, COATNET),
    Published("CoAtNet-4", "21k", 384, 0.879, 275, 189.5, COATNET),
    Published("CoAtNet-4", "21k", 512, 0.881, 275, 360.9, COATNET),
    Published("CoAtNet-5", "JFT", 512, 0.8977, 688, 812, COATNET),
    Published("CoAtNet-6", "JFT", 512, 0.9045, 1470, 1521, COATNET),
    Published("CoAtNet-7", "JFT", 512, 0.9088, 2440, 2586, COATNET),
)


def family(point: Published) -> str:
    """What a point is listed as."""
    network = "CoAtNet" if point.name.startswith("CoAtNet") else "EfficientNetV2"
    if point.name.startswith("B7"):
        network = "EfficientNet, progressive"
    return f"published: {network}, {point.data}"
