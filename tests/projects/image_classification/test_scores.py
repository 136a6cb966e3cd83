"""Figures against scikit-learn, and by hand where it has none."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification import evaluate, scores
from offsites_jax.train.writers import MetricsWriter


def drawn(count=300, classes=8, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    logits = rng.normal(size=(count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += 1
    return logits, labels


def many_labels(count=200, classes=30, most=4, seed=0):
    """Logits, lists of labels filled up with -1, and the same as rows of zeros and ones."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((count, classes), int)
    labels = np.full((count, most), -1)
    for row in range(count):
        chosen = rng.choice(classes, size=rng.integers(1, most + 1), replace=False)
        truth[row, chosen] = 1
        labels[row, : len(chosen)] = chosen
    return (rng.normal(size=(count, classes)) + truth).astype(np.float32), labels, truth


def many_scores(*batches):
    found = scores.MultiLabelScores()
    for logits, labels in batches:
        found.add(logits, labels)
    return found.result()


def test_average_precision_equals_scikit_learn():
    logits, labels, truth = many_labels()
    # Scores of few bits are told apart exactly.
    coarse = np.round(logits * 64) / 64
    expected = average_precision_score(truth, coarse, average="micro")
    assert many_scores((coarse, labels))["average_precision"] == pytest.approx(expected, rel=1e-9)
    expected = average_precision_score(truth, logits, average="micro")
    assert many_scores((logits, labels))["average_precision"] == pytest.approx(expected, rel=1e-3)


def test_many_labels_add_up_over_batches():
    logits, labels, _ = many_labels()
    whole = many_scores((logits, labels))
    parts = many_scores((logits[:70], labels[:70]), (logits[70:], labels[70:]))
    assert parts == whole
    assert whole["images"] == 200


@pytest.mark.parametrize("k", [1, 5])
def test_precision_and_recall_at_k_equal_scikit_learn(k):
    logits, labels, truth = many_labels()
    said = np.zeros_like(truth)
    np.put_along_axis(said, np.argsort(-logits, axis=-1)[:, :k], 1, axis=-1)
    precision, recall, *_ = precision_recall_fscore_support(truth, said, average="micro")
    found = many_scores((logits, labels))
    assert found[f"precision_at_{k}"] == pytest.approx(precision)
    if k == 5:
        assert found["recall_at_5"] == pytest.approx(recall)


def test_a_real_label_is_right_when_it_is_among_those_of_the_image():
    logits = np.array([[0, 3, 1], [0, 3, 1], [5, 0, 0]], np.float32)
    found = many_scores((logits, np.array([[1, 2], [0, 2], [0, -1]])))
    assert found["accuracy"] == pytest.approx(2 / 3)


def test_rows_that_are_not_finite_are_wrong_and_counted():
    logits, labels, _ = many_labels(count=4)
    logits[1, 3] = np.nan
    logits[2] = np.where(np.arange(30) == labels[2, 0], np.inf, logits[2])
    good = many_scores((logits[[0, 3]], labels[[0, 3]]))
    found = many_scores((logits, labels))
    assert found["non_finite"] == 2
    assert found["precision_at_1"] == good["precision_at_1"] / 2
    rows = scores.rows_of(*drawn(count=3))
    single, labels = drawn(count=3)
    single[0, 0] = np.nan
    assert scores.scores(scores.rows_of(single, labels))["non_finite"] == 1
    assert len(rows) == 3


def test_calibration_error_by_hand():
    """Three bins: (0.1: wrong), (0.5, 0.6: one of two right), (1.0: right, the upper edge of the last)."""
    confidence, right = np.array([0.1, 0.5, 0.6, 1.0]), np.array([False, True, False, True])
    expected = (1 * abs(0 - 0.1) + 2 * abs(0.5 - 0.55) + 1 * abs(1 - 1.0)) / 4
    assert scores.calibration_error(confidence, right, bins=3) == pytest.approx(expected)


def test_confident_and_always_right_is_calibrated():
    logits = 50 * np.eye(4, dtype=np.float32)
    found = scores.scores(scores.rows_of(logits, np.arange(4)))
    assert found["calibration_error"] == pytest.approx(0, abs=1e-9)
    wrong = scores.scores(scores.rows_of(logits, np.roll(np.arange(4), 1)))
    assert wrong["calibration_error"] == pytest.approx(1)


def test_interval_covers_the_binomial_one():
    logits, labels = drawn(count=1000)
    rows = scores.rows_of(logits, labels)
    accuracy = scores.scores(rows)["accuracy"]
    low, high = scores.accuracy_interval(rows, 4000)
    spread = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 1000)
    assert low == pytest.approx(accuracy - spread, abs=4e-3)
    assert high == pytest.approx(accuracy + spread, abs=4e-3)


def test_accuracy_by_class_is_recall():
    logits, labels = drawn()
    table = scores.per_class(scores.rows_of(logits, labels), 8, tuple("abcdefgh"))
    _, recall, _, support = precision_recall_fscore_support(labels, logits.argmax(-1))
    np.testing.assert_allclose([row["accuracy"] for row in table], recall)
    assert [row["images"] for row in table] == support.tolist()
    assert [row["name"] for row in table] == list("abcdefgh")
    empty = scores.per_class(scores.rows_of(logits, labels), 9)[8]
    assert empty["accuracy"] is None


def run(config, batches, tmp_path, classes=8):
    """An evaluation of batches that hold their own logits, padded rows masked."""
    with MetricsWriter(tmp_path) as writer:
        evaluator = evaluate.Classification(config, classes)
        return evaluator.run(lambda b: {"logits": b["logits"]}, iter(batches), writer.artifacts("test", 7))


def batch_of(logits, labels, padding=0):
    count = len(logits)
    image = np.zeros((count, 4, 4, 1), np.uint8)
    mask = (np.arange(count) < count - padding).astype(np.float32)
    return {"logits": logits, "label": labels, "image": image, "mask": mask}


def test_an_evaluation_counts_every_image_once_and_writes_its_artifacts(tmp_path):
    logits, labels = drawn(count=20)
    batches = [batch_of(logits[:12], labels[:12]), batch_of(logits[8:], labels[8:])]
    batches[1]["mask"][:4] = 0  # the rows that the first batch had already
    found = run(evaluate.EvaluatorConfig(bootstrap=100), batches, tmp_path)
    assert found["images"] == 20
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean())
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]
    written = {file.name for file in (tmp_path / "artifacts").rglob("*") if file.is_file()}
    assert {"classes", "confusion", "mistakes"} <= {
        name.rpartition("_")[0] or name for name in written
    } or all(any(wanted in name for name in written) for wanted in ("classes", "confusion", "mistakes"))


def test_images_without_labels_are_left_out(tmp_path):
    logits, labels = drawn(count=10)
    labels[::2] = -1
    found = run(evaluate.EvaluatorConfig(pictures=False), [batch_of(logits, labels)], tmp_path)
    assert found["images"] == 5
    with pytest.raises(UserError, match="has no labels"):
        run(evaluate.EvaluatorConfig(), [batch_of(logits, np.full(10, -1))], tmp_path)
