"""Killed, asked to leave, damaged, full, not finite: a run goes on as if nothing had been, or says why."""

import ctypes
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from offsites_jax.cli.main import run
from offsites_jax.errors import Preempted
from offsites_jax.train.config import load_experiment
from offsites_jax.train.loop import train
from offsites_jax.train.tally import Tally
from offsites_jax.train.writers import read_metrics

HERE = pathlib.Path(__file__).parent
EXPERIMENT = HERE / "systems" / "curve_experiment.py"
CACHE = HERE.parent / ".cache" / "jax"
SECONDS = 600  # on a machine as busy as it may get

# What a line of metrics says about the machine, and not about the run.
SPEED = {
    "time", "steps_per_second", "samples_per_second", "tflops_per_device", "data_wait", "goodput",
    "peak_memory_gib",
}  # fmt: skip

SHORT = ("--config.train.steps=60", "--config.train.checkpoint_every=10", "--config.train.eval_every=20")
# Where no disk can be mounted: the metrics of 60 steps are larger.
MAX_FILE_BYTES = 3000


STARTED = []


@pytest.fixture(autouse=True)
def _no_survivors():
    yield
    for child in STARTED:
        child.kill()


def start(workdir, *options, **popen):
    """A training process of its own."""
    environment = {
        **os.environ, "OFFSITES_PATH": str(HERE / "systems"), "OFFSITES_CACHE": str(CACHE),
        "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    command = [sys.executable, "-m", "offsites_jax.cli.main", "train", str(EXPERIMENT)]
    child = subprocess.Popen(
        [*command, "--workdir", str(workdir), *options],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen,
    )  # fmt: skip
    STARTED.append(child)
    return child


def finish(child, code):
    """Waits for a process of ours to end with this code; returns what it said, without progress."""
    try:
        out, err = child.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
    assert child.returncode == code, f"exit code {child.returncode}\n{out}\n{err[-5000:]}"
    return [line for line in err.splitlines() if "samples/s" not in line and not line.startswith("goodput")]


def complaint(lines):
    """The one line that a user gets to read."""
    (line,) = [line for line in lines if line.startswith("offsites: ")]
    assert lines[-1] == line
    assert "Traceback" not in "".join(lines)
    return line


def wait_until(condition, child):
    """Watches a process until the condition holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert child.poll() is None, f"ended too early\n{child.communicate()[1]}"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def newest(workdir):
    """Step of the newest complete checkpoint; -1 for none."""
    return max(saved(workdir), default=-1)


def saved(workdir):
    """Steps of the complete checkpoints."""
    names = (path.name for path in (workdir / "checkpoints").glob("*"))
    return sorted(int(name) for name in names if name.isdigit())


def unfinished(workdir):
    """Checkpoints being written, or left behind half-written."""
    return list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def records(workdir):
    """Everything the run logged, less the speed of the machine."""
    return [{k: v for k, v in line.items() if k not in SPEED} for line in read_metrics(workdir)]


def check_equal(workdir, reference, capsys):
    """Same log in every bit, no line twice, same final state in every bit."""
    lines = records(workdir)
    assert lines == records(reference)
    assert len({(line["step"], line["split"]) for line in lines}) == len(lines)
    assert {"loss", "grad_norm", "update_norm", "learning_rate"} <= lines[0].keys()
    capsys.readouterr()
    assert run(["verify", "--diff", str(workdir), str(reference)]) == 0
    assert capsys.readouterr().out == "0 leaves differ\n"
    assert newest(workdir) == newest(reference) == lines[-1]["step"]


def verify(workdir, capsys):
    """Exit code and output of `offsites verify`."""
    capsys.readouterr()
    code = run(["verify", str(workdir)])
    return code, capsys.readouterr().out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A short run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("whole")
    finish(start(workdir, *SHORT), 0)
    assert [line["step"] for line in records(workdir) if line["split"] == "test"] == [20, 40, 60]
    return workdir


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The same run, left at step 37."""
    workdir = tmp_path_factory.mktemp("stopped")
    assert "step 37" in complaint(finish(start(workdir, *SHORT, "--stop-at=37"), 75))
    assert saved(workdir) == [20, 30, 37]
    return workdir


# Kill -9


def test_killed_again_and_again_a_run_ends_as_if_it_never_was(tmp_path, whole, capsys):
    often, chance, torn = (*SHORT, "--config.train.checkpoint_every=2"), random.Random(7), 0
    child = start(tmp_path, *often)
    time.sleep(chance.uniform(0.2, 3))  # while it starts
    child.kill()
    finish(child, -signal.SIGKILL)
    for number, step in enumerate(sorted(chance.sample(range(2, 50), 5))):
        child = start(tmp_path, *often)
        wait_until(lambda step=step: newest(tmp_path) >= step, child)
        if number % 2:
            time.sleep(chance.uniform(0, 0.05))
        else:
            wait_until(lambda: unfinished(tmp_path), child)
        child.kill()
        finish(child, -signal.SIGKILL)
        torn += bool(unfinished(tmp_path))
    assert torn, "none of the kills hit a checkpoint being written"

    assert not [line for line in finish(start(tmp_path, *often), 0) if "damaged" in line]
    assert not unfinished(tmp_path)
    check_equal(tmp_path, whole, capsys)


# SIGTERM


def test_sigterm_saves_leaves_and_is_never_seen_again(tmp_path, whole, capsys):
    child = start(tmp_path, *SHORT)
    wait_until(lambda: newest(tmp_path) >= 20, child)
    child.send_signal(signal.SIGTERM)
    step = newest_said(complaint(finish(child, 75)))
    assert newest(tmp_path) == step
    assert 20 <= step < 60
    finish(start(tmp_path, *SHORT), 0)
    check_equal(tmp_path, whole, capsys)


def newest_said(line):
    """The step of "saved step 23."."""
    return int(line.partition("saved step ")[2].partition(".")[0])


def test_the_step_under_way_is_finished_and_no_other_begun(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFSITES_PATH", str(HERE / "systems"))
    finished = []

    def add(self, step, metrics):
        finished.append(step)
        if step == 13:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Tally, "add", add)
    with pytest.raises(Preempted, match="saved step 13"):
        train(load_experiment(EXPERIMENT), tmp_path)
    assert finished[-1] == newest(tmp_path) == 13
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# Damage


def truncate(checkpoint):
    """Halves a file of arrays; returns its name."""
    file = array_files(checkpoint)[0]
    os.truncate(file, file.stat().st_size // 2)
    return file.name


def flip_a_bit(checkpoint):
    """Flips one bit in the middle of a file of arrays; returns its name."""
    file = array_files(checkpoint)[0]
    flip(file)
    return file.name


def flip_bits_unsealed(checkpoint):
    """One bit in each file of arrays, where the process was killed before it wrote the checksums of files."""
    (checkpoint / "MANIFEST.sha256").unlink()
    for file in array_files(checkpoint):
        flip(file)
    return ""


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


def array_files(checkpoint):
    return sorted((checkpoint / "state").rglob("d/*"))


@pytest.mark.parametrize("damages", [(truncate,), (flip_bits_unsealed, flip_a_bit)])
def test_a_damaged_checkpoint_is_put_aside_for_the_one_before(damages, stopped, whole, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(stopped, workdir)
    steps = saved(workdir)[::-1][: len(damages)]
    names = [damage(workdir / "checkpoints" / str(s)) for damage, s in zip(damages, steps, strict=True)]

    code, report = verify(workdir, capsys)
    assert code == 3
    assert "step 20: 21 leaves, sound" in report
    assert all(f"step {step}: 21 leaves, sound" not in report for step in steps)
    assert all(name in report for name in names)

    said = [line for line in finish(start(workdir, *SHORT), 0) if "damaged" in line]
    assert len(said) == len(damages)
    for step, name, line in zip(steps, names, said, strict=True):
        assert name in line
        assert f"renamed to {step}.corrupt" in line
        assert (workdir / "checkpoints" / f"{step}.corrupt").is_dir()
    check_equal(workdir, whole, capsys)


def test_with_every_checkpoint_damaged_nothing_starts_from_scratch(stopped, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(stopped, workdir)
    for step in saved(workdir):
        flip_a_bit(workdir / "checkpoints" / str(step))
    log = (workdir / "metrics.jsonl").read_bytes()
    code, report = verify(workdir, capsys)
    assert code == 3
    assert "sound" not in report
    for _ in range(2):  # nor on a second try, when all have been put aside
        assert "every checkpoint is damaged" in complaint(finish(start(workdir, *SHORT), 3))
    assert (workdir / "metrics.jsonl").read_bytes() == log


# Losses that are not finite


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path, capsys):
    line = complaint(finish(start(tmp_path, *SHORT, "--config.task.explode_at=39"), 4))
    assert "step 40" in line
    assert "'fit'" in line
    assert saved(tmp_path) == [10, 20, 30]
    assert verify(tmp_path, capsys)[0] == 0
    assert max(line["step"] for line in records(tmp_path)) < 40, "step 40 is neither logged nor evaluated"


def test_or_is_skipped_and_counted(tmp_path):
    skip = ("--config.task.explode_at=33", "--config.train.on_non_finite=skip")
    finish(start(tmp_path, *SHORT, *skip, "--stop-at=34"), 75)
    finish(start(tmp_path, *SHORT, *skip), 0)
    lines = {line["step"]: line for line in records(tmp_path) if line["split"] == "train"}
    assert [lines[step]["skipped"] for step in (28, 35, 60)] == [0, 1, 1]
    assert [lines[step]["non_finite"] for step in (28, 35, 42)] == [0, 1 / 7, 0]
    assert all(isinstance(line["loss"], float) and line["loss"] < 1 for line in lines.values())


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for a few checkpoints, options for `start`, and a way to make room."""
    libc, folder = ctypes.CDLL(None, use_errno=True), tmp_path / "disk"
    folder.mkdir()
    name, remount, detach = os.fsencode(folder), 32, 2
    if libc.mount(b"tmpfs", name, b"tmpfs", 0, b"size=600k"):
        yield folder, limited(MAX_FILE_BYTES), lambda: None
        return
    yield folder, {}, lambda: libc.mount(b"tmpfs", name, b"tmpfs", remount, b"size=16m")
    libc.umount2(name, detach)


def limited(size):
    """Options for `start`: no file may grow larger than this."""
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))}


def test_on_a_full_disk_what_is_saved_stays_sound(small_disk, whole, capsys):
    folder, limits, make_room = small_disk
    keep = ("--config.train.keep.last=100", "--config.train.checkpoint_every=5")
    line = complaint(finish(start(folder / "run", *SHORT, *keep, **limits), 2))
    assert "No space left on device" in line or "File too large" in line
    assert saved(folder / "run")
    assert newest(folder / "run") < 60
    assert verify(folder / "run", capsys)[0] == 0

    make_room()
    finish(start(folder / "run", *SHORT, *keep), 0)
    check_equal(folder / "run", whole, capsys)


def test_a_disk_that_fills_up_at_the_very_end_costs_only_the_picture(tmp_path):
    picture = tmp_path / "artifacts" / "curves.png"
    assert "File too large" in complaint(finish(start(tmp_path, *SHORT, **limited(30_000)), 2))
    assert newest(tmp_path) == 60
    assert not list(picture.parent.glob("*curves*"))
    finish(start(tmp_path, *SHORT), 0)
    assert picture.stat().st_size > 30_000


# All in one


def test_the_certificate(monkeypatch, capsys):
    monkeypatch.setenv("OFFSITES_PATH", str(HERE / "systems"))
    assert run(["selftest", str(EXPERIMENT), "--json"]) == 0
    proofs = json.loads(capsys.readouterr().out)
    assert [proof["passed"] for proof in proofs] == [True] * 3
