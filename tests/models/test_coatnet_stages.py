"""The text form of stages, layouts, and what blocks they make."""

import re

import pytest

from offsites_jax.errors import UserError
from offsites_jax.models.coatnet_stages import Run, group_equal, list_blocks, parse_stages


def test_reads_stages_of_one_kind_and_of_two():
    assert parse_stages(("c2_d96", "c8_d768 t42_d1536")) == (
        (Run("c", 2, 96),),
        (Run("c", 8, 768), Run("t", 42, 1536)),
    )


@pytest.mark.parametrize("layout", ["cctt", "C-C-T-T"])
def test_a_layout_replaces_kinds(layout):
    stages = parse_stages(("c1_d8", "c2_d8", "c3_d8", "c4_d8"), layout)
    assert "".join(run.kind for (run,) in stages) == "cctt"


@pytest.mark.parametrize(
    ("stages", "layout", "message"),
    [
        ((), "", "stages is empty"),
        (("",), "", "'' is not understood"),
        (("x2_d96",), "", "'x2_d96' is not understood"),
        (("c0_d96",), "", "'c0_d96' is not understood"),
        (("c2_d96 t2",), "", "'c2_d96 t2' is not understood"),
        (("c2_d96",), "ct", "layout is 'ct'"),
        (("c2_d96",), "v", "layout is 'v'"),
    ],
)
def test_what_is_not_understood_is_the_users_error(stages, layout, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse_stages(stages, layout)


def test_first_block_of_a_stage_halves_and_a_change_of_kind_inside_does_not():
    blocks = list_blocks(parse_stages(("c2_d8", "c2_d16 t3_d32")), stem_width=8)
    assert [block.downsample for block in blocks] == [True, False, True, False, False, False, False]
    assert [(block.input_width, block.width) for block in blocks] == [
        (8, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32), (32, 32),
    ]  # fmt: skip
    assert [[block.index for block in group] for group in group_equal(blocks)] == [
        [0], [1], [2], [3], [4], [5, 6],
    ]  # fmt: skip
    assert not any(block.downsample for block in list_blocks(parse_stages(("t2_d8",)), 8, downsample=False))
