"""Arms side by side: what is trained, what goes on after a stop, and the figures against the log."""

import dataclasses
import json
import math

import pytest
from PIL import Image

from offsites_jax.cli.main import main
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.image_classification import arms, arms_report, runs
from offsites_jax.train import media
from offsites_jax.train.writers import read_metrics

FILE = """
VARIANTS = ("wide", "narrow")

def get_config(variant=None):
    width = {None: 8, "wide": 8, "narrow": 4}[variant]
    return {
        "project": "image_classification",
        "model": {"name": "efficientnet_v2_b0", "num_classes": 10, "overrides": {
            "blocks": [f"r1_k3_s1_e1_i{width}_o{width}_c1"], "head_width": width,
            "dropout_rate": 0.0, "stochastic_depth_rate": 0.0}},
        "data": {"source": "digits", "image_size": 8, "channels": 1, "flip": False, "eval_crop": "whole"},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "train": {"steps": 4, "batch_size": 16, "log_every": 1, "checkpoint_every": 2, "eval_every": 2,
                  "keep": {"last": 1, "best": "test/accuracy"}},
        "mesh": {"data": 1, "cpu_devices": 8},
        "evaluators": {"test": {"split": "test", "batch_size": 360, "pictures": False, "per_class": False}},
    }
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("arms") / "both.py"
    path.write_text(FILE)
    return str(path)


@pytest.fixture(scope="module")
def compared(file, tmp_path_factory):
    """The folder of a comparison that the command has made."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.raises(SystemExit) as ended:
        main(["image_classification", "arms", "--experiment", file, "--workdir", str(folder)])
    assert not ended.value.code
    return folder


def test_the_table_holds_what_the_runs_recorded(compared):
    found = json.loads((compared / "arms.json").read_text())
    assert [entry["variant"] for entry in found["runs"]] == ["wide", "narrow"]
    for entry in found["runs"]:
        run, lines = entry["run"], read_metrics(compared / f"{entry['variant']}-0")
        scored = [line for line in lines if line["split"] == "test"]
        assert run["curve"] == [[line["step"], line["accuracy"]] for line in scored]
        assert [step for step, _ in run["curve"]] == [2, 4]
        assert (run["accuracy"], run["images"], run["steps"]) == (scored[-1]["accuracy"], 360, 4)
        assert 0 < run["step_seconds"] < scored[-1]["time"] - lines[0]["time"] + 60
        assert entry["compile_seconds"] > 0
        trained = [line for line in lines if line["split"] == "train"][-1]["accuracy"]
        assert run["gap"] == pytest.approx(trained - scored[-1]["accuracy"])
        width = {"wide": 8, "narrow": 4}[entry["variant"]]
        # Stem and block are 3 x 3 convolutions, the head 1 x 1, each with a batch norm; then the classifier.
        stem = model_stem(compared / f"{entry['variant']}-0")
        convolutions = 9 * stem + 9 * stem * width + width * width
        assert run["params"] == convolutions + 2 * (stem + 2 * width) + 10 * width + 10
    rows = [line.split(" | ") for line in (compared / "arms.md").read_text().splitlines() if "| 0 |" in line]
    assert [row[0].strip("| ") for row in rows] == ["wide", "narrow"]
    assert [row[2] for row in rows] == [f"{entry['run']['accuracy']:.4f}" for entry in found["runs"]]
    assert Image.open(compared / "arms.png").size[0] > 1000


def test_the_picture_draws_what_the_runs_recorded(compared):
    run = runs.read_run(compared / "wide-0")
    narrow = runs.read_run(compared / "narrow-0")
    results = [
        arms.Result("wide", dataclasses.replace(run, accuracy=0.5, step_seconds=3.0, wait_seconds=1.0), 2.0),
        arms.Result("wide", dataclasses.replace(run, seed=1, accuracy=0.7, step_seconds=5.0), None),
        arms.Result("narrow", dataclasses.replace(narrow, accuracy=0.25), 4.0),
    ]
    curves, ends, seconds = arms_report.arms_figure(results).axes
    lines = [line for line in curves.lines if len(line.get_xdata())]
    assert [list(zip(*line.get_data(), strict=True)) for line in lines] == [
        list(result.run.curve) for result in results
    ]
    assert [line.get_color() for line in lines] == ["C0", "C0", "C1"]
    assert [text.get_text() for text in curves.get_legend().get_texts()] == ["wide", "narrow"]
    assert (curves.get_xlabel(), curves.get_ylabel()) == ("step", "test/accuracy")
    marks = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ends.lines if line.get_marker() == "o"]
    assert marks == [(0.5, 0), (0.7, 0), (0.25, 1)]
    ((low, high),) = (segment[:, 0] for segment in ends.collections[0].get_segments())
    assert (low, high) == pytest.approx(
        (0.6 - arms_report.chance(results) / 2, 0.6 + arms_report.chance(results) / 2)
    )
    bars = [(bar.get_x(), bar.get_width()) for bar in seconds.patches]
    waited = (1.0 + run.wait_seconds) / 2
    assert bars[:3] == [(0, 4), (4, pytest.approx(waited)), (pytest.approx(4 + waited), 1)]
    assert bars[3] == (0, pytest.approx(narrow.step_seconds))
    for axes in (ends, seconds):
        assert [label.get_text() for label in axes.get_yticklabels()] == ["wide", "narrow"]


def test_the_command_draws_recorded_runs(compared, tmp_path, monkeypatch, capfd):
    drawn = []
    encode = media.encode_figure
    monkeypatch.setattr(media, "encode_figure", lambda figure: drawn.append(figure) or encode(figure))
    words = [
        "pictures",
        "--runs",
        str(compared / "wide-0"),
        str(compared / "narrow-0"),
        "--output",
        str(tmp_path),
    ]
    with pytest.raises(SystemExit) as ended:
        main(["image_classification", *words])
    assert not ended.value.code
    found = [runs.read_run(compared / name) for name in ("wide-0", "narrow-0")]
    for axes, key, unit in zip(drawn[0].axes, ("params", "macs", "step_seconds"), (1e6, 1e6, 1), strict=True):
        places = [tuple(dots.get_offsets()[0]) for dots in axes.collections]
        assert places == [(pytest.approx(getattr(run, key) / unit), run.accuracy) for run in found]
    assert [dots.get_label() for dots in drawn[0].axes[0].collections] == ["wide-0", "narrow-0"]
    assert [run.devices for run in found] == [1, 1]
    assert Image.open(tmp_path / "scatter.png").size[0] > 1000
    with pytest.raises(SystemExit) as ended:
        main(["image_classification", *words, "--published"])
    assert ended.value.code == 2
    assert "ImageNet's 1,000 classes" in capfd.readouterr().err


def model_stem(workdir):
    """Channels of the stem: those that enter the first block."""
    (block,) = json.loads((workdir / "config.json").read_text())["model"]["overrides"]["blocks"]
    return int(block.split("_i")[1].split("_")[0])


def test_what_is_trained_is_not_trained_again(compared, file, monkeypatch):
    asked = []
    monkeypatch.setattr(arms, "train", lambda experiment, workdir: asked.append(workdir))
    results = arms.train_arms(arms.list_arms(file, compared))
    assert not asked
    assert [result.run.name for result in results] == ["wide-0", "narrow-0"]


def test_another_experiment_in_the_folder_is_refused_before_anything_is_trained(compared, file, monkeypatch):
    monkeypatch.setattr(arms, "train", lambda experiment, workdir: pytest.fail("trained"))
    changed = arms.list_arms(file, compared, seeds=(1, 0), overrides={"train.steps": "5"})
    with pytest.raises(UserError, match="another configuration"):
        arms.train_arms(changed)


def test_arms_are_variants_times_seeds(file, tmp_path):
    found = arms.list_arms(file, tmp_path, seeds=(3, 5))
    assert [arm.workdir.name for arm in found] == ["wide-3", "wide-5", "narrow-3", "narrow-5"]
    assert [arm.experiment.train.seed for arm in found] == [3, 5, 3, 5]
    assert not list(tmp_path.iterdir())
    for wrong, said in (({"variants": ["wid"]}, "did you mean wide"), ({"seeds": (1, 1)}, "none twice")):
        with pytest.raises(UserError, match=said):
            arms.list_arms(file, tmp_path, **wrong)
    (tmp_path / "plain.py").write_text("def get_config(): return {}")
    with pytest.raises(UserError, match="no VARIANTS"):
        arms.variants_of(str(tmp_path / "plain.py"))


def test_a_damaged_record_is_named(compared, file, tmp_path):
    arm = arms.list_arms(file, compared, variants=("wide",))[0]
    record = arm.workdir / arms.RECORD
    kept = record.read_text()
    record.write_text("{")
    with pytest.raises(DamagedDataError, match=r"arm\.json: damaged"):
        arms.train_arms([arm])
    record.write_text(kept)


def test_seconds_are_steps_over_speed_of_every_interval():
    lines = [
        {"split": "train", "step": 10},
        {"split": "train", "step": 20, "steps_per_second": 5.0, "data_wait": 0.25},
        {"split": "test", "step": 20, "steps_per_second": 1.0},
        {"split": "train", "step": 30, "steps_per_second": 2.0, "data_wait": 0.0},
        {"split": "train", "step": 34},
    ]
    assert runs.seconds_of_steps(lines) == (pytest.approx(0.75 * 4 + 7), pytest.approx(0.25 * 4))
    assert runs.seconds_of_steps(lines[:1]) == (0.0, 0.0)


def test_a_run_without_the_metric_is_refused(compared):
    with pytest.raises(UserError, match="no such figure"):
        runs.read_run(compared / "wide-0", "test/recall")


def test_means_over_seeds_and_what_chance_does(compared):
    run = runs.read_run(compared / "wide-0")
    results = [
        arms.Result("a", dataclasses.replace(run, seed=seed, accuracy=accuracy), 1.0)
        for seed, accuracy in ((0, 0.25), (1, 0.75))
    ]
    summary = arms_report.report_json(results, "here")["variants"]["a"]
    assert (summary["accuracy"], summary["lowest"], summary["highest"]) == (0.5, 0.25, 0.75)
    # Two samples of n at one half differ with a variance of 2 x 1/4 / n.
    assert arms_report.chance(results) == pytest.approx(1.96 * math.sqrt(0.5 / 360), rel=1e-3)
    page = arms_report.report_markdown(results, "here")
    assert "| a | 2 | 0.5000 | 0.2500 | 0.7500 |" in page
    assert "One seed" not in page
    assert "accuracy on augmented images" in page
    assert "prepared as for evaluation" not in page
    like = [dataclasses.replace(one, run=dataclasses.replace(one.run, plain_gap=True)) for one in results]
    page = arms_report.report_markdown(like, "here")
    assert "accuracy on augmented images" not in page
    assert "both on images prepared as for evaluation" in page
