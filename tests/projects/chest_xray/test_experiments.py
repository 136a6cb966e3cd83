"""Every experiment file and variant resolves, and its task can be built."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray import recipes
from offsites_jax.train.config import load_experiment
from offsites_jax.train.state import flatten

FOLDER = pathlib.Path(__file__).parents[3] / "experiments" / "chest_xray"
NAMES = [
    *(
        f"{name}:{source}"
        for name in ("cxr_b7_600", "cxr_b4_380", "cxr_b0_224_cpu")
        for source in recipes.SOURCES
    ),
    *(f"{name}:{size}" for name in ("tb_from_abnormal", "tb_from_imagenet") for size in recipes.BACKBONES),
    "synthetic",
]


def load(name):
    file, _, variant = name.partition(":")
    return load_experiment(f"{FOLDER / file}.py" + (f":{variant}" if variant else ""))


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_stops_early_by_the_tuning_area_and_never_flips(name):
    experiment = load(name)
    assert experiment.train.keep.best == "tune/auc"
    assert experiment.evaluators["tune"].split == "tune"
    assert experiment.train.eval_every % experiment.train.log_every == 0
    assert not experiment.data.augment.flip
    stages = [experiment.at_stage(index).task.trains for index in range(len(experiment.ends))]
    assert stages == (["all"] if name == "synthetic" else ["head", "all"])
    assert experiment.final.task.trains == "all"


def test_the_published_network_has_its_published_size():
    """63,786,960 parameters, counted with keras.applications, and one output of 2,560 features."""
    experiment = load("cxr_b7_600").final
    task = experiment.found.create_task(experiment, jnp.dtype("float32"))
    batch = {"image": jax.ShapeDtypeStruct((1, 64, 64), jnp.uint16)}
    shapes = jax.eval_shape(task.init, jax.random.key(0), batch)
    assert sum(leaf.size for leaf in flatten(shapes["params"]).values()) == 63_786_960 + 2_561


def test_small_data_keep_the_statistics_they_start_with():
    experiment = load("tb_from_abnormal:b0").final
    assert experiment.found.create_task(experiment, jnp.dtype("float32")).model.norm.statistics == "frozen"


def test_a_variant_there_is_not_is_refused():
    with pytest.raises(UserError, match="choose one of manifest, cxr14"):
        load("cxr_b7_600:other")
