"""Trainings side by side are what each is alone, whoever else is there, in which order, on any mesh."""

import copy
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.data.pipeline import global_batch
from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import create_mesh, put_batch
from offsites_jax.projects.one_class.stacking.experiment import stacked
from offsites_jax.projects.one_class.stacking.task import SKIPPED, STACK, member_of, stack_statistics
from offsites_jax.train.config import resolve
from offsites_jax.train.program import create_program
from offsites_jax.train.state import zero_batch

ALONE = {
    "project": "one_class",
    "model": {"name": "resnet_10", "width": 0.0625, "head": [8, 6], "overrides": {"depths": [1]}},
    "task": {
        "pretext": {
            "name": "contrastive",
            "union": "rot",
            "augmentation": {"min_crop": 0.5, "flip": True, "grey": 0.2},
            "chunk": 4,
        },
        "l2": 3e-4,
    },
    "data": {"source": "digits", "category": "0", "image_size": 16, "copies": 4},
    "optimizer": {"name": "momentum", "learning_rate": 0.05, "clip_norm": 1.0},
    "train": {"steps": 3, "batch_size": 8, "ema": {"decay": 0.9}},
    "mesh": {"data": 1, "cpu_devices": 8},
}
CELLS = (("3", 0), ("7", 0), ("3", 1))
FIVE = (*CELLS[::-1], ("5", 2), ("6", 2))
STEPS = 3


def trained(raw, compiled=None, damage=lambda state: state):
    """The compiled step, and state and figures after a few steps on batches as the loop takes them."""
    experiment = resolve(raw)
    mesh = create_mesh(experiment.mesh)
    program = create_program(experiment, mesh)
    pipeline = experiment.found.create_pipeline(experiment, "train", train=True)
    size, seed = experiment.train.batch_size, experiment.train.seed
    compiled, state = compiled or program.compile(), damage(program.initial_state())
    for step in range(STEPS):
        batch = put_batch(global_batch(pipeline, batch_size=size, seed=seed, step=step), mesh, size)
        state, metrics = jax.block_until_ready(compiled(state, batch))
    return compiled, state, jax.device_get(metrics)


def alone(category, seed):
    raw = copy.deepcopy(ALONE)
    raw["data"]["category"] = category
    raw["train"]["seed"] = seed
    return jax.device_get(trained(raw)[1])


@pytest.fixture(scope="module")
def each_alone():
    return {cell: alone(*cell) for cell in CELLS}


def on_eight(cells):
    """A stack on eight devices, a member each, three of them again."""
    return {**stacked(ALONE, cells, 8), "mesh": {"data": 4, "fsdp": 2, "cpu_devices": 8}}


@pytest.fixture(scope="module")
def eight():
    return trained(on_eight(FIVE))


def assert_close(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_member_is_the_training_of_its_category_and_seed(each_alone, eight):
    """Parameters, statistics, momentum and moving average; three of the rows are repetitions."""
    _, state, metrics = eight
    for place, cell in enumerate(CELLS[::-1]):
        assert_close(member_of(jax.device_get(state), place), each_alone[cell])
        assert_close(member_of(jax.device_get(state), place + 5), each_alone[cell])
    kernels = [each_alone[cell].params["head"]["dense_0"]["kernel"] for cell in CELLS]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3
    assert np.abs(kernels[0] - kernels[2]).max() > 1e-3
    assert float(metrics["non_finite"].value) == 0


@pytest.mark.parametrize("at_a_time", [0, 1])
def test_members_of_one_device_at_once_and_in_turn(each_alone, at_a_time):
    raw = {**stacked(ALONE, CELLS, 1, at_a_time), "mesh": {"data": 1, "cpu_devices": 8}}
    _, state, _ = trained(raw)
    for place, cell in enumerate(CELLS):
        assert_close(member_of(jax.device_get(state), place), each_alone[cell])


def test_nothing_but_numbers_crosses_devices(eight):
    """Each device holds one member of everything, and no collective moves more than a number a member."""
    compiled, state, _ = eight
    for leaf in jax.tree.leaves((state.params, state.ema["params"], state.ema["model_state"][STACK]["mean"])):
        assert leaf.sharding.shard_shape(leaf.shape) == (1, *leaf.shape[1:])
    kinds = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
    moved = re.findall(rf"= (.*?) (?:{kinds})(?:-start)?\(", compiled.as_text())
    assert moved, "the figures of the log are summed"
    for shapes in moved:
        for dimensions in re.findall(r"\w+\[([\d,]*)\]", shapes):
            assert np.prod([int(size) for size in dimensions.split(",") if size]) <= 8, shapes


def test_a_member_that_is_lost_takes_no_other_with_it(each_alone, eight):
    def damage(state):
        broken = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), state.params)
        return state.replace(params=jax.device_put(broken, jax.tree.map(lambda a: a.sharding, state.params)))

    _, state, metrics = trained(on_eight(FIVE), eight[0], damage)
    found = jax.device_get(state)
    np.testing.assert_array_equal(found.model_state[STACK][SKIPPED], [0, STEPS, 0, 0, 0, 0, 0, 0])
    for place in (0, 2):
        assert_close(member_of(found, place), each_alone[FIVE[place]])
    assert np.isfinite(float(metrics["loss"].value))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(member_of(found, 1).model_state))


def test_each_member_predicts_from_its_own_batch():
    table, single = (resolve(raw) for raw in (stacked(ALONE, CELLS), ALONE))
    task, one = (each.found.create_task(each, jnp.dtype("float32")) for each in (table, single))
    variables = jax.jit(task.init)(jax.random.key(0), zero_batch(task.batch_spec(3)))
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 16, 16, 3), np.uint8)
    found = jax.jit(task.predict)(variables, {"image": images})
    predict = jax.jit(one.predict)
    for place in range(3):
        own = {"params": variables["params"], "batch_stats": stack_statistics(variables[STACK])}
        own = jax.tree.map(lambda leaf, place=place: leaf[place], own)
        alone = predict(own, {"image": images[place]})
        assert_close({name: rows[place] for name, rows in found.items()}, alone)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"init_from": {"path": "there"}}, "config.init_from: a stack starts fresh"),
        ({"stages": [{"name": "all"}]}, "config.stages: a stack has one stage"),
        ({"train": {**ALONE["train"], "accumulate": 2}}, "config.train.accumulate: a stack takes whole"),
        ({"data": {**ALONE["data"], "loading": {"on_bad_record": "skip"}}}, "on_bad_record: a stack"),
    ],
)
def test_what_a_stack_does_not_have(sections, message):
    with pytest.raises(UserError, match=message):
        stacked({**ALONE, **sections}, CELLS)


def test_sections_that_do_not_fit_a_stack():
    raw = stacked(ALONE, CELLS)
    raw["train"]["batch_size"] = 2
    experiment = resolve(raw)
    with pytest.raises(UserError, match=r"config.train.batch_size: is 2, but task.stack has 3 members"):
        experiment.found.create_task(experiment, jnp.dtype("float32"))
    with pytest.raises(UserError, match="a stack is only trained"):
        experiment.found.create_pipeline(experiment, "test", train=False)
    for changes, message in [
        ({"seeds": [0]}, "has 3 categories and 1 seeds"),
        ({"seeds": [0, 1, 2**32]}, r"must be in \[0, 2"),
        ({"images": 0}, "images must be at least 1"),
    ]:
        broken = copy.deepcopy(raw)
        broken["task"]["stack"] |= changes
        with pytest.raises(UserError, match=message):
            resolve(broken)
