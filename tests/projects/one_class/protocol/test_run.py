"""The protocol of an experiment: cells, floors, ensembles, windows, and going on where it stopped."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.jobs import protocol, rescore

FILE = """
def get_config():
    return {
        "project": "one_class",
        "model": {"name": "resnet_10", "width": 0.0625, "head": [8], "overrides": {"depths": [1]}},
        "task": {"pretext": {"name": "rotation"}},
        "data": {"source": "digits", "category": "0", "image_size": 8},
        "optimizer": {"name": "momentum", "learning_rate": 0.02},
        "train": {"steps": 2, "batch_size": 8},
        "mesh": {"data": 1, "cpu_devices": 8},
        "expected": {"6/auc": {"value": 98.0}, "mean/auc": {"value": 97.0}},
    }
"""


@pytest.fixture
def experiment(tmp_path):
    file = tmp_path / "tiny.py"
    file.write_text(FILE)
    return str(file)


def test_cells_tables_and_going_on(experiment, tmp_path, capsys):
    folder = tmp_path / "table"
    run = {"categories": ("6", "4"), "scorers": ("knn", "logit", "dscore"), "raw_pixels": True}
    protocol(experiment, str(folder), seeds=(0,), **run)
    first = json.loads((folder / "6/seed_0/cell.json").read_text())
    assert set(first["figures"]) == {"auc", "auc_logit", "auc_dscore", "raw_knn"}
    assert first["figures"]["raw_knn"] == pytest.approx(floor(6), abs=1e-3)
    protocol(experiment, str(folder), seeds=(0, 1), **run)
    assert json.loads((folder / "6/seed_0/cell.json").read_text()) == first, "it was not run again"
    rows = {(r["name"], r["metric"]): r for r in json.loads((folder / "table.json").read_text())["rows"]}
    assert rows["mean", "auc"]["published"] == 97.0
    assert rows["mean", "auc"]["seeds"] == 2
    assert rows["6", "raw_knn"]["std"] == 0
    scores = [np.load(folder / f"6/seed_{seed}/scores.npy") for seed in (0, 1)]
    joined = roc_auc_score(scores[0][1], scores[0][0] + scores[1][0])
    assert rows["6", "auc_ensemble"]["mean"] == pytest.approx(100 * joined)
    assert "| 6 |" in capsys.readouterr().out
    rescore(str(folder / "6/seed_0/run"), scorers=("knn",))
    again = json.loads(capsys.readouterr().out)
    assert again["auc"] == pytest.approx(first["figures"]["auc"])
    rescore(str(folder / "6/seed_0/run"), scorers=("knn",), layer="reduction_0")
    assert json.loads(capsys.readouterr().out)["auc"] == pytest.approx(first["figures"]["auc"])
    with pytest.raises(UserError, match=r"'reduction_5': this network has .* pooled, reduction_0"):
        rescore(str(folder / "6/seed_0/run"), scorers=("knn",), layer="reduction_5")
    with pytest.raises(UserError, match="other settings"):
        protocol(experiment, str(folder), seeds=(0,), **run, overrides=("train.steps=3",))


def floor(digit):
    """AUC of 1 - the largest cosine of raw pixels, worked out from scikit-learn's arrays."""
    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).reshape(len(data.images), -1)
    rows = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    normal, tested = rows[::2][data.target[::2] == digit], rows[1::2]
    return 100 * roc_auc_score(data.target[1::2] != digit, 1 - (tested @ normal.T).max(1))


def test_untrained_is_the_network_that_training_starts_with(experiment, tmp_path):
    """Started from another run, it has the figures that run ended with, whatever the seed."""
    protocol(experiment, str(tmp_path / "a"), categories=("6",), seeds=(0,), scorers=("knn", "logit"))
    ended = json.loads((tmp_path / "a/6/seed_0/cell.json").read_text())["figures"]
    goes_on = tmp_path / "goes_on.py"
    start = f'"init_from": {{"path": {str(tmp_path / "a/6/seed_0/run")!r}}}, "train"'
    goes_on.write_text(FILE.replace('"train"', start))
    run = {"categories": ("6",), "seeds": (1,), "scorers": ("knn", "logit"), "untrained": True}
    protocol(str(goes_on), str(tmp_path / "b"), **run)
    protocol(experiment, str(tmp_path / "fresh"), **run)
    begun, fresh = (
        json.loads((tmp_path / name / "6/seed_1/cell.json").read_text())["figures"] for name in ("b", "fresh")
    )
    assert set(begun) == {"auc", "auc_logit", "untrained_auc", "untrained_auc_logit"}
    assert begun["untrained_auc"] == pytest.approx(ended["auc"])
    assert begun["untrained_auc_logit"] == pytest.approx(ended["auc_logit"])
    assert fresh["untrained_auc"] != pytest.approx(ended["auc"])


def test_scorers_that_the_network_cannot_feed(experiment, tmp_path):
    with pytest.raises(UserError, match="name at least one scorer"):
        protocol(experiment, str(tmp_path / "a"), scorers=())
    overrides = ("task.pretext.name=cutout_grey",)
    with pytest.raises(UserError, match="reads the logits of a rotation classifier"):
        protocol(experiment, str(tmp_path / "b"), scorers=("logit",), overrides=overrides)


def test_a_network_of_windows_is_scored_by_windows(experiment, tmp_path):
    """With masks there is a pixel figure too; nothing is told of a data set without a list of its own."""
    rng = np.random.default_rng(0)
    for kind, count in {"train/good": 8, "test/good": 3, "test/hole": 3, "ground_truth/hole": 3}.items():
        (tmp_path / "data" / kind).mkdir(parents=True)
        for number in range(count):
            pixels = rng.normal(120, 10, (16, 16)).clip(0, 255)
            if kind == "test/hole":
                pixels[4:10, 4:10] = 0
            if kind == "ground_truth/hole":
                pixels = np.zeros((16, 16))
                pixels[4:10, 4:10] = 255
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / kind / f"{number}.png")
    overrides = (
        "data.source=folder",
        f"data.path={tmp_path / 'data'}",
        "data.image_size=16",
        "task.pretext.name=cutout_grey",
        "task.pretext.window=8",
    )
    with pytest.raises(UserError, match="has no categories of its own"):
        protocol(experiment, str(tmp_path / "t"), seeds=(0,), overrides=overrides)
    protocol(experiment, str(tmp_path / "t"), categories=("plates",), seeds=(0,), overrides=overrides)
    cell = json.loads((tmp_path / "t/plates/seed_0/cell.json").read_text())
    assert cell["figures"]["auc"] == 100
    assert cell["figures"]["pixel_auc"] > 70
