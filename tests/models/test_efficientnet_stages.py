"""The text form of stages and compound scaling."""

import re

import pytest

from offsites_jax.errors import UserError
from offsites_jax.models.efficientnet import VARIANTS
from offsites_jax.models.efficientnet_stages import (
    StageSpec,
    flatten_stages,
    parse_stages,
    round_width,
    scale_stages,
)


def test_reads_a_stage():
    assert StageSpec.parse("r2_k5_s1_e6_i24_o40_se0.25") == StageSpec(
        repeats=2,
        kernel_size=5,
        stride=1,
        expand_ratio=6,
        input_width=24,
        output_width=40,
        se_ratio=0.25,
        fused=False,
    )
    assert StageSpec.parse("r2_k3_s1_e1_i24_o24_c1").fused
    assert not StageSpec.parse("r2_k3_s1_e1_i24_o24_c0").fused


@pytest.mark.parametrize("name", VARIANTS)
def test_writes_what_it_reads(name):
    for text in VARIANTS[name].settings["blocks"]:
        assert str(StageSpec.parse(text)) == text


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (["r2_k3_s1_e1_i24"], "lacks o"),
        (["r2_k3_s1_e1_i24_o24_x1"], "'x1'"),
        (["r2_k3_s1_e1_i24_o24_r3"], "'r3'"),
        (["r2_k3_s1_e1_i24_o"], "'o'"),
        (["r2.5_k3_s1_e1_i24_o24"], "'r2.5'"),
        (["r2_k3_s1_e1_i24_o24_c2"], "'c2'"),
        (["r0_k3_s1_e1_i24_o24"], "has a 0"),
        ([], "blocks is empty"),
        (["r1_k3_s1_e1_i8_o16", "r1_k3_s1_e1_i24_o24"], "takes 24 channels"),
    ],
)
def test_an_unreadable_stage_is_the_users_error(blocks, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse_stages(blocks)


def test_widths_round_to_eights():
    assert round_width(32, 1.1) == 32
    assert round_width(1280, 1.1) == 1408
    assert round_width(16, 1.2) == 16
    assert round_width(16, 1.2, round_limit=0.9) == 24  # 16 is less than 9/10 of 19.2
    assert round_width(8, 0.1) == 8
    assert round_width(12, 1.0) == 12


def test_the_first_stage_of_b3_tells_the_generations_apart():
    widths = {}
    for name in ("efficientnet_b3", "efficientnet_v2_b3"):
        settings = VARIANTS[name].settings
        stages = parse_stages(settings["blocks"])
        scaled = scale_stages(stages, settings["width"], settings["depth"], settings.get("round_limit", 0.0))
        widths[name] = scaled[0].output_width
    assert widths == {"efficientnet_b3": 24, "efficientnet_v2_b3": 16}


def test_repeats_round_up_and_only_the_first_block_of_a_stage_strides():
    (stage,) = scale_stages([StageSpec.parse("r3_k3_s2_e4_i16_o32")], width=1.0, depth=1.1)
    assert stage.repeats == 4
    blocks = flatten_stages([stage])
    assert [str(block) for block in blocks] == ["r1_k3_s2_e4_i16_o32"] + ["r1_k3_s1_e4_i32_o32"] * 3
