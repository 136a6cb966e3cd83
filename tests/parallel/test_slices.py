"""Gradients that cross slices once: the same step, other collectives."""

import pathlib

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from offsites_jax.data.pipeline import global_batch
from offsites_jax.parallel.collectives import find_collectives
from offsites_jax.parallel.hlo import parse_program
from offsites_jax.parallel.mesh import create_mesh, put_batch
from offsites_jax.parallel.slices import scattered
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


def test_only_shards_cross_slices():
    """All-reduces between the two slices carry at most a quarter of any gradient that divides."""
    _, _, text = run("float32", "data")
    crossing = [
        collective
        for collective in find_collectives(parse_program(text), [0] * 4 + [1] * 4)
        if collective.network == "dcn" and all(len(group) == 2 for group in collective.groups)
    ]
    whole = 4 * 49  # bytes of all gradients
    assert 0 < sum(collective.bytes for collective in crossing) < whole / 2


def test_the_largest_dimension_that_divides_is_scattered():
    mesh = create_mesh(load_experiment(SYSTEMS / "curve_experiment.py", MESHES["fsdp"]).mesh)
    assert tuple(scattered((3, 8, 16), mesh)) == (None, None, ("fsdp", "data"))
    assert scattered((6, 3), mesh) == PartitionSpec("fsdp", None)
    assert tuple(scattered((3,), mesh)) == ()
