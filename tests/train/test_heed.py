"""A task that goes by its own scores: what it says after an evaluation is trained on, saved, and resumed."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.errors import Preempted
from offsites_jax.train.config import load_experiment, resolve
from offsites_jax.train.loop import train
from offsites_jax.train.project import find_project
from offsites_jax.train.saved import restore_variables
from offsites_jax.train.writers import read_metrics

SYSTEMS = pathlib.Path(__file__).parents[1] / "systems"


def filled_with_score(task, state, scores):
    """Every parameter becomes the score, so that each evaluation leaves a mark that cannot be missed."""
    params = jax.tree.map(lambda leaf: jnp.full_like(leaf, scores["test/worst"]), state.params)
    return state.replace(params=params)


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.setenv("OFFSITES_PATH", str(SYSTEMS))
    monkeypatch.setattr(find_project("curve").module("task").Curve, "heed", filled_with_score, raising=False)
    raw = load_experiment(SYSTEMS / "curve_experiment.py").raw
    raw["stages"] = []
    raw["evaluators"] = {"test": {"split": "test", "params": "raw"}}
    raw["train"] |= {
        "steps": 9,
        "eval_every": 3,
        "checkpoint_every": 3,
        "log_every": 3,
        "ema": {"decay": 0.0},
    }
    return resolve(raw)


def test_a_checkpoint_holds_what_was_heeded_and_a_resumed_run_is_the_same(experiment, tmp_path):
    whole = train(experiment, tmp_path / "whole")
    last = whole.scores["test/worst"]
    for leaf in jax.tree.leaves(
        (whole.state.params, restore_variables(tmp_path / "whole").variables["params"])
    ):
        np.testing.assert_array_equal(leaf, np.float32(last))
    with pytest.raises(Preempted):
        train(experiment, tmp_path / "cut", stop_at=3)
    train(experiment, tmp_path / "cut")
    scores = [
        [line["worst"] for line in read_metrics(tmp_path / run) if line["split"] == "test"]
        for run in ("whole", "cut")
    ]
    assert scores[0] == scores[1]
    assert len(set(scores[0])) == 3, "between evaluations the run goes on from what was heeded"
