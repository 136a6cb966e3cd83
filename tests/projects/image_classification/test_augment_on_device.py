"""RandAugment inside the train step: what data workers would have done, on any mesh and after any restart."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.data.pipeline import global_batch
from offsites_jax.errors import Preempted, UserError
from offsites_jax.parallel.mesh import create_mesh, put_batch
from offsites_jax.projects.image_classification import benchmark
from offsites_jax.projects.image_classification.figures.stages import seen_images
from offsites_jax.train.config import load_experiment
from offsites_jax.train.loop import train
from offsites_jax.train.restore import evaluate
from offsites_jax.train.saved import diff
from offsites_jax.train.workdir import read_experiment
from offsites_jax.train.writers import read_metrics

DIGITS = str(pathlib.Path(__file__).parents[3] / "experiments" / "image_classification" / "digits.py")
TINY = {
    "mesh.data": "1", "mesh.fsdp": "1", "stages": "[]", "train.batch_size": "16", "train.steps": "4",
    "train.eval_every": "0", "train.log_every": "1", "data.image_size": "12", "train.ema.decay": "0.0",
    "evaluators.test.batch_size": "360", "evaluators.test.pictures": "False",
    "model.overrides.head_width": "8", "model.overrides.norm": "{'momentum': 0.9}",
    "model.overrides.blocks": "['r1_k3_s1_e1_i8_o8_c1']", "model.overrides.dropout_rate": "0.0",
    "optimizer": "{'name': 'sgd', 'learning_rate': 0.05}",
    "data.augment": "randaugment", "data.magnitude": "9",
}  # fmt: skip
DEVICE = {"data.augment_on": "device"}


def digits(changes=()):
    return load_experiment(DIGITS, {**TINY, **dict(changes)})


def batch_of(experiment, step=0):
    """What data workers make for a step."""
    pipeline = experiment.found.create_pipeline(experiment, "train", train=True)
    batch = global_batch(
        pipeline,
        batch_size=experiment.train.batch_size,
        seed=experiment.train.seed,
        step=step,
        loading=experiment.data.loading,
    )
    return {name: value for name, value in batch.items() if name != "mask"}


def seen(experiment, batch):
    task = experiment.found.create_task(experiment, jnp.dtype("float32"))
    return jax.jit(task.augmented)(batch)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data.num_ops": "3", "data.out_of_range": "saturate", "data.channels": "3", "data.flip": "True"},
        {"data.augment": "autoaugment", "data.cutout": "0.5"},
        {"data.augment": "'none'", "data.cutout": "0.5"},
    ],
    ids=["RandAugment", "three operations in colour", "AutoAugment and cutout", "cutout alone"],
)
def test_the_device_does_what_the_host_would_have_done(changes):
    host, device = digits(changes), digits({**changes, **DEVICE})
    for step in (0, 7):
        wanted, drawn = batch_of(host, step), batch_of(device, step)
        assert sorted(wanted) == ["image", "label"]
        spec = device.found.create_task(device, jnp.dtype("float32")).batch_spec(16)
        assert {name: (a.shape, a.dtype) for name, a in drawn.items()} == {
            name: (s.shape, s.dtype) for name, s in spec.items()
        }
        np.testing.assert_array_equal(drawn["label"], wanted["label"])
        differences = np.abs(np.asarray(seen(device, drawn)).astype(int) - wanted["image"])
        assert differences.max() <= 1
        changed = (drawn["image"] != wanted["image"]).any(axis=(1, 2, 3))
        assert changed.mean() > 0.5, "there was nothing to do"


def test_normalisation_and_mixup_come_after():
    """A blend of augmented pixels: the host's, where mixup draws the same."""
    mixup = {"task.mixup_alpha": "0.8"}
    pixels = []
    for experiment in (digits(mixup), digits({**mixup, **DEVICE})):
        task = experiment.found.create_task(experiment, jnp.dtype("float32"))
        pixels.append(jax.jit(task.mixed)(batch_of(experiment), jax.random.key(3))[0])
    level = 1 / np.min(digits().data.std)
    np.testing.assert_allclose(*pixels, atol=1.01 * level)
    assert len(np.unique(np.asarray(pixels[1]))) > 256


def test_eight_devices_see_what_one_does():
    experiment = digits(DEVICE)
    batch, mesh = batch_of(experiment), create_mesh(digits({"mesh.data": "8"}).mesh)
    with jax.set_mesh(mesh):
        spread = put_batch(batch, mesh, 16)
        assert len(spread["augment_op"].sharding.device_set) == 8
        found = seen(experiment, spread)
    np.testing.assert_array_equal(found, seen(experiment, batch))


def losses(folder):
    return [line["loss"] for line in read_metrics(folder) if line["split"] == "train"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device") / "run"
    train(digits(DEVICE), folder)
    return folder


def test_a_run_learns_as_with_the_host_on_any_mesh(unbroken, tmp_path):
    train(digits(), tmp_path / "host")
    train(digits({**DEVICE, "mesh.data": "4", "mesh.fsdp": "2"}), tmp_path / "mesh")
    np.testing.assert_allclose(losses(tmp_path / "mesh"), losses(unbroken), rtol=1e-5)
    np.testing.assert_allclose(losses(tmp_path / "host"), losses(unbroken), rtol=0.01)
    train(digits({"data.augment": "'none'"}), tmp_path / "none")
    assert not np.allclose(losses(tmp_path / "none"), losses(unbroken), rtol=0.01)


def test_a_resumed_run_is_the_unbroken_one(unbroken, tmp_path):
    with pytest.raises(Preempted):
        train(digits(DEVICE), tmp_path / "run", stop_at=2)
    train(digits(DEVICE), tmp_path / "run")
    assert not diff(tmp_path / "run", unbroken, step=4)
    assert losses(tmp_path / "run") == losses(unbroken)


def test_nothing_is_done_to_images_at_evaluation(unbroken):
    experiment = read_experiment(unbroken)
    pipeline = experiment.found.create_pipeline(experiment, "test", train=False)
    plain = digits({"data.augment": "'none'"})
    other = plain.found.create_pipeline(plain, "test", train=False)
    rng = np.random.default_rng(0)
    found, wanted = (p.transform(p.source[5], rng) for p in (pipeline, other))
    assert sorted(found) == ["image", "label"]
    np.testing.assert_array_equal(found["image"], wanted["image"])
    assert experiment.found.create_task(experiment, jnp.dtype("float32")).inputs == ("image",)
    _, scores = evaluate(experiment, unbroken)
    _, same = evaluate(read_experiment(unbroken, {"data.augment_on": "host"}), unbroken)
    assert scores == same


def test_pictures_show_what_the_step_does():
    device, host = (seen_images(digits(changes), step=2) for changes in (DEVICE, {}))
    assert np.abs(device - host).max() <= 1.01 / 255


def test_the_benchmark_measures_the_step_with_it():
    figures = benchmark.measure(digits(DEVICE), repeats=1)
    without = benchmark.measure(digits(), repeats=1)
    assert figures["peak_bytes_per_device"] > without["peak_bytes_per_device"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.augment": "'none'"}, "config.data.augment_on: the device would have nothing to do"),
        ({"data.num_ops": "0"}, "config.data.augment_on: the device would have nothing to do"),
        ({"data.cutout": "0.5", "data.cutout_fill": "noise"}, "data.cutout_fill=noise is for the host"),
        ({"data.augment_on": "gpu"}, "config.data.augment_on: invalid enum value 'gpu'"),
    ],
)
def test_what_the_device_cannot_do_is_refused(changes, message):
    with pytest.raises(UserError, match=message) as error:
        digits({**DEVICE, **changes})
    assert "\n" not in str(error.value)
