"""Recipes: what the papers and scripts say, and that the sections are ones the trainer takes."""

import math
from typing import get_args

import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.model import ModelConfig
from offsites_jax.projects.one_class.recipes import papers
from offsites_jax.projects.one_class.views.pretexts import PretextConfig, PretextName, rows_per_image
from offsites_jax.train.optimizers import Optimizer, learning_rate
from offsites_jax.train.schema import parse

DEFECTS = [name for name in get_args(PretextName) if name != "contrastive"]


def parsed(config):
    """Each section as its dataclass; an unknown key or wrong type would raise."""
    pretext = parse(config["task"]["pretext"], PretextConfig, "task.pretext")
    return pretext, parse(config["model"], ModelConfig, "model")


def rates(section, steps, at):
    schedule = learning_rate(parse(section, Optimizer, "optimizer"), steps, "optimizer")
    return np.asarray(schedule(np.asarray(at)))


@pytest.mark.parametrize(
    ("name", "images", "steps", "rows"),
    [
        ("rotation", 5000, 2048 * 78, 256),
        ("contrastive", 5000, 2048 * 156, 64),
        ("contrastive_da", 5000, 2048 * 625, 64),
    ],
)
def test_droc(name, images, steps, rows):
    config = papers.droc(name, images)
    pretext, model = parsed(config)
    assert config["train"]["steps"] == steps
    assert config["train"]["batch_size"] * rows_per_image(pretext) == rows
    assert pretext.temperature == 0.2
    assert model.head == (512,) * 8 + (() if name == "rotation" else (128,))
    epoch = steps // 2048
    got = rates(config["optimizer"], steps, [0, epoch - 1, epoch, steps // 2, steps - 1])
    cosine = [0.005 * (1 + math.cos(math.pi * e / 2048)) for e in (0, 0, 1, 1024, 2047)]
    np.testing.assert_allclose(got, cosine, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", DEFECTS)
def test_cutpaste(name):
    config = papers.cutpaste(name)
    pretext, _ = parsed(config)
    rows = config["train"]["batch_size"] * rows_per_image(pretext)
    assert rows == {"cutpaste_3way": 96, "rotation": 128}.get(name, 64)
    assert config["train"]["steps"] == 65_536
    np.testing.assert_allclose(rates(config["optimizer"], 65_536, [255, 32_768]), [0.03, 0.015], rtol=1e-5)


def test_patches():
    pretext, model = parsed(papers.cutpaste_patch(window=64))
    assert (pretext.window, model.stem) == (64, "small")


def test_fine_tuning_moves_the_backbone_after_ten_epochs():
    config = papers.cutpaste_b4("level7")
    pretext, model = parsed(config)
    steps = config["train"]["steps"]
    assert steps == 74 * 256
    assert config["train"]["batch_size"] * rows_per_image(pretext) == 24
    assert (model.features, model.frozen_norm, model.pixels) == ("level7", True, "imagenet")
    found = {group: rates(section, steps, [2559, 2560]) for group, section in config["optimizer"].items()}
    np.testing.assert_allclose(found["backbone"], [0, 1e-4])
    np.testing.assert_allclose(found["head"], [0.03, 1e-4])


def test_what_has_no_recipe():
    with pytest.raises(UserError, match="no recipe 'simclr'"):
        papers.droc("simclr", 5000)
    with pytest.raises(UserError, match="31 training images do not fill a batch of 32"):
        papers.droc("contrastive", 31)
    with pytest.raises(UserError, match="use droc"):
        papers.cutpaste("contrastive")
