"""Every experiment file and variant resolves, says what is published, and fits together."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.recipes import published
from offsites_jax.projects.one_class.views.pretexts import UNIONS
from offsites_jax.train.config import load_experiment

FOLDER = pathlib.Path(__file__).parents[3] / "experiments" / "one_class"


def module(file):
    spec = importlib.util.spec_from_file_location(f"checked_{file.stem}", file)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def variants():
    for file in sorted(FOLDER.glob("*.py")):
        for name in getattr(module(file), "VARIANTS", ("",)):
            yield pytest.param(f"{file}:{name}" if name else str(file), id=f"{file.stem}:{name}")


@pytest.mark.parametrize("name", variants())
def test_every_variant_resolves_and_its_task_fits_its_data(name):
    experiment = load_experiment(name)
    task = experiment.found.create_task(experiment, jnp.dtype("float32"))
    spec = task.batch_spec(experiment.train.batch_size)
    side, stack = experiment.data.image_size, experiment.task.stack
    images = (stack.images,) if stack.categories else ()
    assert spec["image"].shape == (experiment.train.batch_size, *images, side, side, 3)
    assert ("copy" in spec) == (experiment.data.copies > 1)
    for settings in experiment.evaluators.values():
        experiment.found.create_evaluator(experiment, settings)


@pytest.mark.parametrize(("name", "steps"), [("da-cifar10", 2048 * 625), ("rotation-fmnist", 2048 * 93)])
def test_epochs_of_one_class_are_counted_in_steps(name, steps):
    experiment = load_experiment(f"{FOLDER}/droc.py:{name}")
    assert experiment.train.steps == steps
    assert experiment.data.copies == len(UNIONS[experiment.task.pretext.union])


def test_published_means_are_those_of_their_categories():
    """The tables print categories and means; both were typed in."""
    for name, figures in [*published.IMAGE_AUC.items(), ("pixel", published.PIXEL_AUC)]:
        for group, members in [("mean", published.MVTEC), *published.GROUPS["mvtec"].items()]:
            if group in figures and set(members) <= set(figures):
                mean = sum(figures[member] for member in members) / len(members)
                assert mean == pytest.approx(figures[group], abs=0.11), (name, group)


def test_a_variant_may_name_its_category():
    experiment = load_experiment(f"{FOLDER}/cutpaste_mvtec.py:scar-metal_nut")
    assert experiment.data.category == "metal_nut"
    assert experiment.task.pretext.name == "cutpaste_scar"
    assert experiment.expected["test/auc"].value == 97.9
    assert experiment.expected["mean/auc"].value == 93.5
    with pytest.raises(UserError, match="no category 'metal_nt'; did you mean metal_nut"):
        load_experiment(f"{FOLDER}/cutpaste_mvtec.py:scar-metal_nt")
    with pytest.raises(UserError, match="no variant '4way'"):
        load_experiment(f"{FOLDER}/cutpaste_mvtec.py:4way")


def test_a_pretrained_backbone_is_trained_apart_from_its_head():
    experiment = load_experiment(f"{FOLDER}/cutpaste_b4_mvtec.py:level7")
    task = experiment.found.create_task(experiment, jnp.dtype("float32"))
    assert set(task.parameter_groups) == set(task.objectives[0].trains) == {"backbone", "head"}
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    variables = jax.eval_shape(task.init, jax.random.key(0), {"image": image})
    assert set(variables["params"]) == {"backbone", "head"}
    found = jax.eval_shape(task.predict, variables, {"image": image})
    assert found["pooled"].shape == (1, 448)


def test_the_table_is_fifty_of_the_published_trainings_on_four_chips():
    table = load_experiment(FOLDER / "table_cifar10.py")
    alone = load_experiment(f"{FOLDER}/droc.py:rotation-cifar10")
    members = table.task.stack.members(table.train.batch_size)
    assert len(set(members)) == 50
    assert len(members) == 52
    assert (table.task.stack.images, table.train.steps) == (alone.train.batch_size, alone.train.steps)
    assert table.task.pretext == alone.task.pretext
    assert table.model == alone.model
    assert table.optimizer["main"].members
