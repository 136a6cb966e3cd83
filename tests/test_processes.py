"""Two processes of four devices train as one of eight; they leave, die and start again together."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import portpicker
import pytest

from offsites_jax.cli.main import run
from offsites_jax.train.writers import read_metrics

HERE = pathlib.Path(__file__).parent
EXPERIMENT = HERE / "systems" / "curve_experiment.py"
CACHE = HERE.parent / ".cache" / "jax"
SECONDS = 600  # on a machine as busy as it may get
# Two processes add up in another order than one: losses agree to rounding, which training amplifies a little.
TOLERANCE = 1e-5

SHORT = ("--config.train.steps=30", "--config.train.checkpoint_every=10", "--config.train.eval_every=15")
OFTEN = (*SHORT, "--config.train.checkpoint_every=2")


STARTED = []


@pytest.fixture(autouse=True)
def _no_survivors():
    yield
    for process in STARTED:
        process.kill()


class Child:
    """A training process of its own, whose output is read all along."""

    def __init__(self, workdir, *options):
        environment = {
            **os.environ, "OFFSITES_PATH": str(HERE / "systems"), "OFFSITES_CACHE": str(CACHE),
            "JAX_PLATFORMS": "cpu",
        }  # fmt: skip
        command = [sys.executable, "-m", "offsites_jax.cli.main", "train", str(EXPERIMENT)]
        self.process = subprocess.Popen(
            [*command, "--workdir", str(workdir), *options],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        STARTED.append(self.process)
        self.lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def finish(self, deadline):
        """Its exit code, once all it said has been read; -9 where it had to be stopped."""
        try:
            self.process.wait(timeout=max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._reader.join(timeout=10)
        return self.process.wait()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def said(self):
        """The lines a user is meant to read."""
        return [line for line in self.lines if line.startswith("offsites: ")]

    def __str__(self):
        return "\n".join(self.lines[-40:])


def start_pair(workdir, *options):
    """The two processes of a run."""
    port = portpicker.pick_unused_port()
    flags = (f"--coordinator=localhost:{port}", "--process-count=2", "--config.mesh.cpu_devices=4")
    return [Child(workdir, *flags, f"--process-index={index}", *options) for index in range(2)]


def finish_all(children, *codes, seconds=SECONDS):
    """Waits for processes to end with these codes."""
    deadline = time.monotonic() + seconds
    found = [child.finish(deadline) for child in children]
    assert found == list(codes), "\n----\n".join(map(str, children))


def wait_until(condition, pair):
    """Watches two processes until the condition holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert all(child.process.poll() is None for child in pair), "\n----\n".join(map(str, pair))
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def newest(workdir):
    """Step of the newest complete checkpoint; -1 for none."""
    names = (path.name for path in (workdir / "checkpoints").glob("*"))
    return max((int(name) for name in names if name.isdigit()), default=-1)


def column(workdir, name):
    """A train metric by step."""
    return {line["step"]: line[name] for line in read_metrics(workdir) if line["split"] == "train"}


def check_close(workdir, reference):
    """Same batches in every bit, same losses to rounding, and a log without gaps or repetitions."""
    assert column(workdir, "rows") == column(reference, "rows")
    for metric in ("loss", "grad_norm"):
        found, wanted = column(workdir, metric), column(reference, metric)
        assert found.keys() == wanted.keys()
        np.testing.assert_allclose([*found.values()], [*wanted.values()], rtol=TOLERANCE)
    places = [(line["step"], line["split"]) for line in read_metrics(workdir)]
    assert places == [(line["step"], line["split"]) for line in read_metrics(reference)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process with eight devices."""
    workdir = tmp_path_factory.mktemp("alone")
    finish_all([Child(workdir, *SHORT)], 0)
    return workdir


def test_two_processes_train_as_one_and_each_way_of_starting_is_exact(alone, tmp_path, capsys):
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    pair = start_pair(straight, *SHORT)
    finish_all(pair, 0, 0)
    for index, child in enumerate(pair):
        assert f"process {index} of 2 on {socket.gethostname()}: 4 x cpu, 8 devices in all" in child.lines
    check_close(straight, alone)

    finish_all(start_pair(parts, *SHORT, "--stop-at=17"), 75, 75)
    finish_all(start_pair(parts, *SHORT), 0, 0)
    for metric in ("rows", "loss", "grad_norm"):
        assert column(parts, metric) == column(straight, metric), "two and two processes: the same bits"
    capsys.readouterr()
    assert run(["verify", "--diff", str(parts), str(straight)]) == 0, capsys.readouterr().out


def test_sigterm_to_one_stops_both_at_one_step_and_one_alone_can_go_on(alone, tmp_path):
    pair = start_pair(tmp_path, *SHORT, "--config.train.checkpoint_every=5")
    wait_until(lambda: newest(tmp_path) >= 5, pair)
    pair[1].process.send_signal(signal.SIGTERM)
    finish_all(pair, 75, 75)
    steps = {re.search(r"saved step (\d+)", line)[1] for child in pair for line in child.said()}
    assert steps == {str(newest(tmp_path))}
    assert newest(tmp_path) < 30

    finish_all([Child(tmp_path, *SHORT)], 0)
    check_close(tmp_path, alone)


def test_sigterm_before_the_first_save_of_a_resumed_run_is_saved_too(tmp_path):
    endless = ("--config.train.steps=100000", "--config.train.checkpoint_every=100000")
    finish_all(start_pair(tmp_path, *endless, "--stop-at=5"), 75, 75)
    pair = start_pair(tmp_path, *endless)
    wait_until(lambda: any("8 devices in all" in line for line in pair[1].lines), pair)
    pair[1].process.send_signal(signal.SIGTERM)
    finish_all(pair, 75, 75)
    assert newest(tmp_path) > 5


@pytest.mark.parametrize("victim", [1, 0])
def test_where_one_is_killed_the_other_says_so_and_ends_and_both_can_go_on(victim, alone, tmp_path):
    pair = start_pair(tmp_path, *OFTEN)
    wait_until(lambda: newest(tmp_path) >= 4, pair)
    pair[victim].process.kill()
    codes = [75, 75]
    codes[victim] = -signal.SIGKILL
    finish_all(pair, *codes, seconds=90)  # missing heartbeats take longer
    survivor = pair[1 - victim]
    (line,) = survivor.said()
    assert "died" in line
    assert "start all of them again" in line
    assert "Traceback" not in str(survivor)
    if victim:  # where process 0 dies, JAX prints a report of its own at the same moment
        assert survivor.lines[-1] == line
    assert newest(tmp_path) < 30

    finish_all(start_pair(tmp_path, *OFTEN), 0, 0)
    check_close(tmp_path, alone)


def test_an_error_of_one_ends_both_with_its_reason(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()  # what process 0 alone writes to
    pair = start_pair(tmp_path, *SHORT)
    finish_all(pair, 2, 2)
    (first,), (second,) = (child.said() for child in pair)
    assert first.startswith(f"offsites: {tmp_path}/metrics.jsonl: cannot be written")
    assert second == f"offsites: process 0 of 2 stopped: {first.removeprefix('offsites: ')}"
    assert [child.lines[-1] for child in pair] == [first, second]
