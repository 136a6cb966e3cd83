"""What a search may choose: for each stage an operation, a kernel, an expansion and a number of layers.

The space of EfficientNetV2 (arXiv 2104.00298, section 3.3): stage by stage as in MnasNet (arXiv 1807.11626),
but small enough for networks of the size of EfficientNet-B4. Channels and strides are the backbone's, which a
search has found already; pooling and skip operations are left out, since EfficientNets use none.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from offsites_jax.errors import UserError
from offsites_jax.models.efficientnet import EfficientNet
from offsites_jax.models.efficientnet_stages import StageSpec, parse_stages, round_width, scale_stages

Choices = tuple[int, ...]
"""Which option is taken in each decision, stage by stage in the order of `KNOBS`."""

KNOBS = ("fused", "kernel_size", "expand_ratio", "repeats")

SQUEEZE = {True: 0.0, False: 0.25}
"""Squeeze ratio of Fused-MBConv and of MBConv (arXiv 2104.00298, table 4); no choice of its own."""


@dataclasses.dataclass(frozen=True)
class Backbone:
    """The network a search starts from, its scaling done.

    Attributes:
      stages: with the widths and repeats they really have.
      head_width: channels of the last 1x1 convolution.

    """

    stages: tuple[StageSpec, ...]
    head_width: int

    @classmethod
    def of(cls, model: object) -> "Backbone":
        """The backbone that a model is.

        Raises:
          UserError: it is no EfficientNet.

        """
        if not isinstance(model, EfficientNet):
            raise UserError(
                f"config.model.name: {type(model).__name__} has no stages of MBConv; name an efficientnet"
            )
        stages = scale_stages(parse_stages(model.blocks), model.width, model.depth, model.round_limit)
        return cls(stages, round_width(model.head_width, model.width, model.round_limit))

    @property
    def blocks(self) -> tuple[str, ...]:
        """The stages as text."""
        return tuple(map(str, self.stages))

    def overrides(self, blocks: Sequence[str]) -> dict[str, object]:
        """What `model.overrides` has to say for a network of these blocks, taken as they are."""
        return {"blocks": list(blocks), "width": 1.0, "depth": 1.0, "head_width": self.head_width}


@dataclasses.dataclass(frozen=True)
class Space:
    """All networks a search may look at.

    Attributes:
      stages: those of the backbone; they fix strides and channels.
      options: for each stage, what each of `KNOBS` may be.

    """

    stages: tuple[StageSpec, ...]
    options: tuple[Mapping[str, tuple[int, ...]], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of options of each decision."""
        return tuple(len(options[knob]) for options in self.options for knob in KNOBS)

    @property
    def count(self) -> int:
        """Number of networks."""
        return math.prod(self.sizes)

    def blocks(self, choices: Choices) -> tuple[str, ...]:
        """The network of these choices, as the text form of its stages."""
        each = len(KNOBS)
        rows = (choices[start : start + each] for start in range(0, len(choices), each))
        return tuple(map(self._stage, self.stages, self.options, rows))

    def choices(self, blocks: Sequence[str | StageSpec]) -> Choices:
        """The choices that make this network; the inverse of `blocks`.

        Raises:
          UserError: the network is not in the space.

        """
        stages = parse_stages(blocks)
        if len(stages) != len(self.stages):
            raise UserError(f"blocks: {len(stages)} stages, but the search space has {len(self.stages)}")
        found: list[int] = []
        for stage, options in zip(stages, self.options, strict=True):
            for knob in KNOBS:
                value = int(getattr(stage, knob))
                if value not in options[knob]:
                    raise UserError(f"blocks: '{stage}' has {knob} {value}, the search space {options[knob]}")
                found.append(options[knob].index(value))
        if self.blocks(tuple(found)) != tuple(map(str, stages)):
            raise UserError(
                f"blocks: {tuple(map(str, stages))} has strides, widths or squeeze ratios that are not "
                "those of the search space"
            )
        return tuple(found)

    @staticmethod
    def _stage(fixed: StageSpec, options: Mapping[str, tuple[int, ...]], row: Sequence[int]) -> str:
        chosen = {knob: options[knob][index] for knob, index in zip(KNOBS, row, strict=True)}
        fused = bool(chosen.pop("fused"))
        return str(dataclasses.replace(fixed, **chosen, fused=fused, se_ratio=SQUEEZE[fused]))


def space_around(
    stages: Sequence[StageSpec],
    *,
    kernel_sizes: Sequence[int] = (3, 5),
    expand_ratios: Sequence[int] = (1, 4, 6),
    layers: int = 2,
) -> Space:
    """The space whose stages have the backbone's channels and strides.

    Args:
      stages: of the backbone, scaled.
      kernel_sizes: to choose from.
      expand_ratios: to choose from.
      layers: how many layers more or fewer than the backbone's a stage may have; at least one stays. The
        paper does not print its range.

    Raises:
      UserError: there is nothing to choose from.

    """
    for name, values in (("kernel_sizes", kernel_sizes), ("expand_ratios", expand_ratios)):
        if not values or min(values) < 1 or len(set(values)) != len(values):
            raise UserError(f"{name}: {tuple(values)}; give different numbers of 1 or more")
    if layers < 0:
        raise UserError(f"layers: {layers}; must be 0 or more")
    return Space(
        tuple(stages),
        tuple(
            {
                "fused": (0, 1),
                "kernel_size": tuple(kernel_sizes),
                "expand_ratio": tuple(expand_ratios),
                "repeats": tuple(range(max(1, stage.repeats - layers), stage.repeats + layers + 1)),
            }
            for stage in stages
        ),
    )
