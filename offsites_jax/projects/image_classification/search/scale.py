"""From a small network to a bigger one: compound scaling, with more layers where they cost least.

EfficientNetV2 (arXiv 2104.00298, section 3.3) scales as EfficientNet does (arXiv 1905.11946, section 3.3),
with two changes: images stay at 480 pixels or less, and later stages gradually get more layers. It prints no
numbers for the second. Held against the released google/automl, its larger networks follow one rule. With the
base B0, the stage `r2_k3_s1_e6_i192_o320_se0.25` appended to it, and a fifth more layers in the fifth stage,

- width 2.0 and depth 3.1 give EfficientNetV2-L exactly;
- width 1.6 and depth 2.2 give V2-M, but for its fourth stage (160 channels where the rule says 152);
- width 1.4 and depth 1.8 without stage and bonus give V2-S, but for its fourth and sixth stages (128 and 256
  channels where the rule says 136 and 272);

all with a stem as narrow as the first stage and a last convolution that keeps its width, unlike B1 to B3.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.models.efficientnet_stages import StageSpec, parse_stages, round_width, scale_stages
from offsites_jax.parallel.mesh import MeshSettings, create_mesh
from offsites_jax.projects.image_classification.model import create_classifier
from offsites_jax.projects.image_classification.search.measure import count
from offsites_jax.projects.image_classification.search.overrides import flag
from offsites_jax.projects.image_classification.search.space import Backbone
from offsites_jax.train.config import Experiment, leaves, merged, resolve
from offsites_jax.train.plan_report import scaled as with_prefix

PUBLISHED_BONUS = (0, 0, 0, 0, 0.2)
_MULTIPLE = 4  # of image sizes, as in EfficientNet-B1 to B7


@dataclasses.dataclass(frozen=True)
class Factors:
    """Multipliers of channels, of layers and of the side of an image."""

    width: float
    depth: float
    size: float


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to scale.

    Attributes:
      factors: the multipliers.
      depth_bonus: share of layers on top, stage by stage from the first; empty for `PUBLISHED_BONUS`.
      extra_stage: a stage to append before scaling, or empty.
      narrow_stem: give the stem as many channels as the first stage, as EfficientNetV2-S to XL have.
      scale_head: multiply the width of the last convolution; EfficientNetV2-S to XL keep it.
      max_size: largest image size, in pixels.

    """

    factors: Factors
    depth_bonus: tuple[float, ...] = ()
    extra_stage: str = ""
    narrow_stem: bool = False
    scale_head: bool = False
    max_size: int = 480


def compound(coefficient: float) -> Factors:
    """The multipliers of a compound coefficient: about twice the operations for each 1.

    The constants are those of arXiv 1905.11946, found for EfficientNet-B0; the published B1 to B7 use values
    rounded by hand (B7: 2.0, 3.1 and 600 / 224).
    """
    return Factors(width=1.1**coefficient, depth=1.2**coefficient, size=1.15**coefficient)


def scale_network(
    stages: Sequence[StageSpec],
    factors: Factors,
    depth_bonus: Sequence[float] = (),
    round_limit: float = 0.0,
) -> tuple[StageSpec, ...]:
    """The stages of the bigger network.

    Args:
      stages: of the base.
      factors: the multipliers; widths are rounded to multiples of 8, layers up.
      depth_bonus: share of layers on top, stage by stage from the first; none where it ends.
      round_limit: as `round_width` takes it.

    Raises:
      UserError: a number that makes no network, or a bonus for a stage there is not.

    """
    if min(factors.width, factors.depth, factors.size) <= 0:
        raise UserError(f"--width, --depth, --size: {dataclasses.astuple(factors)}; must be more than 0")
    if len(depth_bonus) > len(stages):
        raise UserError(f"--depth-bonus: for {len(depth_bonus)} stages, but the base has {len(stages)}")
    if min(depth_bonus, default=0) < 0:
        raise UserError(f"--depth-bonus: {tuple(depth_bonus)}; must be 0 or more")
    bonus = [*depth_bonus, *[0.0] * (len(stages) - len(depth_bonus))]
    bigger = scale_stages(stages, factors.width, factors.depth, round_limit)
    return tuple(
        dataclasses.replace(new, repeats=_more(old.repeats * factors.depth, share)) if share else new
        for old, new, share in zip(stages, bigger, bonus, strict=True)
    )


def scale_size(size: int, factor: float, max_size: int) -> int:
    """The side of an image in pixels: the nearest multiple of 4, and no more than `max_size`."""
    return min(max(_MULTIPLE, round(size * factor / _MULTIPLE) * _MULTIPLE), max_size)


def scale_experiment(base: Experiment, settings: Settings) -> Experiment:
    """The experiment with a bigger network and bigger images, at its last stage.

    Where stages of the experiment grow their images, the first keeps its size and those between follow.
    """
    model: Any = create_classifier(base.model, jnp.dtype("float32"))
    backbone = Backbone.of(model)
    stages = parse_stages([*backbone.stages, *([settings.extra_stage] if settings.extra_stage else [])])
    bonus = settings.depth_bonus or PUBLISHED_BONUS[: len(stages)]
    blocks = scale_network(stages, settings.factors, bonus, model.round_limit)
    if settings.narrow_stem:
        blocks = (dataclasses.replace(blocks[0], input_width=blocks[0].output_width), *blocks[1:])
    head = round_width(backbone.head_width, settings.factors.width if settings.scale_head else 1.0)
    overrides = dataclasses.replace(backbone, head_width=head).overrides(tuple(map(str, blocks)))
    changes: dict[str, Any] = {"model": {"overrides": overrides}, "data": scaled_data(base, settings)}
    raw = merged(base.raw, changes)
    first = base.at_stage(0).data.image_size
    raw["stages"] = [
        merged(stage, scaled_stage(stage, first, base.data.image_size, changes["data"]["image_size"]))
        for stage in raw.get("stages") or ()
    ]
    return resolve(raw).final


def scaled_data(base: Experiment, settings: Settings) -> dict[str, int]:
    """Image sizes of training and evaluation, in their ratio; the larger one is no more than allowed."""
    sizes = {"image_size": base.data.image_size, "eval_size": base.data.eval_size}
    largest = max(sizes.values())
    factor = min(settings.factors.size, settings.max_size / largest)
    return {name: scale_size(size, factor, settings.max_size) for name, size in sizes.items() if size}


def scaled_stage(stage: dict[str, Any], first: int, last: int, new_last: int) -> dict[str, Any]:
    """What changes in a stage when images grow from `first` to `new_last` instead of `last`."""
    size = stage.get("data", {}).get("image_size")
    if size is None:
        return {}
    stretch = (new_last - first) / (last - first) if last != first else 1.0
    return {"data": {"image_size": int(first + (size - first) * stretch)}}


def render(base: Experiment, bigger: Experiment, settings: Settings) -> str:
    """The stages, what both networks cost, and the overrides that make one of the other."""
    mesh = create_mesh(MeshSettings(), jax.devices()[:1])
    rows = [
        f"width x {settings.factors.width:.3g}, depth x {settings.factors.depth:.3g}, "
        f"size x {settings.factors.size:.3g}, at most {settings.max_size} px",
        "",
        *_stage_rows(base, bigger),
        "",
        f"{'':12}{'train px':>9}{'eval px':>9}{'parameters':>14}{'MACs':>10}{'train step, FLOP':>18}",
    ]
    for name, experiment in (("base", base), ("scaled", bigger)):
        size, data = count(experiment, mesh), experiment.data
        rows.append(
            f"{name:12}{data.image_size:>9}{data.eval_size or data.image_size:>9}{size.params:>14,}"
            f"{with_prefix(size.macs):>10}{with_prefix(size.step_flops):>18}"
        )
    rows += ["", f"MACs: one image at evaluation. Train step: {base.train.batch_size} images, last stage."]
    return "\n".join([*rows, "", *overrides(base, bigger)])


def overrides(base: Experiment, bigger: Experiment) -> list[str]:
    """Command-line overrides that make the bigger experiment of the base."""
    before, after = flat(base.raw), flat(bigger.raw)
    return [flag(key, value) for key, value in after.items() if before.get(key) != value]


def flat(raw: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted key, with the stages of an experiment counted."""
    stages = {f"stages.{i}": stage for i, stage in enumerate(raw.get("stages") or ())}
    return leaves({key: value for key, value in raw.items() if key != "stages"}) | leaves(stages)


def check_output(file: epath.PathLike) -> None:
    """Raises UserError for a file that exists, or is no .py."""
    path = epath.Path(file)
    if path.suffix != ".py":
        raise UserError(f"--output: {file} is no .py file; experiments are Python")
    if path.exists():
        raise UserError(f"--output: {file} exists; name another file")


def _more(layers: float, share: float) -> int:
    """Layers with a share more, rounded up; 10.000000001 counts as 10."""
    return math.ceil(round(layers * (1 + share), 6))


def _stage_rows(base: Experiment, bigger: Experiment) -> list[str]:
    """Stages of both networks side by side."""
    old, new = (Backbone.of(create_classifier(e.model, jnp.dtype("float32"))).stages for e in (base, bigger))
    rows = [f"{'stage':<8}{'base':<34}scaled"]
    for number, stage in enumerate(new, start=1):
        before = str(old[number - 1]) if number <= len(old) else "-"
        rows.append(f"{number:<8}{before:<34}{stage}")
    return rows
