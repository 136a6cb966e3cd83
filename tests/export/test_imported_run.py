"""Published weights made a run: every command takes it, and training goes on from it."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from offsites_jax.cli.main import main
from offsites_jax.errors import UserError
from offsites_jax.export.folder import export
from offsites_jax.export.imported_run import import_run
from offsites_jax.export.load import load as load_export
from offsites_jax.export.timm import timm_tensors
from offsites_jax.models.coatnet import transfer_resolution
from offsites_jax.models.stacked import unstack_blocks
from offsites_jax.parallel.mesh import create_mesh
from offsites_jax.train.config import load_experiment
from offsites_jax.train.loop import train
from offsites_jax.train.program import create_program
from offsites_jax.train.restore import evaluate, restore
from offsites_jax.train.saved import diff, restore_variables, verify
from offsites_jax.train.state import flatten
from offsites_jax.train.workdir import read_experiment

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments" / "image_classification"
DIGITS = str(EXPERIMENTS / "digits.py")
NAME = "efficientnet_v2_b0"
TINY = {
    "mesh.data": "1", "mesh.fsdp": "1", "stages": "[]", "train.batch_size": "16", "train.steps": "6",
    "train.eval_every": "0", "train.log_every": "1", "data.image_size": "8", "train.ema.decay": "0.9",
    "evaluators.test.batch_size": "360", "evaluators.test.pictures": "False",
    "model.overrides.head_width": "8", "model.overrides.norm": "{'momentum': 0.9}",
    "model.overrides.blocks": "['r1_k3_s1_e1_i8_o8_c1', 'r1_k3_s1_e2_i8_o8_se0.25']",
    "optimizer": "{'name': 'momentum', 'learning_rate': 0.05}",
}  # fmt: skip


def digits(**changes):
    return load_experiment(DIGITS, {**TINY, **{key.replace("__", "."): v for key, v in changes.items()}})


def command(*arguments, overrides=TINY):
    """The exit code of `offsites`."""
    changed = [f"--config.{key}={value}" for key, value in overrides.items()]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), *changed])
    return ended.value.code


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A few updates of a network with two blocks."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(digits(), folder)
    return folder


@pytest.fixture(scope="module")
def published(trained, tmp_path_factory):
    """Its averages as a file of timm."""
    model = restore(trained)
    file = tmp_path_factory.mktemp("published") / "tiny.safetensors"
    save_file(timm_tensors(model.task.model, jax.device_get(model.variables)), file)
    return file


@pytest.fixture(scope="module")
def imported(published, tmp_path_factory):
    """The file as a run, by the command a user gives."""
    folder = tmp_path_factory.mktemp("imported") / "run"
    arguments = ("import", NAME, published, "--from", "timm", "--experiment", DIGITS, "--workdir", folder)
    assert command(*arguments) == 0
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    file = tmp_path_factory.mktemp("pictures") / "seven.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12), np.uint8)).save(file)
    return file


def said(*arguments, capfd):
    """What a command prints."""
    capfd.readouterr()
    assert command(*arguments, overrides={}) in (0, None)
    return capfd.readouterr().out


def test_an_imported_run_scores_as_the_live_model(trained, imported):
    live, scores = (evaluate(read_experiment(folder), folder) for folder in (trained, imported))
    assert scores[0] == 0
    assert live[0] == 6
    assert scores[1] == live[1]
    assert scores[1]["test/images"] == 360
    assert all(report.sound for report in verify(imported))


def test_it_predicts_and_embeds_as_the_live_model(trained, imported, picture, tmp_path, capfd):
    rows = [json.loads(said("predict", folder, picture, capfd=capfd)) for folder in (trained, imported)]
    assert rows[0] == rows[1]
    features = []
    for folder, name in ((trained, "live.npz"), (imported, "imported.npz")):
        embed = ("image_classification", "embed", picture, "--workdir", folder, "--output", tmp_path / name)
        assert command(*embed, overrides={}) in (0, None)
        with np.load(tmp_path / name) as found:
            features.append(found["features"])
    np.testing.assert_array_equal(*features)
    worst = ("image_classification", "worst", "--workdir", imported, "--output", tmp_path / "worst")
    assert "3 mistakes" in said(*worst, "--count", "3", capfd=capfd)


def test_it_is_exported_as_the_live_model(trained, imported, tmp_path):
    report = export(imported, tmp_path / "export", platforms=("cpu",), batch=2)
    assert report.step == 0
    model = restore(trained)
    batch = {"image": np.random.default_rng(1).integers(0, 256, (2, 8, 8, 1), np.uint8)}
    live, shipped = model.predict(batch), load_export(tmp_path / "export").predict(batch)
    np.testing.assert_allclose(shipped["logits"], live["logits"], atol=1e-5)


def test_training_goes_on_from_its_weights(imported, published, tmp_path):
    """And comes out bit for bit where a run with `init_from` of the same weights does, averages included."""
    weights = tmp_path / "weights.safetensors"
    save_file(flatten(restore_variables(imported).variables), weights)
    train(digits(init_from=str(weights), train__steps="2"), tmp_path / "warm")
    arguments = ("import", NAME, published, "--from", "timm", "--experiment", DIGITS)
    shorter = {**TINY, "train.steps": "2"}
    assert command(*arguments, "--workdir", tmp_path / "run", overrides=shorter) == 0
    train(digits(train__steps="2"), tmp_path / "run")
    assert not diff(tmp_path / "warm", tmp_path / "run", step=2)
    assert not diff(tmp_path / "run", imported, step=0)


def test_a_fine_tuned_run_starts_from_it(imported, tmp_path):
    """With a rate of 0, what is there after a few real updates is what was there before them."""
    still = "{'name': 'sgd', 'learning_rate': 0.0}"
    train(digits(init_from=str(imported), train__steps="2", optimizer=still), tmp_path / "same")
    before, after = (
        restore_variables(folder, params="raw").variables for folder in (imported, tmp_path / "same")
    )
    jax.tree.map(np.testing.assert_array_equal, after["params"], before["params"])
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(
            jax.tree.leaves(after["batch_stats"]), jax.tree.leaves(before["batch_stats"]), strict=True
        )
    ]
    assert all(moved)


def test_a_new_head_is_as_training_would_start_with(published, trained, tmp_path):
    experiment = digits(model__num_classes="7")
    report = import_run(experiment, NAME, published, tmp_path / "run", new_head=True)
    assert report.skipped == ("params/classifier/bias", "params/classifier/kernel")
    found = restore_variables(tmp_path / "run").variables["params"]
    fresh = create_program(experiment, create_mesh(experiment.mesh)).initial_state().params
    live = restore_variables(trained).variables["params"]
    np.testing.assert_allclose(found["classifier"]["kernel"], fresh["classifier"]["kernel"], rtol=1e-5)
    assert found["classifier"]["kernel"].shape == (8, 7)
    np.testing.assert_array_equal(found["stem"]["conv"]["kernel"], live["stem"]["conv"]["kernel"])


def test_a_scanned_coatnet_gets_its_biases_for_the_images_of_the_experiment(tmp_path):
    tiny = {
        "model.overrides.stages": "['c1_d8', 'c1_d8', 't3_d16', 't1_d16']",
        "model.overrides.stem_widths": "[8, 8]",
        "model.overrides.attention": "{'head_size': 8, 'activation': 'gelu'}",
        "model.overrides.conv": "{'activation': 'gelu'}",
        "train.batch_size": "2",
    }
    file = str(EXPERIMENTS / "digits_coatnet.py")
    small = load_experiment(file, {**tiny, "data.image_size": "32"})
    program = create_program(small, create_mesh(small.mesh))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), program.abstract.variables()
    )
    model = program.task.model
    save_file(timm_tensors(model, variables), tmp_path / "coatnet.safetensors")

    settings = {**tiny, "data.image_size": "64", "model.overrides.scan": "True"}
    with pytest.raises(UserError, match="padding: is 'same', but weights of timm need 'symmetric'"):
        import_run(
            load_experiment(file, settings), "coatnet_0", tmp_path / "coatnet.safetensors", tmp_path / "run"
        )
    large = load_experiment(file, {**settings, "model.overrides.padding": "symmetric"})
    import_run(large, "coatnet_0", tmp_path / "coatnet.safetensors", tmp_path / "run")
    found = restore_variables(tmp_path / "run").variables
    assert any(re.search(r"/blocks_\d_\d/", name) for name in flatten(found))
    wanted = transfer_resolution(model, variables, (64, 64))
    jax.tree.map(np.testing.assert_array_equal, unstack_blocks(found), wanted)


def test_the_run_says_where_its_weights_come_from(imported, published):
    told = json.loads((imported / "imported.json").read_text())
    assert told["model"] == NAME
    assert told["source_files"][published.name]["size"] == published.stat().st_size
    assert told["origins"]["params/classifier/kernel"] == "classifier.weight"
    assert read_experiment(imported).raw == digits().raw


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({}, "efficientnet_v2_s", "config.model.name: the experiment has 'efficientnet_v2_b0', the file is"),
        (
            {"model.num_classes": "7"},
            NAME,
            "classifier.bias is [10], but params/classifier/bias needs [7]; give its number of classes",
        ),
        ({"data.channels": "3"}, NAME, "conv_stem.weight is [8, 1, 3, 3], but params/stem/conv/kernel needs"),
        (
            {"init_from": "'elsewhere'"},
            NAME,
            "config.init_from: the experiment starts from elsewhere already",
        ),
        ({"trian.steps": "1"}, NAME, "config.trian: unknown section"),
    ],
)
def test_weights_of_another_model_leave_nothing_but_one_line(
    published, tmp_path, changes, model, message, capfd
):
    arguments = ("import", model, published, "--from", "timm", "--experiment", DIGITS)
    capfd.readouterr()
    code = command(*arguments, "--workdir", tmp_path / "run", overrides={**TINY, **changes})
    assert code == UserError.exit_code
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --output for weights alone, or --experiment and --workdir for a run"),
        (["--output", "a", "--workdir", "b"], "give --output for weights alone"),
        (["--workdir", "b"], "give --output for weights alone"),
        (["--output", "a", "--config.train.steps=1"], "--config.train.steps: overrides need an --experiment"),
        (["--experiment", DIGITS, "--workdir", "b", "--classes", "7"], "--config.model.num_classes"),
        (["--experiment", DIGITS, "--workdir", "b", "--overwrite"], "a run is never overwritten"),
    ],
)
def test_options_that_go_together(published, tmp_path, monkeypatch, options, message, capfd):
    monkeypatch.chdir(tmp_path)
    assert command("import", NAME, published, "--from", "timm", *options, overrides={}) == UserError.exit_code
    assert message in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_is_not_written_over(published, imported):
    before = (imported / "config.json").stat().st_mtime_ns
    with pytest.raises(UserError, match="exists already"):
        import_run(digits(), NAME, published, imported)
    assert (imported / "config.json").stat().st_mtime_ns == before
    assert [path.name for path in imported.parent.iterdir()] == ["run"]
