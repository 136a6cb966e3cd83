"""Heat maps of a split against its masks: figures, files and page, from a training on windows."""

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.jobs import localize
from offsites_jax.train.config import resolve
from offsites_jax.train.loop import train

SIDE = 24
HOLE = slice(8, 14)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("plates"), np.random.default_rng(0)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[HOLE, HOLE] = 255
    for kind, count in {"train/good": 6, "test/good": 2, "test/hole": 2}.items():
        (root / "data" / kind).mkdir(parents=True)
        for number in range(count):
            pixels = rng.normal(120, 10, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
            if kind == "test/hole":
                pixels[mask > 0] = 0
            Image.fromarray(pixels).save(root / "data" / kind / f"{number}.png")
    (root / "data/ground_truth/hole").mkdir(parents=True)
    for number in range(2):
        Image.fromarray(mask).save(root / f"data/ground_truth/hole/{number}.png")
    experiment = {
        "project": "one_class",
        "model": {"name": "resnet_10", "width": 0.0625, "head": [8], "overrides": {"depths": [1]}},
        "task": {"pretext": {"name": "cutout_grey", "window": 8}},
        "data": {"source": "folder", "path": str(root / "data"), "image_size": SIDE},
        "optimizer": {"name": "momentum", "learning_rate": 0.02},
        "train": {"steps": 1, "batch_size": 4},
        "mesh": {"data": 1},
    }
    train(resolve(experiment), root / "run")
    return str(root / "run")


def test_pixel_figures_are_those_of_the_maps_that_are_written(workdir, tmp_path, capsys):
    localize(workdir, str(tmp_path))
    heat_line, cam_line = capsys.readouterr().out.splitlines()
    maps = [np.load(tmp_path / f"heatmaps/{number:04d}.npy") for number in range(4)]
    assert [heat.shape for heat in maps] == [(SIDE, SIDE)] * 4
    masks = np.zeros((4, SIDE, SIDE), bool)
    masks[2:, HOLE, HOLE] = True
    expected = 100 * roc_auc_score(masks.reshape(-1), np.stack(maps).reshape(-1))
    words = heat_line.split()
    assert heat_line.startswith("pixel AUC of heat maps")
    assert float(words[5]) == pytest.approx(expected, abs=1e-3)
    assert expected > 80, "a black hole in grey noise shows even to an untrained network"
    assert f"{SIDE} x {SIDE} pixels, 4 images" in heat_line
    assert cam_line.startswith("pixel AUC of GradCAM")
    page = (tmp_path / "report.html").read_text()
    assert all(text in page for text in ("GradCAM", "heat map", "ROC"))


def test_a_split_without_masks_is_refused(workdir, tmp_path):
    with pytest.raises(UserError, match="split 'train' has no masks"):
        localize(workdir, str(tmp_path), split="train")
