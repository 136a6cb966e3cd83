"""How an EfficientNet is written down: stages, their text form, and compound scaling.

A stage is one line such as ``r2_k3_s1_e1_i24_o24_c1``, the notation of google/automl: ``r``epeats,
``k``ernel side, ``s``tride of the first repeat, ``e``xpansion, ``i``nput and ``o``utput width,
``se`` squeeze ratio (0 unless given), ``c1`` for Fused-MBConv (``c0``, MBConv, unless given).
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from offsites_jax.errors import UserError

_FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "r": ("repeats", int),
    "k": ("kernel_size", int),
    "s": ("stride", int),
    "e": ("expand_ratio", int),
    "i": ("input_width", int),
    "o": ("output_width", int),
    "se": ("se_ratio", float),
    "c": ("fused", lambda text: bool(("0", "1").index(text))),
}
_REQUIRED = ("r", "k", "s", "e", "i", "o")


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """A run of equal blocks; only the first strides and changes the width.

    Attributes:
        repeats: number of blocks.
        kernel_size: side of the spatial window.
        stride: of the first block; the others have 1.
        expand_ratio: expanded channels per input channel.
        input_width: channels that enter the first block.
        output_width: channels that leave every block.
        se_ratio: squeeze-and-excite channels per input channel; 0 for none.
        fused: Fused-MBConv instead of MBConv.

    """

    repeats: int
    kernel_size: int
    stride: int
    expand_ratio: int
    input_width: int
    output_width: int
    se_ratio: float = 0.0
    fused: bool = False

    @classmethod
    def parse(cls, text: str) -> "StageSpec":
        """Read a stage from its text form.

        Raises:
            UserError: if a part is unknown, repeated, missing, or not a positive number.

        """
        values: dict[str, Any] = {}
        for part in text.split("_"):
            match = re.fullmatch(r"([a-z]+)([0-9.]+)", part)
            letters = match[1] if match else ""
            if match is None or letters not in _FIELDS or _FIELDS[letters][0] in values:
                raise UserError(
                    f"blocks: {part!r} in {text!r} is not understood: write each of "
                    "r k s e i o, and se and c where needed, once, as in "
                    "'r2_k3_s1_e4_i24_o24_se0.25_c0'"
                )
            field, convert = _FIELDS[letters]
            try:
                values[field] = convert(match[2])
            except ValueError:
                raise UserError(f"blocks: {part!r} in {text!r} has a bad number") from None
        missing = [letter for letter in _REQUIRED if _FIELDS[letter][0] not in values]
        if missing:
            raise UserError(f"blocks: {text!r} lacks {', '.join(missing)}")
        if not all(values[_FIELDS[letter][0]] for letter in _REQUIRED):
            raise UserError(f"blocks: {text!r} has a 0 where 1 or more is needed")
        return cls(**values)

    def __str__(self) -> str:
        """Write the stage in its text form; `parse` reads it back."""
        text = "_".join(f"{letter}{getattr(self, _FIELDS[letter][0])}" for letter in _REQUIRED)
        gate = f"_se{self.se_ratio:g}" if self.se_ratio else ""
        return text + gate + ("_c1" if self.fused else "")


def parse_stages(stages: Sequence[StageSpec | str]) -> tuple[StageSpec, ...]:
    """Read stages given as text or as `StageSpec`, and check that their widths chain.

    Raises:
        UserError: if there is none, one cannot be read, or one does not fit the one before it.

    """
    if not stages:
        raise UserError("blocks is empty: a network needs at least one stage")
    parsed = tuple(stage if isinstance(stage, StageSpec) else StageSpec.parse(stage) for stage in stages)
    for before, after in itertools.pairwise(parsed):
        if before.output_width != after.input_width:
            raise UserError(
                f"blocks: '{after}' takes {after.input_width} channels but '{before}' before it "
                f"gives {before.output_width}"
            )
    return parsed


def round_width(width: int, scale: float, round_limit: float = 0.0) -> int:
    """Scale a width and round it to a multiple of 8; a scale of 1 leaves it as it is.

    Args:
        width: channels before scaling.
        scale: the width multiplier.
        round_limit: go up to the next multiple where rounding leaves less than this share of the
            exact value: 0.9 in the first EfficientNet, 0 (never) in EfficientNetV2.

    """
    if scale == 1:
        return width
    exact = width * scale
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < round_limit * exact else rounded


def scale_stages(
    stages: Sequence[StageSpec], width: float, depth: float, round_limit: float = 0.0
) -> tuple[StageSpec, ...]:
    """Multiply widths and repeats (rounded up) of all stages: compound scaling."""
    return tuple(
        dataclasses.replace(
            stage,
            repeats=math.ceil(depth * stage.repeats),
            input_width=round_width(stage.input_width, width, round_limit),
            output_width=round_width(stage.output_width, width, round_limit),
        )
        for stage in stages
    )


def flatten_stages(stages: Sequence[StageSpec]) -> tuple[StageSpec, ...]:
    """Write every block as a stage of its own (``repeats`` 1), in order of execution."""
    blocks: list[StageSpec] = []
    for stage in stages:
        first = dataclasses.replace(stage, repeats=1)
        rest = dataclasses.replace(first, stride=1, input_width=stage.output_width)
        blocks += [first] + [rest] * (stage.repeats - 1)
    return tuple(blocks)
