"""A whole run with everything at once: several labels, RandAugment, mixup, growing images."""

import numpy as np
import pytest
from PIL import Image

from offsites_jax.train.config import resolve
from offsites_jax.train.loop import train
from offsites_jax.train.writers import read_metrics


@pytest.fixture
def table(tmp_path):
    """Images of two halves, each dark or bright; class 0 is a bright left, class 1 a bright right."""
    rng, rows = np.random.default_rng(0), []
    for index in range(24):
        left, right = rng.permutation([1, index % 2])
        pixels = np.zeros((16, 16), np.uint8)
        pixels[:, :8], pixels[:, 8:] = 200 * left, 200 * right
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        labels = ";".join(str(k) for k, bright in enumerate((left, right)) if bright)
        rows.append(f"{index}.png,{labels}")
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text("\n".join(["path,labels", *rows]) + "\n")
    return tmp_path


def test_several_labels_train_through_stages_and_are_evaluated(table, tmp_path):
    raw = {
        "project": "image_classification",
        "model": {
            "name": "efficientnet_v2_b0",
            "num_classes": 2,
            "overrides": {
                "blocks": ["r1_k3_s1_e1_i8_o8_c1"], "head_width": 8, "stochastic_depth_rate": 0.0,
                "dropout_rate": 0.0,
            },
        },
        "task": {"loss": "sigmoid", "label_smoothing": 1e-4},
        "data": {
            "source": "table", "path": str(table), "max_labels": 2, "channels": 1, "eval_size": 16,
            "eval_crop": "whole", "augment": "randaugment", "flip": False,
        },
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "train": {"steps": 4, "batch_size": 8, "log_every": 1},
        "stages": [
            {"name": "a", "until": 2, "data": {"image_size": 8, "magnitude": 2}},
            {"name": "b", "data": {"image_size": 16, "magnitude": 9}, "task": {"mixup_alpha": 0.4}},
        ],
        "mesh": {"data": 1, "cpu_devices": 8},
        "evaluators": {"val": {"split": "val"}},
    }  # fmt: skip
    result = train(resolve(raw), tmp_path / "run")
    labels = [line.split(",")[1].split(";") for line in (table / "val.csv").read_text().split()[1:]]
    assert result.scores["val/images"] == 24
    assert result.scores["val/non_finite"] == 0
    # Of two classes the top five are both, so that recall is 1 and precision counts the labels.
    assert result.scores["val/recall_at_5"] == 1
    assert result.scores["val/precision_at_5"] == pytest.approx(sum(map(len, labels)) / (5 * 24))
    assert 0 < result.scores["val/average_precision"] <= 1
    lines = [line for line in read_metrics(tmp_path / "run") if line["split"] == "train"]
    assert len(lines) == 4
    assert all(np.isfinite(line["loss"]) for line in lines)
