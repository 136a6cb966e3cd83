"""Progressive learning as lists of stages: image size and regularisation grow together, or vary at random.

The four arms of arXiv 2104.00298, table 13: `progressive_stages` and `random_resize_stages`, each adaptive
(weak regularisation on small images) or, with `adaptive=False`, as strong throughout as on the largest.

    config.stages = progressive_stages((128, 300), Regularisation(magnitude=(5, 15), dropout=(0.1, 0.3)))
"""

import dataclasses
import math
import random
from typing import Any, Literal

from offsites_jax.errors import UserError

Range = tuple[float, float]
Stages = tuple[dict[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Regularisation:
    """What grows with the images: its values on the smallest and on the largest; None where it does not vary.

    Attributes:
      magnitude: of RandAugment.
      mixup: alpha of mixup.
      cutmix: alpha of CutMix.
      dropout: rate in front of the classifier.

    """

    magnitude: Range | None = None
    mixup: Range | None = None
    cutmix: Range | None = None
    dropout: Range | None = None

    def at(self, index: int, count: int) -> dict[str, float]:
        """Values on the images of one of `count` sizes, in equal steps."""
        given = {name: pair for name, pair in dataclasses.asdict(self).items() if pair is not None}
        steps = max(count - 1, 1)
        share = index / steps if count > 1 else 1.0
        return {name: low + (high - low) * share for name, (low, high) in given.items()}


def progressive_stages(
    size: tuple[int, int],
    regularisation: Regularisation | None = None,
    *,
    count: int = 4,
    adaptive: bool = True,
    schedule: Literal["paper", "automl"] = "paper",
) -> Stages:
    """Stages of equal length, from the smallest images to the largest (algorithm 1).

    Args:
      size: smallest and largest side in pixels.
      regularisation: what grows along.
      count: number of stages.
      adaptive: False keeps regularisation at its strongest throughout (vanilla progressive resizing).
      schedule: paper: the first stage has the smallest size; automl: as the released code, which starts one
        step above it.

    Raises:
      UserError: no stages, or a range that falls.

    """
    regularisation = regularisation or Regularisation()
    _check(size, regularisation, count)
    stages: list[dict[str, Any]] = []
    for index in range(count):
        step, steps = (index + 1, count) if schedule == "automl" or count == 1 else (index, count - 1)
        pixels = size[0] + (size[1] - size[0]) * step // steps
        until = (index + 1) / count if index + 1 < count else 0.0
        values = regularisation.at(index if adaptive else count - 1, count)
        stages.append(_stage(index, until, pixels, values))
    return tuple(stages)


def random_resize_stages(
    size: tuple[int, int],
    regularisation: Regularisation | None = None,
    *,
    epochs: int,
    every: int = 8,
    count: int = 4,
    adaptive: bool = True,
    seed: int = 0,
) -> Stages:
    """Stages of a few epochs, each with a size drawn from those of `progressive_stages`.

    A size that comes again has the same settings as before, so that there are `count` programs to compile.

    Args:
      size: smallest and largest side in pixels.
      regularisation: what goes with the size.
      epochs: of the whole run.
      every: epochs between draws.
      count: number of sizes to draw from.
      adaptive: False keeps regularisation at its strongest throughout.
      seed: of the draws.

    Raises:
      UserError: no sizes, no epochs, or a range that falls.

    """
    regularisation = regularisation or Regularisation()
    _check(size, regularisation, count)
    if epochs < 1 or every < 1:
        raise UserError(f"stages: {epochs} epochs with a new size every {every}; both must be at least 1")
    drawn = random.Random(seed)  # noqa: S311 - sizes of images need no secrecy
    stages: list[dict[str, Any]] = []
    for start in range(0, epochs, every):
        index = drawn.randrange(count)
        pixels = size[0] + (size[1] - size[0]) * index // (count - 1) if count > 1 else size[1]
        # The next float up: that share of the steps, rounded down, must not fall one step short.
        until = math.nextafter((start + every) / epochs, 1.0) if start + every < epochs else 0.0
        values = regularisation.at(index if adaptive else count - 1, count)
        stages.append(_stage(len(stages), until, pixels, values))
    return tuple(stages)


def _stage(index: int, until: float, pixels: int, values: dict[str, float]) -> dict[str, Any]:
    """One entry of section `stages`."""
    stage: dict[str, Any] = {"name": f"{index}_{pixels}px", "until": until, "data": {"image_size": pixels}}
    if "magnitude" in values:
        stage["data"]["magnitude"] = values["magnitude"]
    alphas = {f"{name}_alpha": values[name] for name in ("mixup", "cutmix") if name in values}
    if alphas:
        stage["task"] = alphas
    if "dropout" in values:
        stage["model"] = {"overrides": {"dropout_rate": values["dropout"]}}
    return stage


def _check(size: tuple[int, int], regularisation: Regularisation, count: int) -> None:
    if count < 1:
        raise UserError(f"stages: {count} of them; there must be at least 1")
    if size[0] < 1:
        raise UserError(f"stages: size starts at {size[0]} pixels; it must be at least 1")
    for name, pair in {"size": size, **dataclasses.asdict(regularisation)}.items():
        if pair is None:
            continue
        low, high = pair
        if not 0 <= low <= high < math.inf:
            raise UserError(f"stages: {name} goes from {low} to {high}; it must not fall, nor start below 0")
