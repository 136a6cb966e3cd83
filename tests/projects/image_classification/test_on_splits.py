"""Whole splits: several labels an image, the worst mistakes, and the gap between training and test."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from offsites_jax.cli.main import main
from offsites_jax.data.source import write_array_record
from offsites_jax.projects.image_classification import conversion, data, inference, report, runs
from offsites_jax.train.config import load_experiment
from offsites_jax.train.loop import train
from offsites_jax.train.writers import read_metrics

DIGITS = str(pathlib.Path(__file__).parents[3] / "experiments" / "image_classification" / "digits.py")
SMALL = {
    "mesh.data": "1", "mesh.fsdp": "1", "mesh.cpu_devices": "8", "stages": "[]", "train.batch_size": "16",
    "train.eval_every": "0", "train.log_every": "1", "train.checkpoint_every": "2", "data.image_size": "8",
    "evaluators.test.batch_size": "360", "model.overrides.head_width": "8",
    "model.overrides.blocks": "['r1_k3_s1_e1_i8_o8_c1']", "model.overrides.norm": "{'momentum': 0.9}",
    "optimizer": "{'name': 'sgd', 'learning_rate': 0.01}", "train.ema.decay": "0.0",
    "evaluators.test.pictures": "False",
}  # fmt: skip


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A few updates of a network with one block."""
    folder = tmp_path_factory.mktemp("run") / "first"
    train(load_experiment(DIGITS, {**SMALL, "train.steps": "4"}), folder)
    return folder


def run(*arguments):
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(["image_classification", *map(str, arguments)])
    return ended.value.code


LOG = [
    {"split": "train", "step": 1, "accuracy": 0.5},
    {"split": "train", "step": 2, "accuracy": 0.9},
    {"split": "fit", "step": 2, "accuracy": 0.875},
    {"split": "test", "step": 2, "accuracy": 0.75},
]


def test_the_gap_is_between_like_images_where_they_were_evaluated():
    assert runs.gaps(LOG, ("fit",)) == {"test": pytest.approx(0.125)}
    assert runs.is_plain(LOG, ("fit",))
    without = [line for line in LOG if line["split"] != "fit"]
    assert runs.gaps(without) == runs.gaps(without, ("fit",)) == {"test": pytest.approx(0.15)}
    assert not runs.is_plain(without, ("fit",))
    assert runs.gaps(without[2:]) == {}


def test_a_sample_of_the_training_split_is_evaluated_and_gives_the_gap(tmp_path):
    changes = {
        "data.splits.fit.split": "train", "data.splits.fit.sample": "100", "evaluators.fit.split": "fit",
        "evaluators.fit.pictures": "False", "train.steps": "2", "train.eval_every": "2",
        "data.splits.held.split": "test", "data.splits.held.sample": "7", "evaluators.held.split": "held",
        "evaluators.held.pictures": "False",
    }  # fmt: skip
    experiment = load_experiment(DIGITS, {**SMALL, **changes})
    assert runs.training_evaluators(experiment) == ("fit",)
    train(experiment, tmp_path)
    last = {line["split"]: line for line in read_metrics(tmp_path)}
    assert [last[name]["images"] for name in ("fit", "held", "test")] == [100, 7, 360]
    model = inference.open_model(str(tmp_path))
    rows = [rows for _, rows in inference.split_rows(model, "train")]
    logits, labels = (np.concatenate([part[name] for part in rows]) for name in ("logits", "label"))
    chosen = np.arange(100) * 1437 // 100
    assert last["fit"]["accuracy"] == pytest.approx((logits.argmax(-1) == labels)[chosen].mean())
    run = runs.read_run(tmp_path, "test/accuracy")
    assert run.plain_gap
    assert run.gap == pytest.approx(last["fit"]["accuracy"] - last["test"]["accuracy"])
    text = report.report(tmp_path)
    assert "Training images (fit) and these were prepared and predicted alike." in text
    assert f"| test | {run.gap:.4g} |" in text


def test_worst_writes_pictures_and_a_table(workdir, tmp_path):
    words = ["worst", "--workdir", workdir, "--output", tmp_path, "--count", "5", "--step", "2"]
    assert run(*words, "--params", "raw") in (0, None)
    table = json.loads((tmp_path / "worst.json").read_text())
    model = inference.open_model(str(workdir), 2, "raw")
    rows = [rows for _, rows in inference.split_rows(model, "test")]
    logits, labels = (np.concatenate([part[name] for part in rows]) for name in ("logits", "label"))
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wrong = sorted((-shares[k].max(), k) for k in range(360) if logits[k].argmax() != labels[k])
    assert [int(row["record"].split()[1]) for row in table] == [k for _, k in wrong[:5]]
    for row, (negative, k) in zip(table, wrong, strict=False):
        assert row["labels"] == [{"index": labels[k], "name": str(labels[k])}]
        assert row["prediction"]["index"] == logits[k].argmax()
        assert row["confidence"] == pytest.approx(-negative, rel=1e-4)
    with Image.open(tmp_path / "worst.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 16  # digits have 17 levels of grey


def records(folder, model):
    """The test digits with other labels: of four the prediction is among them for three; two have none."""
    places, rows = next(iter(inference.split_rows(model, "test")))
    guess = rows["logits"].argmax(-1)
    source = data.create_pipeline(model.experiment, "test", train=False).source
    labels = [
        [guess[0], 11 - 1],
        [3, guess[1]],
        [(guess[2] + 1) % 10, (guess[2] + 2) % 10],
        [],
        [guess[4]],
        [],
    ]
    labels[0][1] = (guess[0] + 5) % 10
    write_array_record(
        folder / "several.array_record",
        (
            {"image": conversion.portable(source[int(place)], "", model.experiment.data, 10)["image"],
             "real_label": [int(label) for label in some], "id": str(place)}
            for place, some in zip(places, labels, strict=False)
        ),
    )  # fmt: skip
    return guess[:6], labels


REAL = {
    "evaluators.real.split": "real", "evaluators.real.batch_size": "4",
    "data.splits.real.source": "array_record",
    "data.splits.real.label_key": "real_label", "data.splits.real.max_labels": "4",
}  # fmt: skip


def test_real_labels_are_scored_by_the_eval_verb(workdir, tmp_path, capfd):
    """As ImageNet's ReaL labels: right is what is among an image's; images without any are left out."""
    guess, labels = records(tmp_path, inference.open_model(str(workdir)))
    changes = {**REAL, "data.splits.real.path": tmp_path / "several.array_record"}
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(workdir), "--json", *(f"--config.{key}={value}" for key, value in changes.items())])
    assert not ended.value.code
    scores = json.loads(capfd.readouterr().out)
    right = [said in some for said, some in zip(guess, labels, strict=True) if some]
    assert right == [True, True, False, True]
    assert (scores["real/accuracy"], scores["real/images"]) == (0.75, 4)
    assert scores["real/recall_at_5"] <= 1
    assert scores["test/images"] == 360


def test_worst_of_several_labels_leaves_out_what_has_none(workdir, tmp_path, capfd):
    guess, labels = records(tmp_path, inference.open_model(str(workdir)))
    shutil.copytree(workdir, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["splits"] = {
        "real": {"source": "array_record", "path": str(tmp_path / "several.array_record"),
                 "label_key": "real_label", "max_labels": 4}
    }  # fmt: skip
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    words = ["worst", "--workdir", tmp_path / "run", "--output", tmp_path / "worst", "--split"]
    assert run(*words, "real") in (0, None)
    (row,) = json.loads((tmp_path / "worst" / "worst.json").read_text())
    assert row["prediction"]["index"] == guess[2]
    assert [label["index"] for label in row["labels"]] == labels[2]
    assert row["record"].endswith("several.array_record, record 2")
