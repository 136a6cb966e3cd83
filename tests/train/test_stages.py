"""Stages that come again: one program for each of their settings, and the same run as ever."""

import pathlib
import threading

import jax
import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import create_mesh
from offsites_jax.train import loop
from offsites_jax.train.config import load_experiment, resolve
from offsites_jax.train.loop import train
from offsites_jax.train.program import Program, create_program
from offsites_jax.train.saved import read_meta
from offsites_jax.train.writers import read_metrics

SYSTEMS = pathlib.Path(__file__).parents[1] / "systems"
SIZES = (16, 32, 16, 16, 32, 16)


@pytest.fixture(autouse=True)
def systems(monkeypatch):
    monkeypatch.setenv("OFFSITES_PATH", str(SYSTEMS))


def revisiting(monkeypatch, workdir, ahead="no"):
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
        "compile_ahead": ahead,
    }
    compiled, compile_step = [], Program.compile

    def counting(program, lowered=None):
        compiled.append(program.experiment.train.batch_size)
        return compile_step(program, lowered)

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


def test_the_next_stage_is_compiled_while_one_trains(monkeypatch, tmp_path):
    plain, _ = revisiting(monkeypatch, tmp_path / "plain")
    monkeypatch.undo()
    monkeypatch.setenv("OFFSITES_PATH", str(SYSTEMS))
    trained, threads = threading.Event(), {}
    compile_step, add = Program.compile, loop.Tally.add

    def waiting(program, lowered=None):
        size = program.experiment.train.batch_size
        threads[size] = threading.current_thread() is threading.main_thread()
        if size == 32:
            assert trained.wait(60), "no step was made while the second stage compiled"
        return compile_step(program, lowered)

    def telling(tally, step, metrics):
        trained.set()
        add(tally, step, metrics)

    monkeypatch.setattr(loop.Tally, "add", telling)
    monkeypatch.setattr(Program, "compile", waiting)
    ahead, compiled = revisiting(monkeypatch, tmp_path / "ahead", ahead="yes")
    assert compiled == [16, 32]
    assert threads == {16: True, 32: False}
    jax.tree.map(np.testing.assert_array_equal, plain.state.params, ahead.state.params)


def test_what_goes_wrong_ahead_is_told_where_the_stage_begins(monkeypatch, tmp_path):
    compile_step = Program.compile

    def failing(program, lowered=None):
        if program.experiment.train.batch_size == 32:
            raise UserError("no room for this one")
        return compile_step(program, lowered)

    monkeypatch.setattr(Program, "compile", failing)
    with pytest.raises(UserError, match="no room for this one"):
        revisiting(monkeypatch, tmp_path / "ahead", ahead="yes")
    steps = [line["step"] for line in read_metrics(tmp_path / "ahead") if line["split"] == "train"]
    assert steps == [4], "the first stage was trained"


def test_the_rate_follows_the_batch_of_a_stage_where_told(tmp_path):
    raw = load_experiment(SYSTEMS / "curve_experiment.py").raw
    raw["optimizer"] = {"name": "sgd", "learning_rate": 0.01, "rate_with_batch": "linear"}
    raw["train"] |= {"steps": 6, "batch_size": 16, "log_every": 1, "eval_every": 0, "checkpoint_every": 6}
    raw["train"]["keep"] = {"last": 1}
    raw["stages"] = [{"name": "many", "until": 3, "train": {"batch_size": 64}}, {"name": "few"}]
    train(resolve(raw), tmp_path)
    lines = [line for line in read_metrics(tmp_path) if line["split"] == "train"]
    rates = [line["learning_rate"] for line in lines]
    np.testing.assert_allclose(rates, [0.04] * 3 + [0.01] * 3, rtol=1e-6)


def test_and_so_does_the_update():
    raw = load_experiment(SYSTEMS / "curve_experiment.py").raw
    raw["stages"] = [{"name": "many", "until": 3, "train": {"batch_size": 64}}, {"name": "few"}]
    moved = {}
    for how in ("none", "linear", "sqrt"):
        raw["optimizer"] = {"name": "sgd", "learning_rate": 0.01, "rate_with_batch": how}
        experiment = resolve(raw)
        program = create_program(experiment, create_mesh(experiment.mesh))
        before = program.initial_state()
        rows = np.random.default_rng(0)
        batch = {
            name: jax.device_put(rows.normal(size=spec.shape).astype(spec.dtype), spec.sharding)
            for name, spec in program.batch.items()
        }
        with jax.set_mesh(program.mesh):
            after, _ = jax.jit(program.step)(before, batch)
        moved[how] = jax.tree.map(lambda new, old: new - old, after.params, before.params)
    for how, factor in (("linear", 2.0), ("sqrt", 2**0.5)):
        jax.tree.map(
            lambda more, less, factor=factor: np.testing.assert_allclose(more, factor * less, atol=1e-6),
            moved[how],
            moved["none"],
        )
    assert max(abs(leaf).max() for leaf in jax.tree.leaves(moved["none"])) > 1e-3
