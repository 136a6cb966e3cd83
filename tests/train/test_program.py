"""Stages as programs: what is compiled, what is refused before anything is compiled."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import batch_sharding, create_mesh
from offsites_jax.train.config import load_experiment, resolve
from offsites_jax.train.program import check_stages, compute_dtype, create_program
from offsites_jax.train.state import flatten

SYSTEMS = pathlib.Path(__file__).parents[1] / "systems"
CURVE = SYSTEMS / "curve_experiment.py"


@pytest.fixture(autouse=True)
def systems(monkeypatch):
    monkeypatch.setenv("OFFSITES_PATH", str(SYSTEMS))


def curve(**overrides):
    return load_experiment(CURVE, {key.replace("__", "."): value for key, value in overrides.items()})


def test_a_stage_that_changes_parameter_shapes_is_refused_before_compiling():
    experiment = curve()
    experiment.raw["stages"][1]["model"] = {"width": 32}
    with pytest.raises(
        UserError, match=r"stages\[1\]: changes parameter Dense_0/bias from \(16,\) to \(32,\)"
    ):
        check_stages(experiment, create_mesh(experiment.mesh))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optimizer__frozen": "('nothing',)"}, "optimizer.frozen: 'nothing' matches none of 4 parameters"),
        ({"optimizer__frozen": "('.*',)"}, "group 'main' trains none of 4 parameters"),
        ({"train__batch_size": "12"}, "train.batch_size: 12 must be a multiple of 8"),
        ({"train__accumulate": "8"}, "train.batch_size: 32 must be a multiple of 64"),
    ],
)
def test_what_cannot_run_is_refused_with_its_key(overrides, message):
    experiment = curve(**overrides)
    with pytest.raises(UserError) as error:
        create_program(experiment, create_mesh(experiment.mesh))
    assert message in str(error.value)


def test_optimizer_sections_must_name_the_tasks_groups():
    experiment = curve()
    experiment.raw["optimizer"] = {"generator": {"name": "adam"}}
    experiment = resolve(experiment.raw)
    with pytest.raises(
        UserError, match=r"sections \['generator'\], but project 'curve' trains groups \['main'\]"
    ):
        create_program(experiment, create_mesh(experiment.mesh))


def test_initial_state_is_sharded_and_equals_the_unsharded_one_bit_for_bit():
    experiment = curve()
    program = create_program(experiment, create_mesh(experiment.mesh))
    sharded = program.initial_state()
    alone = create_program(
        curve(mesh__data="1", mesh__fsdp="1"), create_mesh(curve(mesh__data="1", mesh__fsdp="1").mesh)
    )
    for path, leaf in flatten(alone.initial_state().params).items():
        assert flatten(sharded.params)[path].tobytes() == leaf.tobytes(), path
    kernel = sharded.params["Dense_1"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (8, 1)
    moments = [x for x in jax.tree.leaves(sharded.opt_state) if x.shape == (16, 1)]
    assert moments, "Adam keeps moments of this kernel"
    assert all(m.addressable_shards[0].data.shape == (8, 1) for m in moments)


def test_the_step_donates_its_state_and_compiles_once():
    experiment = curve()
    program = create_program(experiment, create_mesh(experiment.mesh))
    compiled = program.compile()
    state = program.initial_state()
    batch = {
        name: jax.device_put(jnp.ones(s.shape, s.dtype), s.sharding) for name, s in program.batch.items()
    }
    new, metrics = compiled(state, batch)
    assert state.params["Dense_0"]["kernel"].is_deleted()
    newer, _ = compiled(new, batch)
    assert int(newer.step) == 2
    assert set(metrics) >= {"loss", "grad_norm", "update_norm", "non_finite"}


def moved(program):
    """Shapes that collectives of the compiled prediction hand out."""
    rows = program.experiment.train.batch_size
    batch = {"x": jax.ShapeDtypeStruct((rows, 1), jnp.float32, sharding=batch_sharding(program.mesh))}
    with jax.set_mesh(program.mesh):
        text = program.jit_predict().lower(program.abstract.variables(), batch).compile().as_text()
    return set(re.findall(r"= f32\[([\d,]*)\]\S* (?:all-gather|all-reduce|all-to-all)\(", text))


def test_prediction_gathers_split_parameters_and_never_activations():
    experiment = curve(mesh__data="1", mesh__fsdp="8")
    program = create_program(experiment, create_mesh(experiment.mesh))
    shapes = {",".join(map(str, leaf.shape)) for leaf in jax.tree.leaves(program.abstract.params)}
    assert moved(program)
    assert moved(program) <= shapes


def test_precision_follows_the_platform_unless_told():
    assert compute_dtype("auto", "cpu") == jnp.float32
    assert compute_dtype("auto", "tpu") == jnp.bfloat16
    assert compute_dtype("float32", "tpu") == jnp.float32
