import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.models.efficientnet_stages import StageSpec
from offsites_jax.models.registry import create_model
from offsites_jax.projects.image_classification.search.space import Backbone, space_around

SMALL = ("r1_k3_s1_e1_i8_o8_c1", "r2_k3_s2_e4_i8_o16_se0.25")


def small_space():
    stages = tuple(map(StageSpec.parse, SMALL))
    return space_around(stages, kernel_sizes=(3, 5), expand_ratios=(1, 4), layers=1)


def test_the_published_space_is_around_efficientnet_b4():
    backbone = Backbone.of(create_model("efficientnet_b4"))
    space = space_around(backbone.stages)
    # Widths and layers of EfficientNet-B4 as released by google/automl.
    assert [s.output_width for s in space.stages] == [24, 32, 56, 112, 160, 272, 448]
    assert [s.input_width for s in space.stages] == [48, 24, 32, 56, 112, 160, 272]
    assert [s.stride for s in space.stages] == [1, 2, 2, 2, 1, 2, 1]
    assert backbone.head_width == 1792
    layers = [options["repeats"] for options in space.options]
    assert layers[0] == (1, 2, 3, 4), "two fewer than two would be none"
    assert layers[3] == (4, 5, 6, 7, 8)
    # 2 operations, 2 kernels and 3 expansions in each of 7 stages; 4 or 5 numbers of layers.
    assert space.count == (2 * 2 * 3) ** 7 * 4 * 5**5 * 4
    assert space.blocks(space.choices(backbone.blocks)) == backbone.blocks


def test_a_space_is_the_product_of_its_options():
    space = small_space()
    every = itertools.product(*map(range, space.sizes))
    networks = {space.blocks(choices): choices for choices in every}
    assert len(networks) == space.count == (2 * 2 * 2) ** 2 * 2 * 3
    assert all(space.choices(blocks) == choices for blocks, choices in networks.items())
    first = {stage for stage, _ in networks}
    assert first == {
        f"r{r}_k{k}_s1_e{e}_i8_o8{op}"
        for r in (1, 2)
        for k in (3, 5)
        for e in (1, 4)
        for op in ("_c1", "_se0.25")
    }


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        (SMALL[:1], "1 stages"),
        (("r1_k7_s1_e1_i8_o8_c1", SMALL[1]), "kernel_size 7"),
        ((SMALL[0], "r4_k3_s2_e4_i8_o16_se0.25"), "repeats 4"),
        ((SMALL[0], "r2_k3_s1_e4_i8_o16_se0.25"), "strides"),
        ((SMALL[0], "r2_k3_s2_e4_i8_o24_se0.25"), "widths"),
        ((SMALL[0], "r2_k3_s2_e4_i8_o16"), "squeeze"),
    ],
)
def test_what_is_not_in_a_space_is_refused(blocks, said):
    with pytest.raises(UserError, match=said):
        small_space().choices(blocks)


def test_networks_of_a_space_are_models_of_the_backbones_widths():
    backbone = Backbone.of(create_model("efficientnet_b0", width=0.5, depth=0.5))
    space = space_around(backbone.stages)
    rng = np.random.default_rng(0)
    blocks = space.blocks(tuple(int(rng.integers(size)) for size in space.sizes))
    model = create_model("efficientnet_b0", dtype=jnp.float32, **backbone.overrides(blocks))
    again = Backbone.of(model)
    assert again.blocks == blocks
    assert again.head_width == backbone.head_width == 640


@pytest.mark.parametrize(
    "wrong", [{"kernel_sizes": ()}, {"expand_ratios": (4, 4)}, {"kernel_sizes": (0,)}, {"layers": -1}]
)
def test_options_that_leave_nothing_to_choose_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        space_around(tuple(map(StageSpec.parse, SMALL)), **wrong)
