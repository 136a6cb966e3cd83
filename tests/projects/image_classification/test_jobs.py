"""The commands on a small trained network: what they print and write, and how they fail."""

import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from offsites_jax.cli.main import main
from offsites_jax.data.source import ArrayRecordSource
from offsites_jax.parallel.mesh import create_mesh
from offsites_jax.projects.image_classification import benchmark, inference, report, runs
from offsites_jax.train.config import load_experiment
from offsites_jax.train.loop import TrainResult, train
from offsites_jax.train.program import create_program
from offsites_jax.train.warm_start import warm_start
from offsites_jax.train.workdir import open_workdir

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


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two images and a file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, grey in (("a.png", 10), ("c.png", 240)):
        Image.new("L", (12, 12), grey).save(folder / name)
    (folder / "b.png").write_bytes(b"no image")
    return folder


def run(*arguments):
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(["image_classification", *map(str, arguments)])
    return ended.value.code


def test_predict_names_the_classes_and_gives_a_row_to_a_bad_file(workdir, pictures, capfd):
    assert run("predict", pictures, "--workdir", workdir, "--top", "3") == 3
    said = capfd.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [pathlib.Path(row["path"]).name for row in rows] == ["a.png", "b.png", "c.png"]
    assert "not an image of a known format" in rows[1]["error"]
    assert "1 of 3 files could not be read" in said.err.splitlines()[-1]
    model = inference.open_model(str(workdir))
    for row in (rows[0], rows[2]):
        shares = [entry["probability"] for entry in row["top"]]
        assert shares == sorted(shares, reverse=True)
        assert [entry["name"] for entry in row["top"]] == [str(entry["class"]) for entry in row["top"]]
        assert (row["pixels"], row["step"]) == (8, model.step)


def test_predict_agrees_with_the_verb(workdir, pictures, capfd, tmp_path):
    good = [pictures / "a.png", pictures / "c.png"]
    assert run("predict", *good, "--workdir", workdir, "--output", tmp_path / "rows.jsonl") == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    capfd.readouterr()
    with pytest.raises(SystemExit):
        main(["predict", "--workdir", str(workdir), *map(str, good)])
    for row, line in zip(rows, capfd.readouterr().out.splitlines(), strict=True):
        logits = np.array(json.loads(line)["logits"])
        shares = np.exp(logits) / np.exp(logits).sum()
        assert row["top"][0]["class"] == logits.argmax()
        assert row["top"][0]["probability"] == pytest.approx(shares.max(), rel=1e-4)


def test_embed_gives_what_the_classifier_multiplies(workdir, pictures, tmp_path, capfd):
    assert run("embed", pictures, "--workdir", workdir, "--output", tmp_path / "features.npz") == 3
    assert "b.png" in capfd.readouterr().err
    with np.load(tmp_path / "features.npz") as found:
        features, paths = found["features"], found["paths"].tolist()
    assert [pathlib.Path(path).name for path in paths] == ["a.png", "c.png"]
    model = inference.open_model(str(workdir))
    head = jax.device_get(model.variables["params"]["classifier"])
    rows = list(inference.predictions(model, [str(pictures / "a.png")], top=1))
    logits = features[0] @ head["kernel"] + head["bias"]
    shares = np.exp(logits) / np.exp(logits).sum()
    assert rows[0]["top"][0]["probability"] == pytest.approx(shares.max(), rel=1e-4)


def test_finetune_takes_everything_but_the_head(workdir, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "offsites_jax.train.loop.train",
        lambda experiment, folder: asked.append((experiment, folder)) or TrainResult(None, {}, {}),
    )
    changes = [f"{key}={value}" for key, value in SMALL.items()]
    command = ["finetune", "--experiment", DIGITS, "--start-from", workdir, "--workdir", tmp_path / "tuned"]
    assert run(*command, "--overrides", *changes, "model.num_classes=7") in (0, None)
    ((experiment, folder),) = asked
    assert folder == str(tmp_path / "tuned")
    fresh = create_program(experiment, create_mesh(experiment.mesh)).initial_state().variables()
    started, done = warm_start(fresh, experiment.init_from)
    trained = jax.device_get(inference.open_model(str(workdir)).variables)
    assert sorted(done.fresh) == ["params/classifier/bias", "params/classifier/kernel"]
    for part in ("stem", "blocks_0", "head"):
        jax.tree.map(np.testing.assert_array_equal, started["params"][part], trained["params"][part])
    assert started["params"]["classifier"]["kernel"].shape == (8, 7)


def test_finetune_keeps_the_size_of_a_coatnets_biases(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "offsites_jax.train.loop.train",
        lambda experiment, folder: asked.append(experiment) or TrainResult(None, {}, {}),
    )
    file = str(pathlib.Path(DIGITS).with_name("digits_coatnet.py"))
    open_workdir(tmp_path / "small", load_experiment(file, {"data.image_size": "32"}))
    command = [
        "finetune",
        "--experiment",
        file,
        "--start-from",
        tmp_path / "small",
        "--workdir",
        tmp_path / "x",
    ]
    assert run(*command) in (0, None)
    assert asked[0].model.overrides["table_image_size"] == [32, 32]
    assert asked[0].data.image_size == 64


def test_report_holds_stages_scores_and_the_gap(workdir, tmp_path):
    text = report.report(workdir)
    assert "| all | 4 | 8 | none |" in text
    params = inference.open_model(str(workdir)).variables["params"]
    assert f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters, 4 steps" in text
    assert "accuracy in training minus here" in text
    assert "this repository; 360 images" in text
    lines = [
        {"split": "train", "step": 1, "accuracy": 0.5},
        {"split": "train", "step": 2, "accuracy": 0.9},
        {"split": "test", "step": 2, "accuracy": 0.75},
    ]
    assert runs.gaps(lines) == {"test": pytest.approx(0.15)}
    assert runs.gaps(lines[2:]) == {}


def test_hours_are_those_of_steps_and_waits_shared_by_32(workdir):
    lines = [
        {"split": "train", "step": step, "steps_per_second": 0.5, "data_wait": 0.25}
        for step in (900, 1800, 2700, 3600)
    ]
    assert report.hours(lines, 8) == pytest.approx({"hours": 2, "of which waiting": 0.5, "on 32": 0.5})
    assert report.hours(lines, 64)["on 32"] == pytest.approx(4)
    text = report.report(workdir)
    assert "| devices | hours | of which waiting | on 32 |" in text
    assert "| 1 x cpu | " in text


def test_benchmark_measures_and_writes_both_forms(tmp_path, capfd):
    changes = [f"{key}={value}" for key, value in SMALL.items()]
    command = ["benchmark", "--experiment", DIGITS, "--output", tmp_path, "--repeats", 4]
    assert run(*command, "--batch-size", "8", "--overrides", *changes, "train.steps=4") in (0, None)
    figures = json.loads((tmp_path / "benchmark.json").read_text())
    assert figures["batch_size"] == 8
    assert figures["train_images_per_second"] == pytest.approx(8e3 / figures["train_step_ms"])
    assert figures["latency_p50_ms"] <= figures["latency_p99_ms"]
    assert figures["peak_bytes_per_device"] > 0
    assert (tmp_path / "benchmark.md").read_text() == benchmark.render(figures) == capfd.readouterr().out


def test_convert_copies_a_folder_into_records(tmp_path):
    for index, name in enumerate(("ant", "bee", "bee")):
        (tmp_path / "train" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name / f"{index}.jpg").write_bytes(bytes([index]))
    file = tmp_path / "experiment.py"
    file.write_text(
        "def get_config():\n    return {'project': 'image_classification', 'train': {'steps': 1, "
        f"'batch_size': 1}}, 'data': {{'source': 'folder', 'path': {str(tmp_path)!r}}}}}\n"
    )
    output = tmp_path / "records"
    command = ["convert", "--experiment", file, "--split", "train", "--output", output, "--shards", "2"]
    assert run(*command) in (0, None)
    assert sorted(path.name for path in output.iterdir()) == [
        "train-00000-of-00002.array_record",
        "train-00001-of-00002.array_record",
    ]
    source = ArrayRecordSource(output / "train-*")
    assert [(source[i]["image"], source[i]["label"]) for i in range(3)] == [
        (b"\0", 0),
        (b"\1", 1),
        (b"\2", 1),
    ]


def test_worst_writes_pictures_and_a_table(workdir, tmp_path):
    assert run("worst", "--workdir", workdir, "--output", tmp_path, "--count", "5") in (0, None)
    table = json.loads((tmp_path / "worst.json").read_text())
    assert len(table) == 5
    confidences = [row["confidence"] for row in table]
    assert confidences == sorted(confidences, reverse=True)
    assert Image.open(tmp_path / "worst.png").size[0] > 0
