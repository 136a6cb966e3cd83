"""From a manifest of PNG and DICOM files through the one trainer to every result, by the commands."""

import csv
import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from offsites_jax.cli.main import main
from offsites_jax.errors import DamagedDataError
from offsites_jax.export.load import load
from offsites_jax.projects.chest_xray.data import create_pipeline
from offsites_jax.projects.chest_xray.inference import scoring
from offsites_jax.projects.chest_xray.synthetic import archive as synthetic
from offsites_jax.projects.chest_xray.tables.case import Case
from offsites_jax.train.config import resolve
from offsites_jax.train.loop import train
from offsites_jax.train.media import encode_table
from offsites_jax.train.writers import read_metrics

SIZE = 32


def picture(abnormal, rng):
    """A dark square with a bright rim; abnormal ones have a bright spot inside."""
    pixels = np.full((SIZE, SIZE), 0.1) + 0.05 * rng.random((SIZE, SIZE))
    pixels[[0, -1]] = pixels[:, [0, -1]] = 1
    row, column = rng.integers(6, 18, 2)
    if abnormal:
        pixels[row : row + 8, column : column + 8] += 0.7
    box = f"{column} {row} 8 8" if abnormal else ""
    return np.round(np.clip(pixels, 0, 1) * 4095).astype(np.uint16), box


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng, rows = np.random.default_rng(0), ["image,patient_id,split,label,age,sex,box"]
    for number in range(48):
        split = "train" if number < 24 else "tune" if number < 36 else "test"
        abnormal, patient = number % 2, f"p{number // 2 if number % 3 else number}"
        patient = f"{split}-{patient}"
        pixels, box = picture(abnormal, rng)
        if number % 3:
            image = f"{number:02d}.dcm"
            case = Case(image, f"real-number-{number}", sex="F", age=40.0, view="PA")
            (folder / image).write_bytes(synthetic.dicom_file(pixels, case, inverted=number % 3 == 1))
        else:
            image = f"{number:02d}.png"
            Image.fromarray(pixels * 16).save(folder / image)
        rows.append(f"{image},{patient},{split},{abnormal},{20 + number},{'MF'[number % 2]},{box}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def settings(data, **train_settings):
    return {
        "project": "chest_xray",
        "model": {
            "name": "efficientnet_b0",
            "overrides": {
                "blocks": ["r1_k3_s1_e1_i8_o8", "r1_k3_s2_e2_i8_o8"], "head_width": 8,
                "stochastic_depth_rate": 0.0, "dropout_rate": 0.0, "norm": {"momentum": 0.5}, "remat": True,
            },
        },
        "data": {"path": str(data / "manifest.csv"), "image_size": SIZE,
                 "augment": {"crop_area": [0.9, 1.0], "rotation": 2.0, "brightness": 0.05, "contrast": 0.05}},
        "optimizer": {"name": "adam", "learning_rate": 0.02},
        "train": {"steps": 30, "batch_size": 8, "log_every": 10, "checkpoint_every": 10, "eval_every": 10,
                  "keep": {"last": 1, "best": "tune/auc"}, **train_settings},
        "mesh": {"data": 1, "cpu_devices": 8},
        "evaluators": {name: {"split": name, "batch_size": 12} for name in ("tune", "test")},
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    return folder, train(resolve(settings(data)), folder)


def offsites(*arguments, verb="chest_xray"):
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main([verb, *map(str, arguments)])
    return ended.value.code


def table(file):
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def predicted(run, data, tmp_path_factory):
    file = tmp_path_factory.mktemp("scores") / "predictions.csv"
    assert offsites("predict", data / "manifest.csv", "--workdir", run[0], "--output", file) == 0
    return file


def test_it_learns_and_the_area_is_scikit_learns(run, data, predicted):
    workdir, result = run
    assert result.scores["test/auc"] > 0.9
    losses = [line["loss"] for line in read_metrics(workdir) if line["split"] == "train"]
    assert losses[-1] < losses[0]
    best = json.loads((workdir / "config.json").read_text())["train"]["keep"]["best"]
    assert best == "tune/auc"
    truth = {row["image"]: int(row["label"]) for row in table(data / "manifest.csv")}
    lines = [line for line in read_metrics(workdir) if line["split"] == "tune"]
    chosen = max(lines, key=lambda line: (line["auc"], line["step"]))
    rows = [row for row in table(predicted) if 24 <= int(row["image"][:2]) < 36]
    area = roc_auc_score([truth[row["image"]] for row in rows], [float(row["logit"]) for row in rows])
    assert area == pytest.approx(chosen["auc"], abs=1e-6)


def test_predictions_name_patients_of_the_manifest_and_have_no_flags_without_points(predicted, data):
    rows = table(predicted)
    assert list(rows[0]) == list(scoring.COLUMNS)
    patients = {row["image"]: row["patient_id"] for row in table(data / "manifest.csv")}
    assert {row["image"]: row["patient_id"] for row in rows} == patients
    assert {row["flag_high_sensitivity"] + row["flag_high_specificity"] for row in rows} == {""}
    for row in rows:
        assert float(row["score"]) == pytest.approx(1 / (1 + np.exp(-float(row["logit"]))), rel=1e-5)


def test_bad_files_keep_a_row_and_end_with_code_3(run, tmp_path, data, capfd):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.dcm").write_bytes((data / "01.dcm").read_bytes())
    (tmp_path / "in" / "deep" / "b.png").write_bytes(b"no picture")
    (tmp_path / "in" / "deep" / "c.dcm").write_bytes((data / "02.dcm").read_bytes()[:700])
    output = tmp_path / "p.csv"
    assert offsites("predict", tmp_path / "in", "--workdir", run[0], "--output", output) == 3
    said = capfd.readouterr()
    assert "research use only" in said.out
    assert "2 of 3 files could not be read" in said.err
    rows = {row["image"]: row for row in table(output)}
    assert set(rows) == {"a.dcm", "deep/b.png", "deep/c.dcm"}
    assert (rows["a.dcm"]["status"], rows["a.dcm"]["patient_id"]) == ("ok", "")
    for name in ("deep/b.png", "deep/c.dcm"):
        assert (rows[name]["status"], rows[name]["score"], rows[name]["logit"]) == ("error", "", "")
        assert rows[name]["message"]
    assert "real-number" not in said.out + said.err + output.read_text()


def test_the_mean_of_probabilities_is_exact_also_far_out():
    logits = np.array([[-2.0, 40.0, -800.0], [1.0, 50.0, -790.0]])
    found = scoring.mean_logit(logits)
    p = 1 / (1 + np.exp(-logits[:, 0]))
    assert found[0] == pytest.approx(np.log(p.mean() / (1 - p.mean())))
    assert found[1] == pytest.approx(-np.log((np.exp(-40) + np.exp(-50)) / 2), rel=1e-9)
    assert found[2] == pytest.approx(-790 - np.log(2) + np.log1p(np.exp(-10)))


def test_several_runs_are_averaged(run, data, tmp_path, predicted):
    twice = tmp_path / "twice.csv"
    assert offsites("predict", data / "manifest.csv", "--workdir", run[0], run[0], "--output", twice) == 0
    for one, both in zip(table(predicted), table(twice), strict=True):
        assert float(both["logit"]) == pytest.approx(float(one["logit"]), abs=1e-5)


def test_maps_are_pictures_and_add_up_to_the_scores(run, data, predicted, tmp_path):
    assert (
        offsites(
            "explain", data / "manifest.csv", "--split", "test", "--workdir", run[0], "--output", tmp_path
        )
        == 0
    )
    scores = {row["image"]: float(row["logit"]) for row in table(predicted)}
    rows = table(tmp_path / "cam.csv")
    assert len(rows) == 12
    for row in rows:
        assert float(row["logit"]) == pytest.approx(scores[row["image"]], abs=1e-4)
        with Image.open(tmp_path / "cam" / f"{row['image']}.png") as drawn:
            assert drawn.size == (SIZE, SIZE)
            assert (row["hit"] != "") == (int(row["image"][:2]) % 2 == 1)
        assert float(row["share_outlined"]) == 0 or float(row["score"]) >= 0.5


def test_other_layers_are_explained_by_their_gradients(run, data, predicted, tmp_path, capfd):
    command = ("explain", data / "manifest.csv", "--split", "test", "--workdir", run[0], "--output", tmp_path)
    assert offsites(*command, "--layer", "no such") == 2
    known = capfd.readouterr().err.split("there are ")[1].split(", ")
    assert offsites(*command, "--layer", known[-1].strip()) == 0
    scores = {row["image"]: float(row["logit"]) for row in table(predicted)}
    for row in table(tmp_path / "cam.csv"):
        assert float(row["logit"]) == pytest.approx(scores[row["image"]], abs=1e-4)


def test_from_thresholds_to_report_and_work_list(run, data, predicted, tmp_path, capfd):
    workdir, points = run[0], tmp_path / "points.json"
    assert offsites("thresholds", "--workdir", workdir, "--output", points) == 0
    flagged = tmp_path / "flagged.csv"
    assert offsites("predict", data / "manifest.csv", "--workdir", workdir, "--thresholds", points,
                    "--output", flagged) == 0  # fmt: skip
    kinds = json.loads(points.read_text())["points"]
    for row in table(flagged):
        for kind, point in kinds.items():
            assert row[f"flag_{kind}"] == str(int(float(row["score"]) >= float(f"{point['threshold']:.9g}")))
    report = tmp_path / "report"
    assert offsites("evaluate", "--scores", predicted, "--labels", data / "manifest.csv", "--output", report,
                    "--draws", "20", "--repeats", "20", "--root", data) == 0  # fmt: skip
    said = json.loads((report / "report.json").read_text())
    truth = {
        row["image"]: int(row["label"]) for row in table(data / "manifest.csv") if row["split"] == "test"
    }
    rows = [row for row in table(predicted) if row["image"] in truth]
    area = roc_auc_score([truth[row["image"]] for row in rows], [float(row["score"]) for row in rows])
    assert f"{area:.4f}" in capfd.readouterr().out
    assert "research use only" in (report / "report.html").read_text().lower()
    assert said
    worklist = tmp_path / "worklist.csv"
    assert offsites("prioritize", "--scores", predicted, "--thresholds", points, "--output", worklist) == 0
    assert [int(row["position"]) for row in table(worklist)] == list(range(1, 49))


def test_models_and_diseases_are_told_by_columns(predicted, data, tmp_path, capfd):
    rows = table(data / "manifest.csv")
    for number, row in enumerate(rows):
        row["spot"], row["other"] = row.pop("label"), str(int(number % 4 == 1))
    (tmp_path / "labels.csv").write_bytes(encode_table(rows).content)
    scores = [row | {"second": str(1 - float(row["score"]))} for row in table(predicted)]
    (tmp_path / "scores.csv").write_bytes(encode_table(scores).content)
    command = ("evaluate", "--scores", tmp_path / "scores.csv", "--labels", tmp_path / "labels.csv",
               "--output", tmp_path / "r", "--label-column", "Spot", "--disease", "other",
               "--arrivals-per-hour", "9", "--prevalences", "0.1", "--draws", "20",
               "--repeats", "20")  # fmt: skip
    assert offsites(*command, "--against", "second", predicted) == 0
    truth = {row["image"]: row["spot"] == "1" for row in rows if row["split"] == "test"}
    used = [row for row in scores if row["image"] in truth]
    area = roc_auc_score([truth[row["image"]] for row in used], [float(row["score"]) for row in used])
    turned, same = table(tmp_path / "r" / "comparison.csv")
    assert float(turned["area of the other"]) == pytest.approx(1 - area)
    assert (float(same["difference"]), float(same["p (DeLong)"])) == (0.0, 1.0)
    assert {row["told apart by"] for row in table(tmp_path / "r" / "disease_areas.csv")} == {
        "abnormality", "other",
    }  # fmt: skip
    (values,) = {row["prevalence"] for row in table(tmp_path / "r" / "predictive_values.csv")}
    assert float(values) == 0.1
    assert len(table(tmp_path / "r" / "arrivals.csv")) == 3
    capfd.readouterr()
    assert offsites(*command, "--against", "third") == 2
    assert "'third' is neither a file nor a column" in capfd.readouterr().err


def test_one_table_of_scores_without_splits_is_evaluated_at_a_fixed_threshold(tmp_path, capfd):
    lines = [
        "image,patient_id,score,label",
        *(f"{k},{k},{0.1 + 0.016 * k:.3f},{int(k > 20)}" for k in range(50)),
    ]
    (tmp_path / "scores.csv").write_text("\n".join(lines) + "\n")
    assert offsites("evaluate", "--scores", tmp_path / "scores.csv", "--output", tmp_path / "r",
                    "--draws", "20", "--repeats", "20") == 0  # fmt: skip
    said = capfd.readouterr().out
    assert "fixed at 0.5" in said
    assert "area under the curve 1.0000" in said


def test_an_archive_is_taken_in_without_names_and_scores_alike(run, data, predicted, tmp_path, capfd):
    (tmp_path / "key").write_text("0123456789abcdef0123456789abcdef")
    assert offsites("convert", data / "manifest.csv", "--output", tmp_path / "kept", "--size", "0",
                    "--key", tmp_path / "key", "--site", "here") == 0  # fmt: skip
    kept = table(tmp_path / "kept" / "manifest.csv")
    assert len(kept) == 48
    text = (tmp_path / "kept" / "manifest.csv").read_text() + capfd.readouterr().out
    for secret in ("real-number", ".dcm", "train-p"):
        assert secret not in text
    assert all(b"real-number" not in file.read_bytes() for file in (tmp_path / "kept").rglob("*.png"))
    assert offsites("predict", tmp_path / "kept" / "manifest.csv", "--workdir", run[0],
                    "--output", tmp_path / "p.csv") == 0  # fmt: skip
    again = [float(row["logit"]) for row in table(tmp_path / "p.csv")]
    np.testing.assert_allclose(again, [float(row["logit"]) for row in table(predicted)], atol=2e-3)
    assert [row["label"] for row in kept] == [row["label"] for row in table(data / "manifest.csv")]


def experiment_file(folder, raw):
    text = f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({raw!r})\n"
    (folder / "other.py").write_text(text)
    return folder / "other.py"


def test_records_train_as_the_files_do(run, data, tmp_path, capfd):
    kept = tmp_path / "kept"
    assert offsites("records", data / "manifest.csv", "--output", kept, "--size", SIZE, "--per-file", 10) == 0
    assert "48 records of 32 x 32 pixels" in capfd.readouterr().out
    raw = settings(data)
    raw["data"] |= {"source": "records", "path": str(kept)}
    pipelines = [create_pipeline(resolve(one), "train", train=False) for one in (settings(data), raw)]
    for index in range(24):
        files, records = (pipeline.transform(pipeline.source[index]) for pipeline in pipelines)
        np.testing.assert_array_equal(files["image"], records["image"])
        np.testing.assert_array_equal(files["label"], records["label"])


def test_probes_compare_starts(run, data, tmp_path):
    file = experiment_file(tmp_path, settings(data))
    assert offsites("transfer", file, "--starts", f"trained={run[0]}", "random",
                    "--fractions", "0.5", "1.0", "--seeds", "2", "--output", tmp_path / "t") == 0  # fmt: skip
    rows = table(tmp_path / "t" / "transfer.csv")
    assert len(rows) == 8
    trained = [float(row["auc"]) for row in rows if row["start"] == "trained" and row["fraction"] == "1.0"]
    assert min(trained) > 0.85
    assert len(table(tmp_path / "t" / "compare_trained_random.csv")) == 2


def test_fine_tuning_compares_starts_and_knows_what_is_done(run, data, tmp_path, capfd):
    file = experiment_file(tmp_path, settings(data, steps=2, checkpoint_every=2, eval_every=2))
    command = ("transfer", file, "--mode", "finetune", "--starts", f"trained={run[0]}", "random",
               "--fractions", "0.5", "--seeds", "1", "--output", tmp_path / "t")  # fmt: skip
    assert offsites(*command) == 0
    rows = table(tmp_path / "t" / "transfer.csv")
    assert [(row["start"], row["seed"]) for row in rows] == [("trained", "0"), ("random", "0")]
    assert rows[0]["patients"] == rows[1]["patients"]
    for row in rows:
        lines = read_metrics(tmp_path / "t" / "runs" / f"{row['start']}-0.5-0")
        (area,) = [line["auc"] for line in lines if line["split"] == "test"]
        assert float(row["auc"]) == pytest.approx(area)
    first = (tmp_path / "t" / "transfer.csv").read_bytes()
    capfd.readouterr()
    assert offsites(*command) == 0
    assert (tmp_path / "t" / "transfer.csv").read_bytes() == first
    assert "loss" not in capfd.readouterr().out
    assert offsites(*command, "--starts", f"trained={run[0]}", "other=nowhere") == 2


def test_exports_predict_alike_and_carry_operating_points(run, data, predicted, tmp_path, capfd):
    arguments = ("--workdir", run[0], "--output", tmp_path / "export", "--step", "best", "--platforms", "cpu")
    assert offsites(*arguments, verb="export") == 0
    capfd.readouterr()
    names = [row["image"] for row in table(predicted)][:4]
    files = [str(data / name) for name in names]
    assert offsites(*files, "--exported", tmp_path / "export", verb="predict") == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    expected = {row["image"]: float(row["logit"]) for row in table(predicted)}
    for row in rows:
        assert row["logit"][0] == pytest.approx(expected[pathlib.Path(row["input"]).name], abs=1e-4)
    assert len(rows) == 4
    points = tmp_path / "points.json"
    assert offsites("thresholds", "--workdir", run[0], "--output", points) == 0
    assert offsites("bundle", tmp_path / "export", "--thresholds", points) == 0
    assert (tmp_path / "export" / "operating_points.json").read_bytes() == points.read_bytes()
    assert json.loads((tmp_path / "export" / "preprocessing.json").read_text())["image_size"] == SIZE
    assert load(tmp_path / "export").manifest["project"] == "chest_xray"
    (tmp_path / "export" / "operating_points.json").write_text("{}")
    with pytest.raises(DamagedDataError, match=r"operating_points\.json: damaged"):
        load(tmp_path / "export")
