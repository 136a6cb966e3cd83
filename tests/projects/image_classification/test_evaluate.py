"""What an evaluation leaves: figures, tables and pictures, checked by what is in them."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification import confused, evaluate, mistakes, scores
from offsites_jax.projects.image_classification.figures import evaluation as pictures
from offsites_jax.train.writers import MetricsWriter


def drawn(count=300, classes=8, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    logits = rng.normal(size=(count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += 1
    return logits, labels


def batch_of(logits, labels, first=0):
    """Images of one grey level each, which tells them apart."""
    count = len(logits)
    image = np.broadcast_to(
        np.arange(first, first + count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 1)
    )
    return {"logits": logits, "label": labels, "image": image, "mask": np.ones(count, np.float32)}


def run(config, batches, folder, classes=8, names=None, predict=None):
    """An evaluation of batches that hold their own logits, padded rows masked."""
    with MetricsWriter(folder, tensorboard=False) as writer:
        evaluator = evaluate.Classification(config, classes, names)
        predict = predict or (lambda batch: {"logits": batch["logits"]})
        return evaluator.run(predict, iter(batches), writer.artifacts("test", 7))


def table(folder, name):
    return list(csv.DictReader((folder / "artifacts" / "test" / f"{name}_7.csv").open()))


def files(folder):
    return {file.name for file in (folder / "artifacts").rglob("*") if file.is_file()}


def test_an_evaluation_counts_every_image_once_and_writes_its_artifacts(tmp_path):
    logits, labels = drawn(count=20)
    batches = [batch_of(logits[:12], labels[:12]), batch_of(logits[8:], labels[8:], first=8)]
    batches[1]["mask"][:4] = 0  # the rows that the first batch had already
    names = tuple("abcdefgh")
    found = run(evaluate.EvaluatorConfig(bootstrap=100), batches, tmp_path, names=names)
    guess = logits.argmax(-1)
    assert found["images"] == 20
    assert found["accuracy"] == pytest.approx((guess == labels).mean())
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]
    assert files(tmp_path) == {"classes_7.csv", "confused_7.csv", "confusion_7.png", "mistakes_7.png"}
    rows = table(tmp_path, "classes")
    assert [row["name"] for row in rows] == list(names)
    assert [int(row["images"]) for row in rows] == np.bincount(labels, minlength=8).tolist()
    pairs = table(tmp_path, "confused")
    assert sum(int(row["images"]) for row in pairs) == (guess != labels).sum()
    matrix = confusion_matrix(labels, guess, labels=range(8))
    for row in pairs:
        true, said = int(row["label"]), int(row["prediction"])
        assert int(row["images"]) == matrix[true, said]
        assert float(row["share"]) == pytest.approx(matrix[true, said] / matrix[true].sum())
        assert (row["label_name"], row["prediction_name"]) == (names[true], names[said])
    assert [int(row["images"]) for row in pairs] == sorted(
        (int(row["images"]) for row in pairs), reverse=True
    )


def test_images_without_labels_are_left_out(tmp_path):
    logits, labels = drawn(count=10)
    labels[::2] = -1
    found = run(evaluate.EvaluatorConfig(pictures=False), [batch_of(logits, labels)], tmp_path)
    assert found["images"] == 5
    with pytest.raises(UserError, match="has no labels"):
        run(evaluate.EvaluatorConfig(), [batch_of(logits, np.full(10, -1))], tmp_path)


def test_images_stay_on_the_device_where_nothing_is_drawn(tmp_path):
    """An image that cannot be fetched would raise."""
    batch = batch_of(*drawn(count=4))
    del batch["image"]
    assert run(evaluate.EvaluatorConfig(pictures=False), [batch], tmp_path)["images"] == 4


def test_several_labels_have_their_mistakes_drawn(tmp_path, monkeypatch):
    seen = []
    draw = pictures.mistakes_figure
    monkeypatch.setattr(evaluate, "mistakes_figure", lambda *args: seen.append(args[0]) or draw(*args))
    logits = np.eye(8, dtype=np.float32)[[1, 2, 3, 4]] * np.float32([[1], [5], [3], [9]])
    labels = np.array([[1, 2], [3, -1], [0, 7], [-1, -1]])
    found = run(evaluate.EvaluatorConfig(), [batch_of(logits, labels)], tmp_path)
    assert (found["images"], found["accuracy"]) == (3, pytest.approx(1 / 3))
    (worst,) = seen
    assert worst.predictions.tolist() == [2, 3]
    assert worst.labels.tolist() == [[3, -1], [0, 7]]
    assert worst.images[:, 0, 0, 0].tolist() == worst.places.tolist() == [1, 2]
    assert files(tmp_path) == {"mistakes_7.png"}


def many_classes(count=4000, classes=1000, seed=0):
    """Four classes that are taken for each other, others that now and then are taken for anything."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    guess = labels.copy()
    off = rng.random(count) < 0.05
    guess[off] = rng.integers(classes, size=off.sum())
    labels[:40], guess[:30], guess[30:40] = 900, 17, 900
    labels[40:60], guess[40:60] = 17, 900
    labels[60:70], guess[60:70] = 5, 999
    logits = np.zeros((count, classes), np.float32)
    logits[np.arange(count), guess] = 3
    return logits, labels, guess


def test_of_many_classes_the_confused_part_is_drawn(tmp_path, monkeypatch):
    asked = []
    draw = pictures.confusion_figure
    monkeypatch.setattr(evaluate, "confusion_figure", lambda *args: asked.append(args) or draw(*args))
    logits, labels, guess = many_classes()
    names = tuple(f"class {k}" for k in range(1000))
    run(evaluate.EvaluatorConfig(), [batch_of(logits, labels)], tmp_path, classes=1000, names=names)
    first = table(tmp_path, "confused")[0]
    assert (first["label"], first["prediction"]) == ("900", "17")
    assert int(first["images"]) == 30 + ((labels[70:] == 900) & (guess[70:] == 17)).sum()
    ((counts, shown, images, title),) = asked
    assert shown[:4] == ["class 900", "class 17", "class 5", "class 999"]
    chosen = [int(name.split()[1]) for name in shown]
    assert len(chosen) <= pictures.MOST_NAMED
    np.testing.assert_array_equal(
        counts, confusion_matrix(labels, guess, labels=range(1000))[np.ix_(chosen, chosen)]
    )
    np.testing.assert_array_equal(images, np.bincount(labels, minlength=1000)[chosen])
    assert "of 1,000 classes" in title


def test_pairs_take_no_memory_by_classes_squared():
    """21,843 classes, as ImageNet-21k: a matrix would have 477 million entries."""
    rows = scores.rows_of(np.eye(3, dtype=np.float32)[[0, 1, 1]], np.array([1, 0, 1]))
    large = confused.confused_pairs(
        scores.Rows(**{**vars(rows), "label": rows.label + 21_000, "prediction": rows.prediction + 21_000}),
        21_843,
    )
    assert list(zip(large.label, large.prediction, large.images, strict=True)) == [
        (21_000, 21_001, 1),
        (21_001, 21_000, 1),
    ]


def test_classes_of_pairs_end_before_there_are_too_many():
    pairs = confused.Pairs(np.array([4, 1, 2, 0]), np.array([7, 4, 3, 1]), np.array([9, 8, 7, 6]))
    assert confused.classes_of_pairs(pairs, 4).tolist() == [4, 7, 1]
    assert confused.classes_of_pairs(pairs, 30).tolist() == [4, 7, 1, 2, 3, 0]


def test_the_matrix_is_drawn_by_shares_with_counts_and_names():
    counts = np.array([[6, 2, 0], [0, 5, 0], [1, 1, 2]])
    (axes,) = pictures.confusion_figure(counts, ("ant", "bee", "a very long name indeed")).axes
    np.testing.assert_allclose(axes.images[0].get_array(), counts / np.array([[8], [5], [4]]))
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "6", (1, 0): "2", (1, 1): "5", (0, 2): "1", (1, 2): "1", (2, 2): "2"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ant", "bee", "a very long name …"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ant", "bee", "a very long name …"]
    assert axes.get_title() == "13 of 17 right"
    (part,) = pictures.confusion_figure(counts, None, np.array([10, 5, 8]), "some").axes
    np.testing.assert_allclose(part.images[0].get_array(), counts / np.array([[10], [5], [8]]))
    assert part.get_title() == "some"
    (many,) = pictures.confusion_figure(np.eye(31, dtype=int)).axes
    assert not many.texts


def test_the_contact_sheet_shows_each_mistake_with_its_names():
    logits, labels = drawn(count=30)
    found = mistakes.worst_mistakes(batch_of(logits, labels), np.arange(30), 7)
    figure = pictures.mistakes_figure(found, tuple("abcdefgh"))
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 7
    for axes, image, label, guess, sure in zip(
        shown, found.images, found.labels[:, 0], found.predictions, found.confidences, strict=True
    ):
        np.testing.assert_array_equal(axes.images[0].get_array(), image[..., 0])
        assert axes.get_title() == f"true {'abcdefgh'[label]}\nsaid {'abcdefgh'[guess]}\n{sure:.0%} sure"
    (empty, *_) = pictures.mistakes_figure(mistakes.worst_mistakes(batch_of(*drawn(0)), np.arange(0), 3)).axes
    assert [text.get_text() for text in empty.texts] == ["no mistakes"]


@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_worst_are_the_most_confident_of_all_batches(sigmoid):
    logits, labels = drawn(count=60)
    labels[3], logits[5, 1] = -1, np.nan
    found = None
    for start in range(0, 60, 25):
        rows = slice(start, start + 25)
        batch = batch_of(logits[rows], labels[rows], first=start)
        places = np.arange(60)[rows]
        found = mistakes.worst_mistakes(batch, places, 6, sigmoid=sigmoid, before=found)
    shares = 1 / (1 + np.exp(-logits)) if sigmoid else np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [
        (shares[row].max(), row)
        for row in range(60)
        if row not in (3, 5) and logits[row].argmax() != labels[row]
    ]
    expected = sorted(expected, reverse=True)[:6]
    assert found.places.tolist() == [row for _, row in expected]
    np.testing.assert_allclose(found.confidences, [share for share, _ in expected], rtol=1e-5)
    np.testing.assert_array_equal(found.images[:, 0, 0, 0], found.places)


def test_a_row_that_is_not_finite_is_in_no_column_and_is_counted(tmp_path, caplog, monkeypatch):
    asked = []
    draw = pictures.confusion_figure
    monkeypatch.setattr(
        evaluate, "confusion_figure", lambda *args, **more: asked.append((args, more)) or draw(*args, **more)
    )
    logits, labels = drawn(count=12)
    logits[4] = np.nan
    labels[4] = 0
    found = run(evaluate.EvaluatorConfig(), [batch_of(logits, labels)], tmp_path)
    assert found["non_finite"] == 1
    right = (logits.argmax(-1) == labels) & (np.arange(12) != 4)
    assert found["accuracy"] == pytest.approx(right.mean())
    assert sum(int(row["predicted"]) for row in table(tmp_path, "classes")) == 11
    assert "1 images have logits that are not finite" in caplog.text
    (((counts, _), more),) = asked
    assert (counts.sum(), np.trace(counts)) == (11, right.sum())
    assert more["title"] == f"{right.sum()} of 12 right; 1 not finite, in no column"
    with Image.open(tmp_path / "artifacts" / "test" / "confusion_7.png") as picture:
        assert picture.size[0] > 300
    assert json.dumps(found)
