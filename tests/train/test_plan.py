"""Planning for TPUs: real compiles by the TPU compiler on this machine, and the rules around them."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
import types

import jax
import pytest

from offsites_jax.cli.plan import stages_of
from offsites_jax.errors import UserError
from offsites_jax.parallel.collectives import Collective
from offsites_jax.parallel.compiler import Cost, Memory
from offsites_jax.parallel.mesh import MeshSettings, create_mesh
from offsites_jax.parallel.roofline import Roofline
from offsites_jax.parallel.rules import table
from offsites_jax.parallel.topology import parse_topology
from offsites_jax.train import plan_sweep
from offsites_jax.train.config import load_experiment
from offsites_jax.train.plan import override, train_cost, with_remat
from offsites_jax.train.plan_report import hints, render_sweep, sweep_json
from offsites_jax.train.plan_sweep import frontier, sensible_batch_sizes, sensible_meshes, sweep
from offsites_jax.train.program import create_program

ROOT = pathlib.Path(__file__).parents[2]
SYSTEMS = ROOT / "tests" / "systems"
CURVE = SYSTEMS / "curve_experiment.py"
DIGITS = ROOT / "experiments" / "image_classification" / "digits.py"
GIB = 2**30


@pytest.fixture(autouse=True)
def systems(monkeypatch):
    monkeypatch.setenv("OFFSITES_PATH", str(SYSTEMS))


def run_plan(*arguments, experiment=CURVE, variables=None):
    """Plans the smallest system there is, or another one, in a process of its own."""
    command = [sys.executable, "-m", "offsites_jax.cli.main", "plan", str(experiment), *map(str, arguments)]
    environment = {**os.environ, "OFFSITES_PATH": str(SYSTEMS), **(variables or {})}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def planned():
    done = run_plan("--topology", "v5e:2x4", "--json", "--shardings", "--price", "2")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_real_compile_covers_every_stage(planned):
    assert (planned["topology"], planned["num_chips"]) == ("v5e:2x4", 8)
    assert planned["mesh"] == {"slices": 1, "data": 4, "fsdp": 2, "tensor": 1}
    assert [(stage["name"], stage["steps"]) for stage in planned["stages"]] == [("quiet", 60), ("loud", 140)]
    quiet, loud = planned["stages"]
    assert quiet["compile_seconds"] > 0
    assert quiet["compile_seconds"] == loud["compile_seconds"], "the same program is compiled once"


def test_a_second_plan_of_the_same_program_is_read_and_not_compiled(tmp_path):
    def plan(price):
        done = run_plan(
            "--topology", "v5e:2x4", "--json", "--price", price, variables={"OFFSITES_CACHE": str(tmp_path)}
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    first, second = plan(2), plan(4)
    assert second["stages"] == first["stages"], "compile_seconds too: those of the first time"
    assert list((tmp_path / "plans").glob("*.json"))


def test_between_slices_gradients_of_convolutions_cross_and_no_activations_move():
    """Asked for scattered gradients alone, the compiler would split convolutions by space and channel."""
    overrides = {
        "mesh": "{'slices': 2}",
        "stages": "()",
        "train.batch_size": "256",
        "train.slice_reduction": "float32",
        "model.overrides.norm": "{'statistics': 'device'}",
    }
    given = [f"--config.{key}={value}" for key, value in overrides.items()]
    done = run_plan("--topology", "v5e:2x4", "--json", *given, experiment=DIGITS)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert not plan["hints"]
    (stage,) = plan["stages"]
    moved = {(entry["kind"], entry["axes"]): entry["bytes"] for entry in stage["collectives_by_axis"]}
    assert {kind for kind, _ in moved} <= {"all-reduce", "reduce-scatter", "all-gather"}
    gathered = sum(size for (kind, _), size in moved.items() if kind == "all-gather")
    assert 0 < moved["all-reduce", "slices"] < gathered / 4, "an eighth of the gradient crosses"


@pytest.mark.parametrize(
    ("reduction", "crossing", "told"), [("auto", 5, 1), ("auto", 1, 0), ("float32", 5, 0)]
)
def test_many_messages_between_slices_are_worth_a_hint(reduction, crossing, told):
    """Twice in a loop of `crossing` turns, beside what stays inside a slice."""
    moves = [Collective("all-reduce", 8, (), network, crossing) for network in ("dcn", "ici", "dcn")]
    experiment = types.SimpleNamespace(train=types.SimpleNamespace(slice_reduction=reduction))
    stage = types.SimpleNamespace(
        program=types.SimpleNamespace(experiment=experiment), train=types.SimpleNamespace(collectives=moves)
    )
    found = hints(types.SimpleNamespace(stages=[stage]))
    assert len(found) == told
    assert all(line.startswith(f"{2 * crossing} messages") for line in found)


def test_memory_holds_the_state_and_the_batch_of_a_chip(planned):
    experiment = load_experiment(CURVE)
    program = create_program(experiment, create_mesh(experiment.mesh))
    leaves = jax.tree.leaves((program.abstract, program.batch))
    held = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
    for stage in planned["stages"]:
        memory = stage["hbm_bytes_per_chip"]
        # The TPU pads each array to whole tiles, of 512 bytes at least.
        assert held <= memory["arguments"] <= held + 512 * len(leaves)
        assert memory["outputs"] < memory["arguments"] / 2, "the new state takes the place of the donated one"
        parts = ("arguments", "outputs", "temporaries", "generated_code")
        assert memory["total"] == sum(memory[part] for part in parts)
        assert 15 * GIB < memory["limit"] < 16 * GIB
        assert stage["fits"]
        assert stage["predict"]["fits"]


def test_operations_and_times_follow_from_the_model(planned):
    stage = planned["stages"][0]
    # Two dense layers, 1 to 16 to 1, on 32 rows: forward, gradients of both kernels, gradient of one input.
    assert stage["model_flops_per_step"] == 2 * 32 * 16 * (2 + 2 + 1)
    assert stage["flops_per_chip"] * 8 == stage["hardware_flops_per_step"] == stage["model_flops_per_step"]
    assert stage["predict"]["flops_per_chip"] * 8 == 2 * 32 * 16 * 2
    seconds = stage["step_estimate_seconds"]
    assert seconds == max(stage["roofline_seconds"].values()) == stage["roofline_seconds"][stage["bound"]]
    assert stage["roofline_seconds"]["hbm"] == pytest.approx(stage["bytes_accessed_per_chip"] / 819e9)
    assert stage["estimated_mfu"] == pytest.approx(stage["model_flops_per_step"] / (seconds * 8 * 197e12))
    hours = sum(s["steps"] * s["step_estimate_seconds"] for s in planned["stages"]) * 8 / 3600
    assert planned["chip_hours"] == pytest.approx(hours)
    assert planned["cost_usd"] == pytest.approx(2 * hours)


def test_collectives_of_the_step_sum_gradients_over_all_chips(planned):
    stage = planned["stages"][0]
    assert stage["collectives"]["all-reduce"]["count"] >= 1
    assert all(
        kind["bytes"] > 0 and kind["dcn_bytes_per_step"] == 0 for kind in stage["collectives"].values()
    )
    axes = {axis for row in stage["collectives_by_axis"] for axis in row["axes"].split("+")}
    assert axes == {"data", "fsdp"}
    assert stage["loops_of_unknown_length"] == 0


def test_the_sharding_table_is_that_of_the_run(planned):
    experiment = load_experiment(CURVE)
    program = create_program(experiment, create_mesh(experiment.mesh))
    rows = table(program.abstract.params, program.shardings.params)
    assert [(r["name"], r["spec"], r["bytes"]) for r in planned["shardings"]] == [
        (row.name, str(row.spec), row.bytes_per_device) for row in rows
    ]


def test_two_slices_meet_over_the_network():
    done = run_plan("--topology", "v5e:2x4", "--slices", "2", "--stage", "loud")
    assert done.returncode == 0, done.stderr
    assert "v5e:2x4 x 2 slices (16 chips: slices=2 data=4 fsdp=2)" in done.stdout
    (crossing,) = [line.split() for line in done.stdout.splitlines() if "over slices" in line]
    assert crossing[:4] == ["all-reduce", "over", "slices", "dcn"]
    assert "planned stages: 140 steps" in done.stdout
    assert "not measured" in " ".join(done.stdout.split()), "every figure comes with what it is"


def test_what_does_not_fit_says_by_how_much():
    done = run_plan("--topology", "v5e:2x4", "--stage", "1", "--config.train.batch_size=8589934592", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    (stage,) = plan["stages"]
    memory = stage["hbm_bytes_per_chip"]
    assert not stage["fits"]
    assert stage["exceeds_by_bytes"] == memory["total"] - memory["limit"] > 0
    # Two numbers of a row in, at least.
    assert memory["arguments"] >= 8589934592 // 8 * 2 * 4
    assert stage["step_estimate_seconds"] is None
    assert plan["chip_hours"] is None
    assert stage["predict"]["fits"]


def test_a_mesh_that_leaves_chips_over_is_refused_in_one_line():
    done = run_plan("--topology", "v5e:16x16")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip().endswith("set --config.mesh.data=128")
    assert done.stderr.count("\n") == 1


def test_stages_by_name_and_index():
    assert stages_of("all", []) == [0]
    assert stages_of("all", ["a", "b"]) == [0, 1]
    assert stages_of("b", ["a", "b"]) == stages_of("1", ["a", "b"]) == [1]
    with pytest.raises(UserError, match="no stage 'c'; the experiment's stages are: a, b"):
        stages_of("c", ["a", "b"])
    with pytest.raises(UserError, match="none, so leave it out"):
        stages_of("7", [])


def test_overrides_reach_the_stage_that_has_its_own():
    experiment = load_experiment(CURVE)
    experiment.raw["stages"][1]["train"] = {"batch_size": 64}
    loud = experiment.at_stage(1)
    changed = override(loud, {"train": {"batch_size": 16}, "mesh": {"data": 8, "fsdp": 1}})
    assert (changed.stage, changed.train.batch_size, changed.mesh.data) == (1, 16, 8)
    assert changed.at_stage(0).train.batch_size == 16
    assert loud.raw["stages"][1]["train"] == {"batch_size": 64}, "the original is left alone"


def test_rematerialisation_is_set_where_the_model_has_it():
    changed = with_remat(load_experiment(DIGITS), "full")
    assert [changed.at_stage(index).model.overrides["remat"] for index in (0, 1)] == [True, True]
    assert with_remat(changed, "none").model.overrides["remat"] is False
    with pytest.raises(UserError, match="--remat: 'dots' is not offered by this model; say none or full"):
        with_remat(changed, "dots")
    with pytest.raises(UserError, match="project 'curve' has no option 'remat'"):
        with_remat(load_experiment(CURVE), "full")


class Recorder:
    """Takes the place of the compiler and notes the operations it is told of."""

    def __init__(self):
        self.flops = []

    def cost(self, mesh, function, *arguments, flops):
        self.flops.append(flops)
        return flops


def work(path, **overrides):
    """(operations over all chips, operations with what chips repeat) of a step on this machine's devices."""
    experiment = load_experiment(path, {key.replace("__", "."): value for key, value in overrides.items()})
    recorder = Recorder()
    _, _, flops = train_cost(experiment, recorder, create_mesh(experiment.mesh))
    return flops, recorder.flops[0]


def test_micro_batches_are_the_same_work_and_idle_tensor_neighbours_repeat_it():
    plain = work(CURVE)
    assert plain[0] == plain[1] == 5120
    assert work(CURVE, train__accumulate="4") == plain
    assert work(CURVE, mesh__data="4", mesh__fsdp="1", mesh__tensor="2") == (5120, 2 * 5120)
    rules = "((r'kernel', [None, 'tensor']), ('.*', 'fsdp'))"
    narrow = {"mesh__data": "4", "mesh__fsdp": "2", "mesh__tensor": "1"}
    assert work(CURVE, sharding__rules=rules, **narrow) == plain


def test_rematerialisation_is_hardware_work_only():
    ratio = work(DIGITS, model__overrides__remat="True")[0] / work(DIGITS)[0]
    assert 1.2 < ratio < 1.4, "about one more forward pass on top of three"


def cost(total, seconds=1.0, fits=True):
    memory = Memory(total, 0, 0, 0, limit=100)
    line = Roofline(seconds, 0, 0, 0) if fits else None
    return Cost(memory, fits, 1.0, 1.0, 1.0, 1.0, (), 0, line, 0.0)


def candidate(rate, total, fits=True):
    return plan_sweep.Candidate(
        {"slices": 1, "data": 8, "fsdp": 1, "tensor": 1}, 8, "", cost(total, fits=fits), rate
    )


def test_the_frontier_is_what_nothing_beats():
    rates = [5.0, 5.0, 4.0, 3.0, 3.0, 9.0]
    totals = [50, 40, 40, 20, 10, 101]
    candidates = [candidate(r, t, fits=t <= 100) for r, t in zip(rates, totals, strict=True)]
    fitting = candidates[:-1]
    beaten = [
        any(
            other.samples_per_second_per_chip >= one.samples_per_second_per_chip
            and other.cost.memory.total <= one.cost.memory.total
            and other != one
            for other in fitting
        )
        for one in fitting
    ]
    expected = [one for one, lost in zip(fitting, beaten, strict=True) if not lost]
    assert frontier(candidates) == expected == [candidates[1], candidates[4]]
    topology = parse_topology("v5e:2x4")
    assert sweep_json(candidates, topology, "all")["pareto"] == [1, 4]
    starred = [
        line for line in render_sweep(candidates, topology, "all").splitlines() if line.startswith("*  ")
    ]
    assert len(starred) == 2


def test_sensible_layouts_fill_the_slice():
    experiment = load_experiment(CURVE)
    meshes = sensible_meshes(experiment, parse_topology("v5e:16x16", slices=2))
    assert [(m.data, m.fsdp, m.tensor, m.slices) for m in meshes] == [
        (256, 1, 1, 2),
        (128, 2, 1, 2),
        (64, 4, 1, 2),
        (16, 16, 1, 2),
        (4, 64, 1, 2),
        (1, 256, 1, 2),
    ]
    rules = (("kernel", (None, "tensor")),)
    split = dataclasses.replace(experiment, sharding=dataclasses.replace(experiment.sharding, rules=rules))
    assert {m.tensor for m in sensible_meshes(split, parse_topology("v5e:16x16"))} == {1, 2, 4, 8}
    assert sensible_batch_sizes(experiment) == [16, 32, 64]


def test_a_sweep_stops_growing_where_memory_ends_and_leaves_out_what_cannot_be(monkeypatch):
    tried = []

    def fake(experiment, compiler, mesh):
        size, fsdp = experiment.train.batch_size, mesh.shape["fsdp"]
        tried.append((fsdp, size))
        if fsdp == 4:
            raise UserError("cannot be split")
        return None, cost(size * 4 // fsdp, fits=size * 4 // fsdp <= 100), 0

    class Here:
        topology = parse_topology("v5e:2x4")
        mesh = staticmethod(create_mesh)

    monkeypatch.setattr(plan_sweep, "train_cost", fake)
    lines = []
    experiment = load_experiment(CURVE)
    meshes = [MeshSettings(8, 1), MeshSettings(4, 2), MeshSettings(2, 4)]
    found = sweep(experiment, Here(), meshes=meshes, batch_sizes=[64, 16, 32], notify=lines.append)
    assert tried == [(1, 16), (1, 32), (2, 16), (2, 32), (2, 64), (4, 16), (4, 32), (4, 64)]
    assert [(c.mesh["fsdp"], c.batch_size, c.cost.fits) for c in found] == [
        (1, 16, True),
        (1, 32, False),
        (2, 16, True),
        (2, 32, True),
        (2, 64, False),
    ]
    assert found[0].samples_per_second_per_chip == 16 / 8
    assert found[1].samples_per_second_per_chip == 0
    assert sum("left out; cannot be split" in line for line in lines) == 3
    with pytest.raises(UserError, match="cannot be split"):
        sweep(experiment, Here(), meshes=meshes[2:], batch_sizes=[16])
