"""Trainings compared by uniformity, and features in a plane beside those of made-up defects."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import distance
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.color import Jitter
from offsites_jax.projects.one_class.jobs import embedding, uniformity
from offsites_jax.projects.one_class.measures.uniformity import uniform_kernel_mean
from offsites_jax.projects.one_class.report.embedding import groups_of, made_up
from offsites_jax.projects.one_class.second_stage.fit import open_model
from offsites_jax.projects.one_class.views.cutpaste import Scar
from offsites_jax.projects.one_class.views.pretexts import PretextConfig
from offsites_jax.train.config import resolve
from offsites_jax.train.loop import train

SMALL_SCAR = {"width": (1, 2), "length": (2, 4)}


def make_experiment(batch_size, **pretext):
    return resolve(
        {
            "project": "one_class",
            "model": {"name": "resnet_10", "width": 0.0625, "head": [8], "overrides": {"depths": [1]}},
            "task": {"pretext": {"scar": SMALL_SCAR, **pretext}},
            "data": {"source": "digits", "category": "0", "image_size": 8},
            "optimizer": {"name": "momentum", "learning_rate": 0.02},
            "train": {"steps": 1, "batch_size": batch_size},
            "mesh": {"data": 1},
        }
    )


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    train(make_experiment(8, name="rotation"), root / "rotation")
    train(make_experiment(4, name="contrastive", union="rot"), root / "augmented")
    return {name: str(root / name) for name in ("rotation", "augmented")}


def pooled(workdir):
    """Features of the zeros in the even rows, by the network and nothing else of the project."""
    data = load_digits()
    zeros = np.round(data.images[::2][data.target[::2] == 0] * (255 / 16)).astype(np.uint8)
    images = np.repeat(zeros[..., None], 3, axis=-1)
    return np.asarray(open_model(workdir).predict({"image": images})["pooled"])


def test_uniformity_of_trainings_is_a_table_and_a_picture(trainings, tmp_path, capsys):
    uniformity(tuple(trainings.values()), str(tmp_path))
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with open(tmp_path / "uniformity.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["batch_size"]) for row in rows] == [
        ("rotation", "8"),
        ("contrastive with rot", "4"),
    ]
    for row, line, workdir in zip(rows, printed, trainings.values(), strict=True):
        features = pooled(workdir)
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        kernel = np.exp(-2 * distance.cdist(unit, unit, "sqeuclidean"))
        expected = np.sqrt(kernel.mean() - uniform_kernel_mean(unit.shape[1]))
        assert float(row["mmd"]) == pytest.approx(expected, rel=1e-4)
        assert line["mmd"] == pytest.approx(float(row["mmd"]))
        assert int(row["samples"]) == len(features)
    with Image.open(tmp_path / "uniformity.png") as picture:
        assert np.asarray(picture.convert("L")).min() < 100


def test_trainings_that_only_folders_tell_apart_are_refused(trainings, tmp_path):
    with pytest.raises(UserError, match="another training has the same task, batch size and seed"):
        uniformity((trainings["rotation"],) * 2, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_made_up_defects_come_from_the_image_itself():
    """Without jitter a patch holds pixels of its image, in one rectangle, and nothing else is changed."""
    images = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)
    pretext = PretextConfig("rotation", colors=Jitter(), scar=Scar((2, 4), (6, 8)))
    found = made_up(images, pretext, seed=3)
    assert list(found) == ["CutPaste", "CutPaste-Scar"]
    for image, pasted, scarred in zip(images, found["CutPaste"], found["CutPaste-Scar"], strict=True):
        changed = (pasted != image).any(-1)
        top, left = (np.flatnonzero(changed.any(axis)).min() for axis in (1, 0))
        bottom, right = (np.flatnonzero(changed.any(axis)).max() + 1 for axis in (1, 0))
        assert changed[top:bottom, left:right].mean() > 0.9, "two places that happen to be equal"
        assert changed.mean() < 0.17
        known = {tuple(pixel) for pixel in image.reshape(-1, 3)}
        assert {tuple(pixel) for pixel in pasted.reshape(-1, 3)} <= known
        assert 0 < (scarred != image).any(-1).sum() <= 4 * 8 + 12, "a turned box, in whole pixels"
    again = made_up(images, pretext, seed=3)
    np.testing.assert_array_equal(again["CutPaste"], found["CutPaste"])
    assert (made_up(images, pretext, seed=4)["CutPaste"] != found["CutPaste"]).any()


def test_a_plane_of_all_kinds_of_images_with_figures(trainings, tmp_path, capsys):
    embedding(trainings["rotation"], str(tmp_path), perplexity=5, max_points=120)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = json.loads((tmp_path / "embedding.json").read_text())
    assert found == {"perplexity": 5, "groups": rows}
    targets = load_digits().target[1::2]
    zeros, others = int((targets == 0).sum()), int((targets != 0).sum())
    counts = {"normal": zeros, "anomaly": others, "CutPaste": zeros, "CutPaste-Scar": zeros}
    assert {row["group"]: row["count"] for row in rows} == counts
    with open(tmp_path / "embedding.csv", newline="") as file:
        points = list(csv.DictReader(file))
    assert {point["group"] for point in points} == set(counts)
    assert abs(len(points) - 120) <= 2
    assert (tmp_path / "embedding.png").exists()
    groups = groups_of(open_model(trainings["rotation"]))
    unit = {
        name: features / np.linalg.norm(features, axis=1, keepdims=True)
        for name, features in {**groups, "train": pooled(trainings["rotation"])}.items()
    }
    model = LedoitWolf().fit(unit["train"])
    normal = model.mahalanobis(unit["normal"])
    for row in rows[1:]:
        scores = np.concatenate([normal, model.mahalanobis(unit[row["group"]])])
        labels = np.repeat([0, 1], [len(normal), row["count"]])
        assert row["auc"] == pytest.approx(100 * roc_auc_score(labels, scores), abs=0.1)
    assert "auc" not in rows[0]


def test_without_made_up_defects_only_labels_count(trainings):
    groups = groups_of(open_model(trainings["rotation"]), defects=False)
    assert list(groups) == ["normal", "anomaly"]
