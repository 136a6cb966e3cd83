"""Gradients that cross slices once: the same step, other collectives."""

import pathlib

import jax
import numpy as np
import pytest

from offsites_jax.data.pipeline import global_batch
from offsites_jax.parallel import slices
from offsites_jax.parallel.collectives import find_collectives
from offsites_jax.parallel.hlo import parse_program
from offsites_jax.parallel.mesh import create_mesh, put_batch
from offsites_jax.parallel.slices import divisible_axis, from_rows, to_rows
from offsites_jax.train.config import load_experiment
from offsites_jax.train.program import create_program

SYSTEMS = pathlib.Path(__file__).parents[1] / "systems"

MESHES = {
    "data": {"mesh.slices": "2", "mesh.data": "4", "mesh.fsdp": "1"},
    "fsdp": {"mesh.slices": "2", "mesh.data": "2", "mesh.fsdp": "2"},
}


@pytest.fixture(autouse=True)
def systems(monkeypatch):
    monkeypatch.setenv("OFFSITES_PATH", str(SYSTEMS))


def run(reduction, mesh, accumulate="1"):
    overrides = {
        **MESHES[mesh],
        "train.slice_reduction": reduction,
        "train.accumulate": accumulate,
        "model.dropout_rate": "0.0",
        # Micro-batches see the statistics of their own slice; without them the two ways are one.
        "model.centre": str(accumulate == "1"),
        "sharding.fsdp_min_size": "8",
    }
    experiment = load_experiment(SYSTEMS / "curve_experiment.py", overrides)
    program = create_program(experiment, create_mesh(experiment.mesh))
    compiled, state = program.compile(), program.initial_state()
    pipeline = experiment.found.create_pipeline(experiment, "train", True)
    losses = []
    for step in range(4):
        batch = put_batch(global_batch(pipeline, batch_size=32, seed=0, step=step), program.mesh, 32)
        state, metrics = compiled(state, batch)
        losses.append(float(metrics["loss"].value))
    return losses, jax.device_get(state), compiled.as_text()


@pytest.mark.parametrize(("mesh", "accumulate"), [("data", "1"), ("fsdp", "1"), ("fsdp", "2")])
def test_reducing_by_slice_equals_the_plain_step(mesh, accumulate):
    plain, by_slice = run("auto", mesh, accumulate), run("float32", mesh, accumulate)
    np.testing.assert_allclose(by_slice[0], plain[0], rtol=2e-5)
    for a, b in zip(jax.tree.leaves(by_slice[1]), jax.tree.leaves(plain[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


def test_bfloat16_across_slices_is_close():
    plain, rounded = run("auto", "data"), run("bfloat16", "data")
    assert rounded[0] != plain[0]
    np.testing.assert_allclose(rounded[0], plain[0], rtol=2e-2)


def test_one_message_with_a_shard_of_everything_crosses_slices():
    _, _, text = run("float32", "data")
    crossing = [
        collective
        for collective in find_collectives(parse_program(text), [0] * 4 + [1] * 4)
        if collective.network == "dcn" and all(len(group) == 2 for group in collective.groups)
    ]
    largest = max(collective.bytes for collective in crossing)
    shard = 4 * (4 + 4 + 4 + 1)  # of gradients [1, 16], [16], [16, 1] and [1], each over 4 chips
    # The compiler may put a few sums for the metrics into the same message.
    assert shard <= largest < shard + 16, crossing
    assert sum(collective.bytes for collective in crossing) < shard + 32, "and nothing else to speak of"


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((3, 8, 16), 2), ((16, 3, 8), 0), ((8, 8), 1), ((6, 3), None), ((5,), None), ((), None)],
)
def test_an_array_comes_back_from_its_rows(shape, axis):
    mesh = create_mesh(load_experiment(SYSTEMS / "curve_experiment.py", MESHES["fsdp"]).mesh)
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    assert divisible_axis(shape, 4) == axis
    with jax.set_mesh(mesh):
        rows = jax.jit(lambda x: to_rows(x, mesh))(array)
        back = jax.jit(lambda x: from_rows(x, shape, mesh))(rows)
    assert rows.shape[0] == 4
    np.testing.assert_array_equal(back, array)


def test_messages_keep_order_and_size(monkeypatch):
    monkeypatch.setattr(slices, "MESSAGE_BYTES", 10)
    assert slices.messages([4, 6, 1, 20, 5, 5]) == [[0, 1], [2], [3], [4, 5]]
    assert slices.messages([]) == []
