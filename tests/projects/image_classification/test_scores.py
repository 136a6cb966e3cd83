"""Figures against scikit-learn, and by hand where it has none."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support

from offsites_jax.projects.image_classification import scores
from offsites_jax.projects.image_classification.average_precision import AveragePrecision, sortable


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


@pytest.mark.parametrize("digits", [6, 1])
def test_average_precision_equals_scikit_learn(digits):
    """One digit makes hundreds of ties, between labels and others, too."""
    logits, labels, truth = many_labels()
    logits = np.round(logits, digits)
    expected = average_precision_score(truth, logits, average="micro")
    assert many_scores((logits, labels))["average_precision"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("digits", [6, 1])
def test_average_precision_of_counts_is_within_its_bound(digits):
    """Scores around 300 are told apart by 24 bits to 1/128 at best, so that the bound has something to do."""
    logits, _, truth = many_labels(count=400)
    logits = np.round(logits, digits) / 4 + 300
    expected = average_precision_score(truth, logits, average="micro")
    found = AveragePrecision(most_kept=1000)
    for start in range(0, 400, 50):
        found.add(logits[start : start + 50], truth[start : start + 50].astype(bool))
    value, error = found.result()
    assert 1e-4 < error < 0.1
    assert abs(value - expected) <= error + 1e-12  # where all that shares a bin is tied, the bound is reached
    exact = AveragePrecision()
    exact.add(logits, truth.astype(bool))
    assert exact.result() == (pytest.approx(expected, abs=1e-12), 0.0)


def test_average_precision_of_counts_at_the_size_of_logits():
    """What a network gives is told apart well enough by the counts."""
    logits, _, truth = many_labels(count=400)
    found = AveragePrecision(most_kept=1)
    found.add(logits, truth.astype(bool))
    value, error = found.result()
    assert error < 1e-4
    assert abs(value - average_precision_score(truth, logits, average="micro")) <= error


def test_keys_are_in_the_order_of_the_scores():
    values = np.array([-np.inf, -3e38, -2, -1.0000001, -1e-40, 0, 1e-40, 1, 1.0000001, 7e37], np.float32)
    keys = sortable(values)
    assert (np.diff(keys.astype(np.int64)) > 0).all()
    assert sortable(np.float32([-0.0])) == sortable(np.float32([0.0]))


def test_without_a_label_there_is_no_precision():
    assert AveragePrecision().result() == (0.0, 0.0)


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


def test_a_row_that_is_not_finite_is_wrong_and_in_no_column():
    """Also where its label is class 0, and one where every logit but the label's is NaN."""
    logits, labels = drawn(count=6)
    labels[:] = [0, 0, 1, 2, 3, 0]
    logits[0, 3] = np.nan
    logits[5] = np.where(np.arange(8) == 0, 1, np.nan)
    rows, good = scores.rows_of(logits, labels), scores.rows_of(logits[1:5], labels[1:5])
    assert rows.prediction[[0, 5]].tolist() == [-1, -1]
    found, of_good = scores.scores(rows), scores.scores(good)
    assert found["non_finite"] == 2
    assert found["accuracy"] == pytest.approx(of_good["accuracy"] * 4 / 6)
    for name in ("cross_entropy", "calibration_error"):
        assert found[name] == pytest.approx(of_good[name])
    matrix = scores.confusion(rows, 8)
    np.testing.assert_array_equal(
        matrix, confusion_matrix(labels[1:5], logits[1:5].argmax(-1), labels=range(8))
    )
    table = scores.per_class(rows, 8)
    assert [row["predicted"] for row in table] == np.bincount(logits[1:5].argmax(-1), minlength=8).tolist()
    assert [row["images"] for row in table[:4]] == [3, 1, 1, 1]
    assert table[0]["right"] == matrix[0, 0]


def test_where_no_row_is_finite_entropy_and_calibration_are_not_numbers():
    found = scores.scores(scores.rows_of(np.full((3, 4), np.nan, np.float32), np.zeros(3, int)))
    assert (found["accuracy"], found["non_finite"]) == (0, 3)
    assert np.isnan([found["cross_entropy"], found["calibration_error"]]).all()


def test_probabilities_are_softmax_or_sigmoids():
    logits = np.array([[0.0, 1.0, -200.0], [90.0, 91.0, 800.0]])
    np.testing.assert_allclose(scores.probabilities(logits, sigmoid=False), softmax(logits, axis=-1))
    np.testing.assert_allclose(scores.probabilities(logits, sigmoid=True), expit(logits), atol=1e-15)


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
