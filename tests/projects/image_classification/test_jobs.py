"""The commands on a small trained network: what they print and write, and how they fail."""

import dataclasses
import itertools
import json
import pathlib
import sys

import jax
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from offsites_jax.cli.main import main
from offsites_jax.parallel.mesh import create_mesh
from offsites_jax.projects.image_classification import benchmark, inference, report
from offsites_jax.projects.image_classification.commands import shared
from offsites_jax.train.config import load_experiment
from offsites_jax.train.loop import train
from offsites_jax.train.new_run import write_run
from offsites_jax.train.program import create_program
from offsites_jax.train.saved import restore_variables
from offsites_jax.train.workdir import read_experiment

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
    """Three images, one of them in a folder below, and a file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "deeper").mkdir()
    for name, grey in (("a.png", 10), ("c.png", 240), ("deeper/d.png", 100)):
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
    assert [pathlib.Path(row["path"]).name for row in rows] == ["a.png", "b.png", "c.png", "d.png"]
    assert "not an image of a known format" in rows[1]["error"]
    assert "1 of 4 files could not be read" in said.err.splitlines()[-1]
    for row in (rows[0], *rows[2:]):
        shares = [entry["prob"] for entry in row["top"]]
        assert shares == sorted(shares, reverse=True)
        assert [entry["name"] for entry in row["top"]] == [str(entry["index"]) for entry in row["top"]]
        assert row["pixels"] == 8
        assert row["checkpoint"] == f"{workdir}/checkpoints/4"
        assert pathlib.Path(row["checkpoint"]).is_dir()


def test_predict_takes_patterns_and_its_step(workdir, pictures, capfd):
    words = ["predict", f"{pictures}/**/[cd].png", "--workdir", workdir, "--step", "2", "--params", "raw"]
    assert run(*words) in (0, None)
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [pathlib.Path(row["path"]).name for row in rows] == ["c.png", "d.png"]
    assert rows[0]["checkpoint"] == f"{workdir}/checkpoints/2"


def test_predict_agrees_with_the_verb(workdir, pictures, capfd, tmp_path):
    good = [pictures / "a.png", pictures / "c.png"]
    assert run("predict", *good, "--workdir", workdir, "--output", tmp_path / "rows.jsonl") in (0, None)
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    capfd.readouterr()
    with pytest.raises(SystemExit):
        main(["predict", "--workdir", str(workdir), *map(str, good)])
    for row, line in zip(rows, capfd.readouterr().out.splitlines(), strict=True):
        logits = np.array(json.loads(line)["logits"])
        shares = np.exp(logits) / np.exp(logits).sum()
        assert row["top"][0]["index"] == logits.argmax()
        assert row["top"][0]["prob"] == pytest.approx(shares.max(), rel=1e-4)


def test_an_interruption_leaves_the_rows_that_were_made(tmp_path):
    def rows():
        yield {"path": "a"}
        yield {"path": "b", "error": "bad"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared.write_rows(rows(), str(tmp_path / "rows.jsonl"))
    (left,) = tmp_path.iterdir()
    assert left.name == "rows.jsonl.partial"
    assert [json.loads(line) for line in left.read_text().splitlines()] == list(itertools.islice(rows(), 2))


def test_rows_are_printed_as_they_come(capfd):
    def rows():
        yield {"path": "a"}
        assert capfd.readouterr().out == '{"path": "a"}\n'
        yield {"path": "b"}

    assert shared.write_rows(rows(), "") == 2


def test_logits_that_are_not_finite_are_an_error_of_the_file(workdir, pictures):
    model = inference.open_model(str(workdir))
    head = model.variables["params"]["classifier"]
    spoilt = {**model.variables["params"], "classifier": {**head, "bias": head["bias"] * np.nan}}
    model = dataclasses.replace(model, variables={**model.variables, "params": spoilt})
    (row,) = inference.predictions(model, workdir, [str(pictures / "a.png")], 5)
    assert row == {"path": str(pictures / "a.png"), "error": inference.NOT_FINITE}


def test_embed_gives_what_the_classifier_multiplies(workdir, pictures, tmp_path, capfd):
    assert run("embed", pictures, "--workdir", workdir, "--output", tmp_path / "features.npz") == 3
    assert "b.png" in capfd.readouterr().err
    with np.load(tmp_path / "features.npz") as found:
        features, paths = found["features"], found["paths"].tolist()
    assert [pathlib.Path(path).name for path in paths] == ["a.png", "c.png", "d.png"]
    model = inference.open_model(str(workdir))
    head = jax.device_get(model.variables["params"]["classifier"])
    rows = list(inference.predictions(model, workdir, [str(pictures / "a.png")], top=1))
    logits = features[0] @ head["kernel"] + head["bias"]
    shares = np.exp(logits) / np.exp(logits).sum()
    assert rows[0]["top"][0]["prob"] == pytest.approx(shares.max(), rel=1e-4)

    good = [pictures / "a.png", pictures / "c.png"]
    assert run("embed", *good, "--workdir", workdir, "--output", tmp_path / "f.parquet") in (0, None)
    table = pyarrow.parquet.read_table(tmp_path / "f.parquet")
    assert table.column("path").to_pylist() == [str(file) for file in good]
    np.testing.assert_array_equal(np.array(table.column("features").to_pylist(), np.float32), features[:2])


def test_embed_says_what_it_can_write(workdir, pictures, monkeypatch, capfd):
    assert run("embed", pictures, "--workdir", workdir, "--output", "x.csv") == 2
    assert "FILE.npz or FILE.parquet" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert run("embed", pictures, "--workdir", workdir, "--output", "x.parquet") == 2
    assert "pip install pyarrow" in capfd.readouterr().err


def test_endpoints_are_the_maps_of_the_network(workdir, pictures, tmp_path, capfd):
    assert run("endpoints", pictures, "--workdir", workdir, "--output", tmp_path / "maps.npz") == 3
    printed = dict(line.split(maxsplit=1) for line in capfd.readouterr().out.splitlines())
    with np.load(tmp_path / "maps.npz") as file:
        found = dict(file)
    assert [pathlib.Path(path).name for path in found.pop("paths")] == ["a.png", "c.png", "d.png"]
    # 8 pixels, halved by the stem alone; the head is as wide as SMALL says.
    assert {name: values.shape for name, values in found.items()} == {
        "reduction_1": (3, 4, 4, 8), "features": (3, 4, 4, 8), "pooled": (3, 8), "logits": (3, 10),
    }  # fmt: skip
    assert printed == {name: " x ".join(map(str, values.shape)) for name, values in found.items()}
    np.testing.assert_allclose(found["features"].mean((1, 2)), found["pooled"], rtol=1e-5)
    head = jax.device_get(inference.open_model(str(workdir)).variables["params"]["classifier"])
    np.testing.assert_allclose(found["pooled"] @ head["kernel"] + head["bias"], found["logits"], rtol=1e-4)

    words = [
        "endpoints",
        pictures / "a.png",
        "--workdir",
        workdir,
        "--output",
        tmp_path / "one.npz",
        "--names",
    ]
    assert run(*words, "pooled") in (0, None)
    with np.load(tmp_path / "one.npz") as file:
        assert sorted(file) == ["paths", "pooled"]
        np.testing.assert_allclose(file["pooled"], found["pooled"][:1], rtol=1e-5)
    assert run(*words, "reduction_7") == 2
    assert "it has features, logits, pooled, reduction_1" in capfd.readouterr().err


def test_endpoints_that_would_not_fit_are_refused(workdir, pictures, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("offsites_jax.projects.image_classification.commands.files.MOST_BYTES", 1000)
    assert run("endpoints", pictures, "--workdir", workdir, "--output", tmp_path / "maps.npz") == 2
    assert "give fewer files or some --names" in capfd.readouterr().err


def test_finetune_takes_everything_but_the_head(workdir, tmp_path, capfd):
    """With a rate of 0, what is there after real updates is what was there before them."""
    still = {**SMALL, "train.steps": "2", "model.num_classes": "10", "train.seed": "1"}
    still["optimizer"] = "{'name': 'sgd', 'learning_rate': 0.0}"
    changes = [f"{key}={value}" for key, value in still.items()]
    command = ["finetune", "--experiment", DIGITS, "--start-from", workdir]
    old = restore_variables(workdir).variables["params"]
    for folder, option in ((tmp_path / "new", "--new-head"), (tmp_path / "same", "--no-new-head")):
        assert run(*command, "--workdir", folder, option, "--overrides", *changes) in (0, None)
        assert "test/accuracy" in capfd.readouterr().out
        found = restore_variables(folder)
        assert found.step == 2
        head, trunk = found.variables["params"].pop("classifier"), found.variables["params"]
        jax.tree.map(
            np.testing.assert_array_equal, trunk, {k: v for k, v in old.items() if k != "classifier"}
        )
        kept = np.array_equal(head["kernel"], old["classifier"]["kernel"])
        assert kept == (option == "--no-new-head")


def test_finetune_keeps_the_size_of_a_coatnets_biases(tmp_path):
    file = str(pathlib.Path(DIGITS).with_name("digits_coatnet.py"))
    tiny = {
        "model.overrides.stages": "['c1_d8', 'c1_d8', 't1_d8', 't1_d8']",
        "model.overrides.stem_widths": "[8, 8]",
        "model.overrides.attention": "{'head_size': 8}",
        "train.batch_size": "4",
        "train.steps": "1",
        "train.eval_every": "0",
        "train.ema.decay": "0.0",
        "evaluators": "{}",
        "optimizer": "{'name': 'sgd', 'learning_rate': 0.0}",
    }
    experiment = load_experiment(file, {**tiny, "data.image_size": "32"})
    state = create_program(experiment, create_mesh(experiment.mesh)).initial_state()
    write_run(tmp_path / "small", experiment, 0, state)
    changes = [f"{key}={value}" for key, value in tiny.items()]
    command = ["finetune", "--experiment", file, "--start-from", tmp_path / "small", "--no-new-head"]
    assert run(*command, "--workdir", tmp_path / "large", "--overrides", *changes) in (0, None)
    tuned = read_experiment(tmp_path / "large")
    assert tuned.model.overrides["table_image_size"] == [32, 32]
    assert tuned.data.image_size == 64
    small, large = (restore_variables(tmp_path / name).variables["params"] for name in ("small", "large"))
    jax.tree.map(np.testing.assert_array_equal, large, small)


def test_report_holds_stages_scores_and_the_gap(workdir, tmp_path):
    text = report.report(workdir)
    assert "| all | 4 | 8 | none |" in text
    params = inference.open_model(str(workdir)).variables["params"]
    assert f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters, 4 steps" in text
    assert "accuracy in training minus here" in text
    assert "Training images were augmented" in text
    assert "this repository; 360 images" in text


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
