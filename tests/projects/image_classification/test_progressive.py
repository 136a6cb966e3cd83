"""Stage lists against the sizes and steps that paper and released code print."""

import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification.progressive import (
    Regularisation,
    progressive_stages,
    random_resize_stages,
)
from offsites_jax.train.config import Stage, stage_ends
from offsites_jax.train.schema import parse

TABLE_6_L = Regularisation(magnitude=(5, 25), mixup=(0, 0.5), dropout=(0.1, 0.5))


def sizes(stages):
    return [stage["data"]["image_size"] for stage in stages]


def ends(stages, steps):
    return stage_ends([parse(stage, Stage, "stages") for stage in stages], steps)


@pytest.mark.parametrize(
    ("schedule", "size", "expected"),
    [
        ("paper", (128, 300), [128, 185, 242, 300]),
        ("paper", (128, 380), [128, 212, 296, 380]),
        ("automl", (128, 300), [171, 214, 257, 300]),
        ("automl", (128, 384), [192, 256, 320, 384]),
    ],
)
def test_sizes_are_those_published(schedule, size, expected):
    assert sizes(progressive_stages(size, schedule=schedule)) == expected


def test_stages_of_350_epochs_end_where_the_released_code_ends_them():
    steps = 350 * 1_281_167 // 4096
    assert ends(progressive_stages((128, 300)), steps) == (27368, 54737, 82105, steps)


def test_regularisation_grows_in_equal_steps():
    stages = progressive_stages((128, 380), TABLE_6_L)
    np.testing.assert_allclose([s["data"]["magnitude"] for s in stages], np.linspace(5, 25, 4))
    np.testing.assert_allclose([s["task"]["mixup_alpha"] for s in stages], np.linspace(0, 0.5, 4))
    dropout = [s["model"]["overrides"]["dropout_rate"] for s in stages]
    np.testing.assert_allclose(dropout, np.linspace(0.1, 0.5, 4))
    assert all("cutmix_alpha" not in stage["task"] for stage in stages)


def test_without_adaptation_only_the_size_grows():
    stages = progressive_stages((128, 380), TABLE_6_L, adaptive=False)
    assert sizes(stages) == [128, 212, 296, 380]
    assert {s["data"]["magnitude"] for s in stages} == {25}
    assert {s["task"]["mixup_alpha"] for s in stages} == {0.5}


def test_one_stage_is_the_last():
    (stage,) = progressive_stages((128, 300), TABLE_6_L, count=1)
    assert stage["data"] == {"image_size": 300, "magnitude": 25}


def test_stages_of_other_batch_sizes_see_equally_many_images():
    batch_sizes, steps = (64, 32, 32, 16), 900
    stages = progressive_stages((128, 300), batch_sizes=batch_sizes)
    assert [stage["train"] for stage in stages] == [{"batch_size": size} for size in batch_sizes]
    assert ends(stages, steps) == (100, 300, 500, 900), "1/9, 2/9, 2/9 and 4/9 of the steps"
    lengths = np.diff((0, *ends(stages, steps)))
    assert set(lengths * batch_sizes) == {6400}
    for count in range(2, 8):
        equal = progressive_stages((128, 300), count=count, batch_sizes=(32,) * count)
        assert ends(equal, 420) == ends(progressive_stages((128, 300), count=count), 420)


def test_without_batch_sizes_the_runs_own_holds_throughout():
    assert all("train" not in stage for stage in progressive_stages((128, 300)))


def test_random_sizes_come_every_8_epochs_with_the_regularisation_of_their_size():
    stages = random_resize_stages((128, 380), TABLE_6_L, epochs=350, seed=3)
    steps = 350 * 100
    assert ends(stages, steps) == tuple(min(800 * (i + 1), steps) for i in range(44))
    assert set(sizes(stages)) == {128, 212, 296, 380}
    magnitude_of = dict(zip((128, 212, 296, 380), np.linspace(5, 25, 4), strict=True))
    for stage in stages:
        assert stage["data"]["magnitude"] == pytest.approx(magnitude_of[stage["data"]["image_size"]])
    programs = {repr({**stage, "name": "", "until": 0}) for stage in stages}
    assert len(programs) == 4, "a size that comes again is the same program"


def test_random_sizes_follow_from_the_seed():
    first, again, other = (random_resize_stages((32, 64), epochs=200, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert sizes(first) != sizes(other)


def test_random_sizes_without_adaptation_share_one_strength():
    stages = random_resize_stages((128, 380), TABLE_6_L, epochs=80, adaptive=False)
    assert {s["data"]["magnitude"] for s in stages} == {25}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: progressive_stages((128, 300), count=0), "0 of them"),
        (lambda: progressive_stages((300, 128)), "size goes from 300 to 128"),
        (
            lambda: progressive_stages((1, 2), Regularisation(dropout=(0.5, 0.1))),
            "dropout goes from 0.5 to 0.1",
        ),
        (lambda: progressive_stages((0, 2)), "starts at 0 pixels"),
        (lambda: random_resize_stages((1, 2), epochs=0), "0 epochs"),
        (lambda: progressive_stages((1, 2), batch_sizes=(8, 8)), r"batch sizes \[8, 8\]; give 4 of them"),
        (lambda: progressive_stages((1, 2), count=2, batch_sizes=(8, 0)), "each at least 1"),
    ],
)
def test_impossible_schedules_are_named(call, words):
    with pytest.raises(UserError, match=words):
        call()
