"""Progressive learning as lists of stages: image size and regularisation grow together, or vary at random.

The four arms of arXiv 2104.00298, table 13: `progressive_stages` and `random_resize_stages`, each adaptive
(weak regularisation on small images) or, with `adaptive=False`, as strong throughout as on the largest.

    config.stages = progressive_stages((128, 300), Regularisation(magnitude=(5, 15), dropout=(0.1, 0.3)))
"""

import dataclasses
import itertools
import math
import random
from fractions import Fraction
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
    batch_sizes: tuple[int, ...] = (),
) -> Stages:
    """Stages of equally many images, from the smallest images to the largest (algorithm 1).

    Args:
      size: smallest and largest side in pixels.
      regularisation: what grows along.
      count: number of stages.
      adaptive: False keeps regularisation at its strongest throughout (vanilla progressive resizing).
      schedule: paper: the first stage has the smallest size; automl: as the released code, which starts one
        step above it.
      batch_sizes: of each stage, such as larger ones while images are small; every stage then sees as many
        images as the others, in fewer steps. Left out, `train.batch_size` throughout. The learning rate
        follows where `optimizer.rate_with_batch` says so.

    Raises:
      UserError: no stages, a range that falls, or not one batch size for each stage.

    """
    regularisation = regularisation or Regularisation()
    _check(size, regularisation, count)
    ends = _ends(batch_sizes, count)
    stages: list[dict[str, Any]] = []
    for index in range(count):
        step, steps = (index + 1, count) if schedule == "automl" or count == 1 else (index, count - 1)
        pixels = size[0] + (size[1] - size[0]) * step // steps
        values = regularisation.at(index if adaptive else count - 1, count)
        stage = _stage(index, ends[index], pixels, values)
        stages.append({**stage, "train": {"batch_size": batch_sizes[index]}} if batch_sizes else stage)
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
        until = _not_short((start + every) / epochs) if start + every < epochs else 0.0
        values = regularisation.at(index if adaptive else count - 1, count)
        stages.append(_stage(len(stages), until, pixels, values))
    return tuple(stages)


def _ends(batch_sizes: tuple[int, ...], count: int) -> list[float]:
    """Shares of the steps at which stages of equally many images end; 0 for the last, the end of the run."""
    if not batch_sizes:
        return [(index + 1) / count for index in range(count - 1)] + [0.0]
    if len(batch_sizes) != count or min(batch_sizes) < 1:
        raise UserError(f"stages: batch sizes {list(batch_sizes)}; give {count} of them, each at least 1")
    steps = [Fraction(1, size) for size in batch_sizes]
    shares = [float(passed / sum(steps)) for passed in itertools.accumulate(steps[:-1])]
    return [_not_short(share) for share in shares] + [0.0]


def _not_short(share: float) -> float:
    """The next float up: that share of the steps, rounded down, must not fall one step short."""
    return math.nextafter(share, 1.0)


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
