"""The mesh decides who computes what, and nothing else: the real trainer, whole and resumed."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from offsites_jax.errors import Preempted
from offsites_jax.train.config import load_experiment
from offsites_jax.train.loop import train
from offsites_jax.train.state import flatten
from offsites_jax.train.writers import read_metrics

SYSTEMS = pathlib.Path(__file__).parents[1] / "systems"
STEPS = 16
# Devices add up in another order; training amplifies float32 rounding a little.
TOLERANCE = 1e-5

TENSOR_RULES = "[('Dense_0/kernel', [None, 'tensor']), ('Dense_1/kernel', ['tensor', None]), ('.*', 'fsdp')]"
MESHES = {
    "1": {"mesh.data": "1", "mesh.fsdp": "1"},
    "8x1": {"mesh.data": "8", "mesh.fsdp": "1"},
    "4x2": {"mesh.data": "4", "mesh.fsdp": "2"},
    "2x2x2": {"mesh.data": "2", "mesh.fsdp": "2", "mesh.tensor": "2", "sharding.rules": TENSOR_RULES},
}


@pytest.fixture(autouse=True)
def _systems(monkeypatch):
    monkeypatch.setenv("OFFSITES_PATH", str(SYSTEMS))


def run(workdir, mesh, stop_at=None, **overrides):
    """Trains the curve on one of the meshes; two stages, noise, a running statistic, an average."""
    settings = {
        "train.steps": str(STEPS), "train.log_every": "1", "train.eval_every": "8",
        **MESHES[mesh], **overrides,
    }  # fmt: skip
    return train(load_experiment(SYSTEMS / "curve_experiment.py", settings), workdir, stop_at=stop_at)


@functools.cache
def whole(folder):
    """The run on one device."""
    run(folder / "whole", "1")
    return folder / "whole"


@pytest.fixture
def reference(tmp_path_factory):
    return whole(tmp_path_factory.getbasetemp())


def check_same_run(workdir, reference, rtol=TOLERANCE):
    """Same rows in every bit; same losses, norms and scores to rounding."""
    lines, wanted = read_metrics(workdir), read_metrics(reference)
    assert [(line["step"], line["split"]) for line in lines] == [
        (line["step"], line["split"]) for line in wanted
    ]
    assert [line.get("rows") for line in lines] == [line.get("rows") for line in wanted]
    for name in ("loss", "grad_norm", "update_norm", "worst"):
        found, expected = ([line[name] for line in log if name in line] for log in (lines, wanted))
        np.testing.assert_allclose(found, expected, rtol=rtol, err_msg=name)


def bytes_held(tree):
    """Bytes of a tree on the first device, and of all of it."""
    leaves = jax.tree.leaves(tree)
    assert all(leaf.addressable_shards[0].data.nbytes <= leaf.nbytes for leaf in leaves)
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves), sum(leaf.nbytes for leaf in leaves)


@pytest.mark.parametrize("mesh", ["8x1", "4x2", "2x2x2"])
def test_every_mesh_trains_the_same(mesh, reference, tmp_path):
    run(tmp_path, mesh)
    check_same_run(tmp_path, reference)


@pytest.mark.parametrize(("before", "after"), [("4x2", "2x2x2"), ("2x2x2", "1"), ("1", "8x1")])
def test_a_run_goes_on_on_another_mesh(before, after, reference, tmp_path):
    with pytest.raises(Preempted, match="saved step 7"):
        run(tmp_path, before, stop_at=7)
    run(tmp_path, after)
    check_same_run(tmp_path, reference)


def test_two_micro_batches_are_one_batch(tmp_path):
    # Without what depends on how the batch is cut: noise drawn for a micro-batch, and statistics of one.
    plain = {"model.dropout_rate": "0", "model.centre": "False"}
    run(tmp_path / "one", "8x1", **plain)
    run(tmp_path / "two", "4x2", **plain, **{"train.accumulate": "2"})
    check_same_run(tmp_path / "two", tmp_path / "one")


def test_parameters_and_optimizer_are_really_split(tmp_path):
    state = run(tmp_path, "4x2").state
    moments = state.opt_state["main"]
    for tree in (state.params, state.ema["params"]):
        held = {
            name: leaf.nbytes // leaf.addressable_shards[0].data.nbytes
            for name, leaf in flatten(tree).items()
        }
        assert held == {"Dense_0/kernel": 2, "Dense_0/bias": 2, "Dense_1/kernel": 2, "Dense_1/bias": 1}
    held, total = bytes_held(state.params)
    assert (held, total) == (4 * (3 * 8 + 1), 4 * (3 * 16 + 1))
    held_moments, total_moments = bytes_held([leaf for leaf in jax.tree.leaves(moments) if leaf.ndim])
    assert (held_moments, total_moments) == (2 * held, 2 * total), (
        "two moments of each parameter, split alike"
    )


def test_tensor_parallel_kernels_are_really_split(tmp_path):
    state = run(tmp_path, "2x2x2").state
    shards = {name: leaf.addressable_shards[0].data.shape for name, leaf in flatten(state.params).items()}
    assert shards == {
        "Dense_0/kernel": (1, 8), "Dense_0/bias": (8,), "Dense_1/kernel": (8, 1), "Dense_1/bias": (1,),
    }  # fmt: skip
    axes = {name: tuple(leaf.sharding.spec) for name, leaf in flatten(state.params).items()}
    assert axes["Dense_0/kernel"] == (None, "tensor")
    assert axes["Dense_0/bias"] == ("fsdp",)
