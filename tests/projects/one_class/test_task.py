"""The first stage inside the trainer: one step on any mesh, exact resume, and what the loss is made of."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from offsites_jax.data.pipeline import global_batch
from offsites_jax.errors import Preempted, UserError
from offsites_jax.parallel.mesh import MeshSettings, create_mesh, put_batch
from offsites_jax.projects.one_class.views.pretexts import make_rows, row_losses
from offsites_jax.train.config import resolve
from offsites_jax.train.loop import train
from offsites_jax.train.program import create_program
from offsites_jax.train.restore import restore

RAW = {
    "project": "one_class",
    "model": {"name": "resnet_10", "width": 0.0625, "head": [8, 6], "overrides": {"depths": [1]}},
    "task": {
        "pretext": {"name": "contrastive", "union": "rot", "augmentation": {"min_crop": 0.5, "flip": True}},
        "l2": 3e-4,
    },
    "data": {"source": "digits", "category": "3", "image_size": 16, "copies": 4},
    "optimizer": {"name": "momentum", "learning_rate": 0.05},
    "train": {"steps": 4, "batch_size": 16, "log_every": 1, "checkpoint_every": 2},
    "mesh": {"data": 1, "cpu_devices": 8},
}


def changed(**sections):
    raw = copy.deepcopy(RAW)
    for name, values in sections.items():
        raw[name] = {**raw.get(name, {}), **values}
    return raw


def one_step(raw, devices):
    """Parameters and metrics after the first step on so many devices."""
    experiment = resolve({**raw, "mesh": {"data": devices, "cpu_devices": 8}})
    mesh = create_mesh(MeshSettings(data=devices, cpu_devices=8))
    program = create_program(experiment, mesh)
    pipeline = experiment.found.create_pipeline(experiment, "train", train=True)
    batch = global_batch(pipeline, batch_size=16, seed=0, step=0)
    with jax.set_mesh(mesh):
        state, metrics = program.update()(program.initial_state(), put_batch(batch, mesh, 16))
    return jax.device_get(state.params), jax.device_get(metrics)


def test_a_contrastive_step_is_the_same_on_one_and_on_eight_devices():
    """Negatives come from the whole batch, wherever they are."""
    params, metrics = one_step(RAW, 1)
    others, other_metrics = one_step(RAW, 8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, others)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4), metrics, other_metrics)


def test_the_loss_is_that_of_the_rows_plus_half_the_squared_norm():
    experiment = resolve(RAW)
    task = experiment.found.create_task(experiment, jnp.dtype("float32"))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (4, 16, 16, 3), np.uint8),
        "copy": np.arange(4, dtype=np.int32),
    }
    variables = jax.jit(task.init)(jax.random.key(0), batch)
    params = variables.pop("params")
    key = jax.random.key(5)
    loss = jax.jit(task.loss)(params, variables, batch, key, 0)
    squares = sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in jax.tree.leaves(params))
    assert float(loss.terms["l2"].value) == pytest.approx(3e-4 * squares / 2, rel=1e-5)
    scales = [leaf for path, leaf in jax.tree.leaves_with_path(params) if "scale" in str(path)]
    assert squares > sum(leaf.size for leaf in scales) > 0, "batch norms, which start at 1, are in it"
    rows, labels = make_rows(jax.random.split(key)[0], batch["image"], task.config.pretext, batch["copy"])
    outputs, _ = task.model.apply({"params": params, **variables}, rows, train=True, mutable=["batch_stats"])
    expected = row_losses(outputs, labels, task.config.pretext).mean()
    assert float(loss.terms["contrastive"].value) == pytest.approx(float(expected), rel=1e-5)


def test_a_run_that_was_stopped_goes_on_bit_by_bit(tmp_path):
    raw = changed(
        task={"pretext": {"name": "cutpaste_3way", "scar": {"length": [4, 8], "width": [1, 2]}}},
        data={"copies": 1},
        evaluators={"test": {"split": "test", "batch_size": 128, "scorer": {"name": "knn"}, "table": True}},
    )
    whole = train(resolve(raw), tmp_path / "whole")
    with pytest.raises(Preempted):
        train(resolve(raw), tmp_path / "parts", stop_at=2)
    parts = train(resolve(raw), tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole.state.params, parts.state.params)
    assert whole.scores == parts.scores
    assert whole.scores["test/auc"] == pytest.approx(auc_of_cosines(tmp_path / "whole"), abs=1e-3)
    assert (whole.scores["test/normal"], whole.scores["test/anomalous"]) == (93, 805)


def auc_of_cosines(workdir):
    """AUC of 1 - the largest cosine, worked out from predictions."""
    model = restore(workdir)
    features, labels = {}, {}
    for split in ("train", "test"):
        pipeline = model.experiment.found.create_pipeline(model.experiment, split, train=False)
        examples = [pipeline.transform(pipeline.source[i], None) for i in range(len(pipeline.source))]
        images = np.stack([example["image"] for example in examples])
        found = np.asarray(model.predict({"image": images})["pooled"], np.float64)
        features[split] = found / np.linalg.norm(found, axis=1, keepdims=True)
        labels[split] = np.array([example["label"] for example in examples])
    scores = 1 - (features["test"] @ features["train"].T).max(axis=1)
    return 100 * roc_auc_score(labels["test"], scores)


def test_a_frozen_backbone_stays_and_its_head_learns():
    """Two optimizer sections make two groups; at rate 0 and with frozen statistics nothing moves."""
    rate = {"name": "momentum", "learning_rate": 0.1}
    raw = changed(
        task={"pretext": {"name": "rotation"}, "l2": 0.0}, data={"copies": 1}, model={"frozen_norm": True}
    )
    raw["optimizer"] = {"backbone": {**rate, "learning_rate": 0.0}, "head": rate}
    experiment = resolve(raw)
    program = create_program(experiment, create_mesh(experiment.mesh))
    before = jax.device_get(program.initial_state())
    params, _ = one_step(raw, 1)
    jax.tree.map(np.testing.assert_array_equal, before.params["backbone"], params["backbone"])
    assert not np.array_equal(before.params["head"]["dense_0"]["kernel"], params["head"]["dense_0"]["kernel"])


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"copies": 3}}, "config.data.copies: is 3, but union 'rot' has 4"),
        ({"model": {"head": []}}, "config.model.head: the contrastive task needs an embedding"),
        (
            {"task": {"pretext": {"window": 32}}, "data": {"copies": 1}},
            "config.task.pretext.window: is 32, images have 16 pixels",
        ),
    ],
)
def test_sections_that_do_not_fit_each_other(sections, message):
    experiment = resolve(changed(**sections))
    with pytest.raises(UserError, match=message):
        experiment.found.create_task(experiment, jnp.dtype("float32"))


def test_scorers_of_rotations_need_a_rotation_classifier():
    experiment = resolve(changed(evaluators={"test": {"scorer": {"name": "dscore"}}}))
    with pytest.raises(UserError, match="reads the logits of a rotation classifier"):
        experiment.found.create_evaluator(experiment, experiment.evaluators["test"])
