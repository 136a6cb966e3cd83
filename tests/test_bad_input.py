"""A user's mistake: one line that names it and what to do, the right exit code, and nothing left behind."""

import ctypes
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from offsites_jax.cli.main import main

HERE = pathlib.Path(__file__).parent
CURVE = HERE / "systems" / "curve_experiment.py"
DIGITS = HERE.parent / "experiments" / "image_classification" / "digits.py"
SECONDS = 600  # on a machine as busy as it may get

ONE_DEVICE = ("--config.mesh.data=1", "--config.mesh.fsdp=1")
FEW_STEPS = ("--config.train.steps=4", "--config.train.batch_size=8", "--config.train.checkpoint_every=2")
# A network of one block, for images that need not be learned.
FOLDER = (
    *ONE_DEVICE, *FEW_STEPS, "--config.train.batch_size=16", "--config.train.keep.best=",
    "--config.data.source=folder", "--config.data.image_size=8", "--config.stages=[]",
    "--config.evaluators={}", "--config.model.num_classes=2",
    "--config.model.overrides.blocks=['r1_k3_s1_e1_i8_o8_c1']",
    "--config.model.overrides.head_width=8",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _systems(monkeypatch):
    monkeypatch.setenv("OFFSITES_PATH", str(HERE / "systems"))


def one_line(text):
    """The only line of a message."""
    (line,) = text.splitlines()
    assert line.startswith("offsites: ")
    return line


def refusal(capfd, *arguments, code=2):
    """The line in which the command refuses these arguments."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    said = capfd.readouterr().err
    assert ended.value.code == code, said
    return one_line(said)


def refusal_of_a_process(*arguments, code=2):
    """The same, of a process of its own that keeps compiled programs in the workdir, as users' do."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("OFFSITES_CACHE", None)
    command = [sys.executable, "-m", "offsites_jax.cli.main", *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == code, done.stderr
    return one_line(done.stderr)


def trained(workdir):
    """A short run that is well."""
    with pytest.raises(SystemExit) as ended:
        main(["train", str(CURVE), "--workdir", str(workdir), *FEW_STEPS])
    assert ended.value.code == 0
    return workdir


# Before anything runs


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.stepz=5", ("config.train.stepz", "did you mean steps")),
        ("trian.steps=5", ("config.trian", "did you mean train")),
        ("train.steps=many", ("config.train.steps", "expected int")),
        ("train.steps=0", ("config.train.steps", "at least 1")),
        ("train.keep.best_mode=most", ("config.train.keep.best_mode", "most")),
        ("model.widht=3", ("config.model.widht", "did you mean width")),
        ("data.records=many", ("config.data.records", "expected int")),
        ("data.records=0", ("config.data", "'train'", "no records")),
        ("project=curves", ("config.project", "did you mean curve")),
        ("optimizer.name=adamv", ("config.optimizer.name", "did you mean adam")),
        ("train.batch_size=30", ("config.train.batch_size", "multiple of 8")),
        ("train.accumulate=5", ("config.train.accumulate", "does not divide batch_size=32")),
        ("evaluators.test.batch_size=3", ("config.evaluators.test.batch_size", "multiple of 8")),
        ("mesh.data=40", ("needs 80 devices", "there are 8", "make an axis smaller")),
        ("sharding.rules=[['bias_of_nothing','fsdp']]", ("'bias_of_nothing'", "matches no parameter")),
        ("stages.0.until=0", ("config.stages[1].until", "put stages in order")),
        ("stages.0.until=500", ("config.stages[0].until", "beyond train.steps=200")),
        ("stages.0.model={'width':4}", ("config.stages[1]", "Dense_0/bias", "init_from")),
    ],
)
def test_an_impossible_experiment(override, words, tmp_path, capfd):
    workdir = tmp_path / "run"
    line = refusal(capfd, "train", CURVE, "--workdir", workdir, f"--config.{override}")
    assert all(word in line for word in words), line
    assert not workdir.exists()


def test_an_experiment_file_that_is_not_there(tmp_path, capfd):
    line = refusal(capfd, "train", tmp_path / "typo.py", "--workdir", tmp_path / "run")
    assert "typo.py" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "argument", ["--workdirs=x", "--config.train.steps", "--profile=5", "config.train.steps=3"]
)
def test_an_argument_that_is_none(argument, tmp_path, capfd):
    line = refusal(capfd, "train", CURVE, "--workdir", tmp_path / "run", argument)
    assert argument in line or "--profile" in line
    assert not (tmp_path / "run").exists()


def test_a_mesh_too_large_leaves_not_even_a_cache(tmp_path):
    line = refusal_of_a_process("train", CURVE, "--workdir", tmp_path / "run", "--config.mesh.fsdp=16")
    assert "needs 64 devices" in line
    assert not (tmp_path / "run").exists()


# Data


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("source=folder", "path=/nowhere"), ("/nowhere/train", "no such folder")),
        (("source=tfds", "name=no_such_set"), ("'no_such_set'", "nearest names")),
        (("source=tfds", "name=mnist", "path=/nowhere"), ("mnist", "tfds build mnist --data_dir=/nowhere")),
        (("train_split=trian",), ("config.data", "'trian'", "use train or test")),
    ],
)
def test_data_that_is_not_there(overrides, words, tmp_path, capfd):
    options = [f"--config.data.{override}" for override in overrides]
    line = refusal(capfd, "train", DIGITS, "--workdir", tmp_path / "run", *options)
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


def test_a_split_only_evaluated_is_missed_before_training(tmp_path, capfd):
    line = refusal(
        capfd, "train", DIGITS, "--workdir", tmp_path / "run", "--config.evaluators.test.split=dev"
    )
    assert "'dev'" in line
    assert not (tmp_path / "run").exists()


@pytest.fixture
def pictures(tmp_path):
    """A folder of two classes of pictures, and one that is none."""
    for number in range(12):
        file = tmp_path / "pictures" / "train" / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    damaged = tmp_path / "pictures" / "train" / "b" / "7.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    return tmp_path / "pictures"


def test_a_picture_that_is_damaged_is_named(pictures, tmp_path, capfd):
    workdir, data = tmp_path / "run", f"--config.data.path={pictures}"
    line = refusal(capfd, "train", DIGITS, "--workdir", workdir, *FOLDER, data, code=3)
    assert "b/7.jpg" in line
    assert 'on_bad_record="skip"' in line
    assert not list((workdir / "checkpoints").iterdir()), "it is among the first 16 rows"


# Folders


def test_a_workdir_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    line = refusal_of_a_process("train", CURVE, "--workdir", tmp_path / "file" / "run")
    assert f"{tmp_path}/file/run" in line
    assert "choose another --workdir" in line


def test_a_workdir_that_can_only_be_read(tmp_path):
    libc, folder = ctypes.CDLL(None, use_errno=True), tmp_path / "disk"
    folder.mkdir()
    read_only = 1
    mounted = libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", read_only, b"size=64k") == 0
    try:
        # Where nothing may be mounted, the kernel has a folder in which nobody can make another.
        workdir = folder / "run" if mounted else pathlib.Path("/proc/run")
        line = refusal_of_a_process("train", CURVE, "--workdir", workdir)
    finally:
        if mounted:
            libc.umount2(os.fsencode(folder), 2)
    assert f"{workdir}: cannot be written" in line
    assert "choose another --workdir" in line


@pytest.mark.parametrize("verb", ["eval", "export", "verify", "compare"])
def test_the_workdir_of_no_run(verb, tmp_path, capfd):
    line = refusal(capfd, verb, "--workdir", tmp_path / "run")
    assert f"{tmp_path}/run" in line
    assert "--workdir of a run" in line or "workdir of a run" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["eval", "export", "verify", "compare"])
def test_no_workdir_at_all(verb, capfd):
    assert "--workdir" in refusal(capfd, verb)


def test_a_workdir_without_a_name(capfd):
    assert "--workdir: empty" in refusal(capfd, "train", CURVE, "--workdir", "")


# Runs


def test_the_checkpoint_of_another_model(tmp_path, capfd):
    workdir = trained(tmp_path / "run")
    before = sorted(workdir.rglob("*"))
    options = ("--workdir", workdir, *FEW_STEPS, "--config.model.width=8")
    line = refusal(capfd, "train", CURVE, *options)
    assert "config.json" not in line
    assert "model.width: null -> 8" in line

    config = json.loads((workdir / "config.json").read_text())
    config["model"] = {"width": 8}
    (workdir / "config.json").write_text(json.dumps(config))
    line = refusal(capfd, "train", CURVE, *options)
    assert "checkpoints/4" in line
    assert "another model" in line
    assert "params/Dense_0/bias" in line
    assert "another workdir" in line
    assert "params/Dense_0/bias" in refusal(capfd, "eval", "--workdir", workdir)
    assert sorted(workdir.rglob("*")) == before


def test_a_config_that_is_no_json(tmp_path, capfd):
    (tmp_path / "config.json").write_text('{"project": ')
    line = refusal(capfd, "train", CURVE, "--workdir", tmp_path, *FEW_STEPS)
    assert f"{tmp_path}/config.json" in line


def test_a_step_that_was_not_kept(tmp_path, capfd):
    workdir = trained(tmp_path / "run")
    assert "[2, 4]" in refusal(capfd, "eval", "--workdir", workdir, "--step=3")
    assert "--step" in refusal(capfd, "eval", "--workdir", workdir, "--step=newest")
