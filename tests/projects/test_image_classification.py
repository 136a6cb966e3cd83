"""Scores against scikit-learn, the loss against numpy, the digits split, and files as input."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from offsites_jax.data.pipeline import eval_batches, global_batch
from offsites_jax.projects.image_classification import data, losses, mistakes, scores, sources
from offsites_jax.train.config import load_experiment
from offsites_jax.train.penalty import half_squared_norm

DIGITS = "experiments/image_classification/digits.py"


def logits_and_labels(count=200, classes=7):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(count) % classes)
    logits = rng.normal(size=(count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += 1
    return logits, labels


def test_scores_equal_scikit_learn_on_tie_free_input():
    logits, labels = logits_and_labels()
    rows = scores.rows_of(logits, labels)
    found = scores.scores(rows)
    exp = np.exp(logits.astype(np.float64))
    assert found["accuracy"] == top_k_accuracy_score(labels, logits, k=1)
    assert found["top5_accuracy"] == top_k_accuracy_score(labels, logits, k=5)
    np.testing.assert_allclose(
        found["cross_entropy"], log_loss(labels, exp / exp.sum(-1, keepdims=True)), rtol=1e-6
    )
    np.testing.assert_array_equal(scores.confusion(rows, 7), confusion_matrix(labels, logits.argmax(-1)))


def test_ties_count_for_the_label_and_non_finite_logits_never_do():
    logits = np.array([[1.0, 1.0, 0.0], [np.nan, 5.0, 0.0], [2.0, 1.0, 0.0]], np.float32)
    found = scores.scores(scores.rows_of(logits, np.array([1, 1, 1])))
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["top5_accuracy"] == pytest.approx(2 / 3)
    assert np.isfinite(found["cross_entropy"])


def test_worst_mistakes_are_the_most_confident_wrong_ones():
    logits = np.array([[3.0, 0.0], [0.0, 1.0], [5.0, 0.0], [0.0, 9.0]], np.float32)
    labels = np.array([1, 0, 1, 1])
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    batch = {"logits": logits, "label": labels, "image": images}
    found = mistakes.worst_mistakes(batch, np.arange(4), most=2)
    assert found.images.ravel().tolist() == found.places.tolist() == [2, 0]
    assert found.predictions.tolist() == [0, 0]
    assert found.confidences[0] > found.confidences[1]


def test_cross_entropy_spreads_the_smoothing_over_all_classes():
    logits, labels = logits_and_labels(classes=5)
    targets = 0.9 * np.eye(5)[labels] + 0.1 / 5
    log_softmax = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    expected = -(targets * log_softmax).sum(-1)
    found = losses.softmax(jnp.asarray(logits), losses.targets_of(jnp.asarray(labels), 5), 0.1)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_l2_leaves_out_what_its_pattern_names():
    params = {"conv": {"kernel": jnp.full((2, 2), 3.0)}, "norm": {"scale": jnp.ones(4), "bias": jnp.ones(4)}}
    assert float(half_squared_norm(params, exclude="(bias|scale)$")) == 18.0


def test_digits_are_split_once_and_for_all_by_class():
    train, test = sources.digits("train"), sources.digits("test")
    assert (len(train), len(test)) == (1437, 360)
    counts = collections.Counter(int(test[i]["label"]) for i in range(360))
    assert set(counts.values()) == {35, 36, 37}
    seen = collections.Counter(train[i]["image"].tobytes() for i in range(len(train)))
    shared = sum(seen[test[i]["image"].tobytes()] > 0 for i in range(len(test)))
    assert shared == 0, "no test image is in the training split"


def test_augmentation_is_seeded_and_changes_between_epochs():
    experiment = load_experiment(DIGITS)
    pipeline = data.create_pipeline(experiment, "train", train=True)
    batches = [global_batch(pipeline, batch_size=1437, seed=0, step=step) for step in (0, 0, 1)]
    np.testing.assert_array_equal(batches[0]["image"], batches[1]["image"])
    assert sorted(batches[0]["label"]) == sorted(batches[2]["label"]), "an epoch holds every digit once"
    assert batches[0]["image"].shape == (1437, 16, 16, 1)
    assert not np.array_equal(batches[0]["image"], batches[2]["image"])


@pytest.mark.parametrize(("mode", "name"), [("L", "grey.png"), ("RGB", "colour.jpg"), ("RGBA", "clear.png")])
def test_predict_reads_any_image_file_at_evaluation_size(tmp_path, mode, name):
    Image.new(mode, (40, 30), 128 if mode == "L" else (200, 100, 50, 255)[: len(mode)]).save(tmp_path / name)
    experiment = load_experiment(DIGITS).at_stage(1)
    pipeline = data.create_input_pipeline(experiment, [str(tmp_path)])
    (batch,) = eval_batches(pipeline, batch_size=2, shard=(0, 1), loading=experiment.data.loading)
    assert batch["image"].shape == (2, 32, 32, 1)
    luma = 128 if mode == "L" else round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    centre = int(batch["image"][0, 16, 16, 0])
    assert abs(centre - luma) <= 2
    assert batch["mask"].tolist() == [1.0, 0.0]


def test_stages_share_their_parameters_and_differ_in_size():
    experiment = load_experiment(DIGITS)
    tasks = [
        experiment.at_stage(i).found.create_task(experiment.at_stage(i), jnp.dtype("float32")) for i in (0, 1)
    ]
    specs = [t.batch_spec(8) for t in tasks]
    assert [spec["image"].shape[1] for spec in specs] == [16, 32]
    trees = [
        jax.eval_shape(
            lambda key, t=t, s=s: t.init(key, {k: jnp.zeros(v.shape, v.dtype) for k, v in s.items()}),
            jax.random.key(0),
        )
        for t, s in zip(tasks, specs, strict=True)
    ]
    assert jax.tree.map(lambda x: x.shape, trees[0]["params"]) == jax.tree.map(
        lambda x: x.shape, trees[1]["params"]
    )
