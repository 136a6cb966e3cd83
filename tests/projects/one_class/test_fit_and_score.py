"""A folder of photos to scores: fit, score, explain, export, and what happens to files that are bad."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.one_class import jobs
from offsites_jax.projects.one_class.report.scoring import find_files
from offsites_jax.projects.one_class.scorers import ScorerSettings
from offsites_jax.projects.one_class.second_stage.bundle_files import open_bundle, save
from offsites_jax.projects.one_class.second_stage.fit import SecondStage, fit_without_threshold, open_model

SMALL = {"image_size": 48, "stride": 8, "steps": 2, "batch_size": 8, "width": 1 / 32}


def photo(rng, spot=False):
    """Noise about one grey, perhaps with a bright spot."""
    pixels = np.clip(rng.normal(110, 12, (60, 60, 3)), 0, 255).astype(np.uint8)
    if spot:
        pixels[20:36, 20:36] = (250, 240, 30)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos: 20 good ones to fit to, and six to score, half of them with a spot."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("good", "new/good", "new/spot"):
        (root / name).mkdir(parents=True)
    for number in range(20):
        photo(rng).save(root / "good" / f"{number:02d}.png")
    for number in range(3):
        photo(rng).save(root / "new/good" / f"{number}.png")
        photo(rng, spot=True).save(root / "new/spot" / f"{number}.jpg", quality=95)
    return root


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "parts"
    jobs.fit(str(folder / "good"), str(run), **SMALL)
    return run


def rows(output):
    with open(output / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_scores_heat_maps_and_a_report_of_every_image(folder, workdir, tmp_path, capsys):
    jobs.score(str(workdir), (str(folder / "new"),), str(tmp_path / "out"))
    assert "6 images scored" in capsys.readouterr().out
    found = rows(tmp_path / "out")
    assert list(found[0]) == ["path", "score", "flag", "threshold"]
    assert [row["path"] for row in found] == [
        *(str(folder / "new/good" / f"{n}.png") for n in range(3)),
        *(str(folder / "new/spot" / f"{n}.jpg") for n in range(3)),
    ]
    scores = np.array([float(row["score"]) for row in found])
    assert scores[3:].min() > scores[:3].max(), "a bright spot shows even to an untrained network"
    threshold = float(found[0]["threshold"])
    assert [int(row["flag"]) for row in found] == (scores > threshold).astype(int).tolist()
    heat = np.load(tmp_path / "out/heatmaps/spot/0.npy")
    assert (heat.shape, heat.dtype) == ((48, 48), np.float32)
    assert Image.open(tmp_path / "out/heatmaps/spot/0.png").height == 48
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 8 <= min(row, column) <= max(row, column) <= 36, "the spot is at 16 to 29"
    assert "ROC" in (tmp_path / "out/report.html").read_text()


def test_the_threshold_is_of_held_out_photos(workdir):
    bundle = open_bundle(workdir)
    assert len(bundle.normal_scores) == 4
    assert bundle.threshold.value == pytest.approx(max(bundle.normal_scores))
    assert "highest score of 4 held-out" in bundle.note


def test_the_same_command_again_trains_no_more(folder, workdir):
    before = open_bundle(workdir)
    checkpoints = sorted((workdir / "checkpoints").iterdir())
    jobs.fit(str(folder / "good"), str(workdir), **SMALL)
    assert sorted((workdir / "checkpoints").iterdir()) == checkpoints
    assert open_bundle(workdir).normal_scores == pytest.approx(before.normal_scores)


def test_a_bundle_alone_gives_the_same_scores(workdir, tmp_path):
    bundle = open_bundle(workdir)
    images = np.random.default_rng(1).integers(0, 256, (2, 48, 48, 3), np.uint8)
    save(bundle, tmp_path / "copy")
    save(bundle, tmp_path / "copy")
    np.testing.assert_array_equal(open_bundle(tmp_path / "copy").score(images), bundle.score(images))
    with pytest.raises(UserError, match=r"made for \[48, 48, 3\]: resize"):
        bundle.score(images[:, :40])
    weights = tmp_path / "copy" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DamagedDataError):
        open_bundle(tmp_path / "copy")
    about = json.loads((tmp_path / "copy/bundle.json").read_text())
    (tmp_path / "copy/bundle.json").write_text(json.dumps({**about, "channels": "BGR"}))
    with pytest.raises(UserError, match="48 pixels, BGR, but its model takes 48 pixels, RGB"):
        open_bundle(tmp_path / "copy")
    with pytest.raises(UserError, match="no fitted scorer there"):
        open_bundle(tmp_path)


def test_what_is_exported_scores_the_same(workdir, tmp_path):
    jobs.export(str(workdir), str(tmp_path / "shipped"), batch=2)
    function = jax.export.deserialize(bytearray((tmp_path / "shipped/score.stablehlo").read_bytes()))
    images = np.random.default_rng(2).integers(0, 256, (2, 48, 48, 3), np.uint8)
    np.testing.assert_allclose(function.call(images), open_bundle(workdir).score(images), rtol=1e-4)
    with pytest.raises(UserError, match="exists already"):
        jobs.export(str(workdir), str(tmp_path / "shipped"))


def test_another_scorer_of_whole_images_without_training(folder, workdir, tmp_path):
    """The score of a whole image is the scorer's own, and its heat map is GradCAM."""
    checkpoints = sorted((workdir / "checkpoints").iterdir())
    jobs.fit_scorer(str(workdir), str(tmp_path / "knn"), scorer="knn", stride=0, quantile=0.5)
    assert sorted((workdir / "checkpoints").iterdir()) == checkpoints
    bundle = open_bundle(tmp_path / "knn")
    images = np.random.default_rng(3).integers(0, 256, (3, 48, 48, 3), np.uint8)
    pooled = np.asarray(bundle.model.predict({"image": images})["pooled"])
    np.testing.assert_allclose(bundle.score(images), bundle.scorer.score(pooled), atol=1e-6)
    _, heat = bundle.score_and_heat(images)
    np.testing.assert_allclose(heat, bundle.cam(images))
    model, stage = open_model(str(workdir)), SecondStage(ScorerSettings("knn"), stride=8)
    with pytest.raises(UserError, match="windows are scored by Gaussians"):
        fit_without_threshold(model, stage, images)


def test_attributions_add_up_to_the_score(folder, workdir, tmp_path, capsys):
    jobs.explain(str(workdir), (str(folder / "new/spot/0.jpg"),), str(tmp_path / "why"), steps=16)
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert row["completeness_gap"] < 0.2
    assert row["whole_image_score"] > row["baseline_score"]
    assert json.loads((tmp_path / "why/explanations.json").read_text()) == [row]
    assert (tmp_path / "why/0.png").exists()


def test_a_bad_photo_stops_or_is_left_out_and_counted(folder, workdir, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(folder / "new/good", mixed)
    (mixed / "torn.png").write_bytes((mixed / "0.png").read_bytes()[:200])
    with pytest.raises(DamagedDataError, match=r"torn.png: .*1 of 4 files are bad.*--skip-bad"):
        jobs.score(str(workdir), (str(mixed),), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    jobs.score(str(workdir), (str(mixed),), str(tmp_path / "out"), skip_bad=True)
    found = rows(tmp_path / "out")
    assert len(found) == 4
    assert found[-1]["path"].startswith("# left out: 1 of 4 files could not be read")
    assert "torn.png" in (tmp_path / "out/report.html").read_text()
    shutil.copytree(folder / "good", tmp_path / "parts")
    shutil.copy(mixed / "torn.png", tmp_path / "parts")
    with pytest.raises(DamagedDataError, match=r"torn.png.*1 bad files"):
        jobs.fit(str(tmp_path / "parts"), str(tmp_path / "run"), **SMALL)
    assert not (tmp_path / "run").exists(), "photos are looked at before anything is written"


def test_names_tell_files_apart(tmp_path):
    for name in ("a.png", "a.jpg", "b/c.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in find_files([str(tmp_path)])] == ["a.jpg", "a.png", "b/c"]
    (tmp_path / "b/a.png").write_bytes(b"")
    twice = [str(tmp_path / "a.png"), str(tmp_path / "b/a.png"), str(tmp_path / "b/c.png")]
    assert [file.name for file in find_files(twice)] == [*twice[:2], "c"]
    assert {file.label for file in find_files([str(tmp_path)])} == {-1}
    with pytest.raises(UserError, match="no such file"):
        find_files([str(tmp_path / "nowhere")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images"):
        find_files([str(tmp_path / "empty")])


def test_impossible_settings(folder, tmp_path):
    with pytest.raises(UserError, match="do not cover"):
        jobs.fit(str(folder / "good"), str(tmp_path / "run"), **{**SMALL, "stride": 7})
    with pytest.raises(UserError, match="windows are scored by Gaussians"):
        jobs.fit(str(folder / "good"), str(tmp_path / "run"), **SMALL, scorer="knn")
    with pytest.raises(UserError, match="held out"):
        jobs.fit(str(folder / "good"), str(tmp_path / "run"), **SMALL, held_out=0.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no photos"):
        jobs.fit(str(tmp_path / "empty"), str(tmp_path / "run"), **SMALL)
