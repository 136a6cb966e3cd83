"""Stages that come again: one program for each of their settings, and the same run as ever."""

import pathlib

import jax
import numpy as np
import pytest

from offsites_jax.train.config import load_experiment, resolve
from offsites_jax.train.loop import train
from offsites_jax.train.program import Program
from offsites_jax.train.saved import read_meta

SYSTEMS = pathlib.Path(__file__).parents[1] / "systems"
SIZES = (16, 32, 16, 16, 32, 16)


@pytest.fixture(autouse=True)
def systems(monkeypatch):
    monkeypatch.setenv("OFFSITES_PATH", str(SYSTEMS))


def revisiting(monkeypatch, workdir):
    """A run that alternates between two batch sizes, and how many steps it compiled."""
    raw = load_experiment(SYSTEMS / "curve_experiment.py").raw
    ends = (4, 8, 12, 16, 20, 0)
    raw["stages"] = [
        {"name": f"{index}", "until": end, "train": {"batch_size": size}}
        for index, (end, size) in enumerate(zip(ends, SIZES, strict=True))
    ]
    raw["train"] |= {
        "steps": 24,
        "eval_every": 0,
        "log_every": 4,
        "checkpoint_every": 10,
        "keep": {"last": 2},
    }
    compiled, compile_step = [], Program.compile

    def counting(program):
        compiled.append(program.experiment.train.batch_size)
        return compile_step(program)

    monkeypatch.setattr(Program, "compile", counting)
    return train(resolve(raw), workdir), compiled


def test_a_stage_with_the_settings_of_an_earlier_one_compiles_nothing(monkeypatch, tmp_path):
    result, compiled = revisiting(monkeypatch, tmp_path / "run")
    assert compiled == [16, 32]
    assert int(result.state.step) == 24
    assert read_meta(tmp_path / "run")["stage"] == "5", (
        "the stage that runs, not the one it shares a program with"
    )


def test_sharing_programs_changes_no_value(monkeypatch, tmp_path):
    shared, _ = revisiting(monkeypatch, tmp_path / "shared")
    monkeypatch.setattr("offsites_jax.train.config.Experiment.first_alike", lambda self, index: index)
    apart, compiled = revisiting(monkeypatch, tmp_path / "apart")
    assert compiled == list(SIZES)
    jax.tree.map(np.testing.assert_array_equal, shared.state.params, apart.state.params)
