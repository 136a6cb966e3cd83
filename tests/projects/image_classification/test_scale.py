import shlex

import pytest

from offsites_jax.cli.main import parse_overrides
from offsites_jax.errors import UserError
from offsites_jax.models.efficientnet_stages import parse_stages, scale_stages
from offsites_jax.models.registry import create_model
from offsites_jax.projects.image_classification.search import jobs, scale
from offsites_jax.projects.image_classification.search.scale import Factors, compound, scale_network
from offsites_jax.train.config import load_experiment

DIGITS = "experiments/image_classification/digits.py"
IMAGENET = "experiments/image_classification/imagenet_v2_s.py"
SEVENTH = "r2_k3_s1_e6_i192_o320_se0.25"


def published(name):
    return parse_stages(create_model(name).blocks)


def rows(stages):
    """Repeats and output widths."""
    return [(stage.repeats, stage.output_width) for stage in stages]


def bigger_base(width, depth, *, extra=(SEVENTH,), bonus=scale.PUBLISHED_BONUS):
    stages = parse_stages([*create_model("efficientnet_v2_b0").blocks, *extra])
    return scale_network(stages, Factors(width, depth, 1.0), bonus)


def test_efficientnet_v2_l_follows_from_the_base():
    base = load_experiment(IMAGENET, {"model.name": "efficientnet_v2_b0"}).final
    found = scale.scale_experiment(
        base, settings(factors=Factors(2.0, 3.1, 1.0), extra_stage=SEVENTH, narrow_stem=True)
    )
    model = create_model("efficientnet_v2_b0", **{**found.model.overrides, "norm": {}})
    assert parse_stages(model.blocks) == published("efficientnet_v2_l")
    assert model.head_width == create_model("efficientnet_v2_l").head_width
    assert (model.width, model.depth) == (1.0, 1.0)


def test_efficientnet_v2_m_follows_but_for_one_width_set_by_hand():
    ours, theirs = rows(bigger_base(1.6, 2.2)), rows(published("efficientnet_v2_m"))
    assert ours[3] == (7, 152)
    assert theirs[3] == (7, 160)
    assert ours[:3] + ours[4:] == theirs[:3] + theirs[4:]


def test_efficientnet_v2_s_follows_but_for_two_widths_set_by_hand():
    ours, theirs = rows(bigger_base(1.4, 1.8, extra=(), bonus=())), rows(published("efficientnet_v2_s"))
    assert [repeats for repeats, _ in ours] == [repeats for repeats, _ in theirs] == [2, 4, 4, 6, 9, 15]
    assert [width for _, width in ours] == [24, 48, 64, 136, 160, 272]
    assert [width for _, width in theirs] == [24, 48, 64, 128, 160, 256]


def test_without_a_bonus_scaling_is_efficientnets_own():
    stages = parse_stages(create_model("efficientnet_b0").blocks)
    found = scale_network(stages, Factors(2.0, 3.1, 1.0), (), round_limit=0.9)
    assert found == scale_stages(stages, 2.0, 3.1, 0.9)
    # EfficientNet-B7 as released.
    assert rows(found) == [(4, 32), (7, 48), (7, 80), (10, 160), (10, 224), (13, 384), (4, 640)]


def test_a_bonus_adds_its_share_of_layers_rounded_up():
    stages = parse_stages(("r10_k3_s1_e1_i8_o8_c1", "r10_k3_s1_e1_i8_o8_c1", "r10_k3_s1_e1_i8_o8_c1"))
    found = scale_network(stages, Factors(1.0, 1.1, 1.0), (0.0, 0.1, 0.11))
    assert [stage.repeats for stage in found] == [-(-10 * 1.1 // 1), 13, 13]  # 11.0…, 12.1, 12.21


@pytest.mark.parametrize("coefficient", [0.0, 1.0, 2.5])
def test_compound_scaling_multiplies_operations_by_a_power(coefficient):
    factors = compound(coefficient)
    operations = factors.depth * factors.width**2 * factors.size**2
    assert operations == pytest.approx((1.2 * 1.1**2 * 1.15**2) ** coefficient)
    assert compound(0.0) == Factors(1.0, 1.0, 1.0)


def settings(**changes):
    return scale.Settings(**{"factors": Factors(1.0, 1.0, 1.0), **changes})


def sizes(experiment):
    return [experiment.at_stage(i).data.image_size for i in range(len(experiment.ends))]


def test_images_grow_with_their_stages_as_published():
    base = load_experiment(IMAGENET, {"data.eval_size": "0"}).final
    assert sizes(base) == [128, 185, 242, 300]
    grown = scale.scale_experiment(base, settings(factors=Factors(1.0, 1.0, 380 / 300)))
    # EfficientNetV2-M trains at 128, 212, 296 and 380; the base's sizes had been rounded down.
    assert sizes(grown) == pytest.approx([128, 212, 296, 380], abs=1)
    assert grown.data.image_size == 380


def test_no_image_is_larger_than_allowed_and_the_ratio_stays():
    base = load_experiment(IMAGENET, {"data.eval_size": "384"}).final
    grown = scale.scale_experiment(base, settings(factors=compound(3)))
    assert (grown.data.image_size, grown.data.eval_size) == (376, 480)
    small = scale.scale_experiment(base, settings(factors=compound(3), max_size=256))
    assert (small.data.image_size, small.data.eval_size) == (200, 256)


def test_the_head_keeps_its_width_unless_told():
    base = load_experiment(DIGITS).final
    factors = Factors(1.5, 1.0, 1.0)
    heads = [
        scale.scale_experiment(base, settings(factors=factors, scale_head=told)).model.overrides["head_width"]
        for told in (False, True)
    ]
    assert heads == [256, 384]


def test_the_job_prints_overrides_and_writes_an_experiment_that_say_the_same(tmp_path, capsys):
    file = tmp_path / "bigger.py"
    jobs.scale(DIGITS, coefficient=1.0, depth_bonus=(0, 0.5), output=str(file))
    printed = capsys.readouterr().out
    flags = shlex.split(" ".join(line for line in printed.splitlines() if line.startswith("--config.")))
    by_flags, by_file = load_experiment(DIGITS, parse_overrides(flags)), load_experiment(file)
    assert by_flags.raw == by_file.raw
    assert by_file.model.overrides["blocks"] == [
        "r2_k3_s1_e1_i16_o16_c1",
        "r4_k3_s2_e4_i16_o32_c1",  # 2 x 1.2 x 1.5 = 3.6
        "r3_k3_s2_e4_i32_o72_se0.25",
    ]
    assert by_file.final.data.image_size == 36
    # Counted by tests/models on their own: the digits network has 135,666 parameters.
    assert "135,666" in printed
    with pytest.raises(UserError, match="exists"):
        jobs.scale(DIGITS, output=str(file))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"depth_bonus": (0, 0, 0, 0.2)}, "3 stages|has 3"),
        ({"depth_bonus": (-0.1,)}, "0 or more"),
        ({"width": -1.0}, "more than 0"),
        ({"extra_stage": "r2_k3_s1_e6_i192_o320"}, "takes 192 channels"),
        ({"output": "bigger.json"}, "no .py file"),
    ],
)
def test_mistakes_are_told_by_their_option(arguments, said):
    with pytest.raises(UserError, match=said):
        jobs.scale(DIGITS, **arguments)
