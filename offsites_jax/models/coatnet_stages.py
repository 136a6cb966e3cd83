"""How a CoAtNet is written down: stages of convolutional and of transformer blocks.

A stage is one line such as ``c2_d96``: two convolutional blocks of 96 channels; ``t`` is for transformer
blocks. A stage of both kinds lists them in order, as in ``c8_d768 t42_d1536`` of CoAtNet-6.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Literal

from offsites_jax.errors import UserError

_RUN = re.compile(r"(?P<kind>[ct])(?P<repeats>[1-9]\d*)_d(?P<width>[1-9]\d*)")


@dataclasses.dataclass(frozen=True)
class Run:
    """Blocks of one kind and width in a row.

    Attributes:
        kind: ``"c"`` for convolution, ``"t"`` for transformer.
        repeats: number of blocks.
        width: channels that leave every block.

    """

    kind: Literal["c", "t"]
    repeats: int
    width: int


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One block and its place in the network.

    Attributes:
        stage: number of its stage, from 1.
        place: number within the stage, from 0.
        index: number within the network, from 0.
        kind: ``"c"`` or ``"t"``.
        input_width: channels that enter.
        width: channels that leave.
        downsample: whether it halves the map.

    """

    stage: int
    place: int
    index: int
    kind: Literal["c", "t"]
    input_width: int
    width: int
    downsample: bool

    @property
    def is_plain(self) -> bool:
        """Whether what leaves has the shape of what enters."""
        return not self.downsample and self.input_width == self.width


Stage = tuple[Run, ...]


def parse_stages(stages: Sequence[str], layout: str = "") -> tuple[Stage, ...]:
    """Read stages from their text form.

    Args:
        stages: one text for each.
        layout: kinds to use instead of those in the text, a letter for each stage, such as ``"cctt"`` for
            the paper's C-C-T-T; dashes and capitals are allowed.

    Raises:
        UserError: if there is none, one cannot be read, or the layout has another number of letters.

    """
    if not stages:
        raise UserError("stages is empty: a network needs at least one stage")
    parsed = tuple(tuple(_parse_run(run, text) for run in text.split()) or _no_run(text) for text in stages)
    kinds = layout.replace("-", "").lower()
    if not kinds:
        return parsed
    if len(kinds) != len(parsed) or set(kinds) - {"c", "t"}:
        raise UserError(
            f"layout is {layout!r}: write c (convolution) or t (transformer) for each of the {len(parsed)} "
            "stages, as in 'cctt'"
        )
    return tuple(
        tuple(dataclasses.replace(run, kind="c" if kind == "c" else "t") for run in stage)
        for stage, kind in zip(parsed, kinds, strict=True)
    )


def _parse_run(run: str, text: str) -> Run:
    match = _RUN.fullmatch(run)
    if match is None:
        return _no_run(text)[0]
    kind: Literal["c", "t"] = "c" if match["kind"] == "c" else "t"
    return Run(kind, int(match["repeats"]), int(match["width"]))


def _no_run(text: str) -> Stage:
    raise UserError(
        f"stages: {text!r} is not understood: write kind (c or t), repeats and width, as in 'c2_d96', or "
        "several such with spaces between"
    )


def list_blocks(stages: Sequence[Stage], stem_width: int, downsample: bool = True) -> tuple[BlockSpec, ...]:
    """All blocks in order of execution; ``downsample`` lets the first of each stage halve the map."""
    blocks: list[BlockSpec] = []
    width = stem_width
    for number, stage in enumerate(stages, 1):
        for place, run in enumerate(itertools.chain(*([run] * run.repeats for run in stage))):
            halves = downsample and place == 0
            blocks.append(BlockSpec(number, place, len(blocks), run.kind, width, run.width, halves))
            width = run.width
    return tuple(blocks)


def group_equal(blocks: Sequence[BlockSpec]) -> Iterator[tuple[BlockSpec, ...]]:
    """Blocks in order, with neighbours of one stage that have equal parameters together."""

    def alike(block: BlockSpec) -> tuple[object, ...]:
        own = () if block.is_plain else (block.index,)
        return (block.stage, block.kind, block.width, *own)

    for _, group in itertools.groupby(blocks, key=alike):
        yield tuple(group)
