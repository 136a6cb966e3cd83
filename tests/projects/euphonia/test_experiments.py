"""Every experiment file resolves, and the small ones have the published topology."""

import dataclasses
import inspect
import pathlib

import jax
import jax.numpy as jnp
import pytest

from offsites_jax.projects.euphonia.corpora.memorize import memory_split
from offsites_jax.projects.euphonia.model import ModelConfig
from offsites_jax.train.config import load_experiment
from offsites_jax.train.state import flatten

FOLDER = pathlib.Path(__file__).parents[3] / "experiments" / "euphonia"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def load(name):
    return load_experiment(f"{FOLDER / name}.py")


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_resolves(name):
    experiment = load(name)
    assert experiment.project == "euphonia"
    assert experiment.data.features.dim == experiment.model.features


@pytest.mark.parametrize("name", ["small_cpu", "real_speech"])
def test_small_networks_differ_in_widths_and_in_what_they_need_to_learn_fast(name):
    found, published = (dataclasses.asdict(model) for model in (load(name).model, ModelConfig()))
    different = {field for field in found if found[field] != published[field]}
    assert different == {
        "features", "cells", "projection", "embedding", "joint", "vocabulary", "residual", "ctc",
    }  # fmt: skip


def test_the_memorizing_network_is_small_and_takes_what_it_is_given():
    experiment = load("real_speech")
    task = experiment.found.create_task(experiment, jnp.dtype("float32"))
    batch = {
        "waveform": jax.ShapeDtypeStruct((1, 64_000), jnp.int16),
        "sample_count": jax.ShapeDtypeStruct((1,), jnp.int32),
        "labels": jax.ShapeDtypeStruct((1, 40), jnp.int32),
        "label_count": jax.ShapeDtypeStruct((1,), jnp.int32),
    }
    shapes = jax.eval_shape(task.init, jax.random.key(0), batch)["params"]
    inputs = [256, 64, 128, *[64] * 5, 32, 64]  # of each layer; the third takes two rows at once
    # Four gates of input and recurrence, their scales and shifts, and the projection of 128 cells to 64.
    recurrent = sum(4 * 128 * (width + 64) + 2 * 4 * 128 + 128 * 64 for width in inputs)
    joint, embedding = 2 * 64 * 128 + 128 + 128 * 96 + 96, 96 * 32
    frames = 64 * 96 + 96
    assert sum(leaf.size for leaf in flatten(shapes).values()) == recurrent + joint + embedding + frames
    _, longest = inspect.signature(memory_split).parameters["seconds"].default
    assert longest <= experiment.data.max_seconds
    assert {name: one.split for name, one in experiment.evaluators.items()} == {
        "learnt": "train", "unheard": "test",
    }  # fmt: skip
