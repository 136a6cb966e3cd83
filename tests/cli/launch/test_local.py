"""A run that lives through crashes, preemptions and other process counts, and ends as if nothing had been."""

import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
from etils import epath

from offsites_jax.cli.launch.child import ToLauncher
from offsites_jax.errors import EXIT_PREEMPTED
from offsites_jax.train.config import load_experiment
from offsites_jax.train.loop import train
from offsites_jax.train.stored import saved_steps
from offsites_jax.train.workdir import CHECKPOINTS

ROOT = pathlib.Path(__file__).parents[3]
SYSTEMS = ROOT / "tests" / "systems"
EXPERIMENT = SYSTEMS / "curve_experiment.py"
STEPS = 120
OVERRIDES = {"train.steps": str(STEPS), "train.log_every": "1", "train.checkpoint_every": "10"}
SECONDS = 240  # on a busy machine; what is under way then has hung


class Launch:
    """`offsites launch --on local` under way."""

    def __init__(self, workdir, processes, *options):
        overrides = [f"--config.{key}={value}" for key, value in OVERRIDES.items()]
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "offsites_jax.cli.main", "launch", str(EXPERIMENT), "--on=local"),
                *(f"--workdir={workdir}", f"--processes={processes}", f"--devices={8 // processes}"),
                "--save-seconds=60",
                *options,
                *overrides,
            ],
            env={**os.environ, "OFFSITES_PATH": str(SYSTEMS), "OFFSITES_CACHE": str(ROOT / ".cache" / "jax")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(self._process.stdout))
        self._reader.start()
        self._guard = threading.Timer(SECONDS, self._process.kill)
        self._guard.start()

    def until(self, step):
        """Waits until a step at or after this one is logged since the last start; returns it."""
        return int(self._search(r"^\[0\] (\d+)/", lambda found: int(found[1]) >= step)[1])

    def until_saved_after(self, workdir, step):
        """Waits until a checkpoint after this step is complete, and steps after it are logged."""
        while (newest := saved(workdir)) <= step:
            assert self._process.poll() is None, "".join(self.lines[-30:])
            time.sleep(0.02)
        return self.until(newest + 2)

    def pids(self, start=1):
        """Of the processes that were started, the first or a later time."""
        found = self._search(r"started \d+ processes: pid (.*)", lambda _: self._count("started") >= start)
        return [int(pid) for pid in found[1].split()]

    def signal(self, number):
        """Sends a signal to the launcher."""
        self._process.send_signal(number)

    def end(self):
        """The exit code, and all lines that the launcher itself said."""
        code = self._process.wait()
        self._reader.join()
        self._guard.cancel()
        return code, [line.strip() for line in self.lines if line.startswith("offsites: ")]

    def _count(self, word):
        return sum(word in line for line in self.lines)

    def _search(self, pattern, accept):
        while True:
            over = self._process.poll() is not None and not self._reader.is_alive()
            for line in reversed(self.lines[:]):
                found = re.search(pattern, line)
                if found and accept(found):
                    return found
                if "started" in line:
                    break
            assert not over, "".join(self.lines[-30:])
            time.sleep(0.02)


def running(pid):
    """Whether a process does anything still; one that nobody waits for stays behind as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = pathlib.Path(f"/proc/{pid}/stat")
    return not (state.exists() and ") Z " in state.read_text())


def losses(workdir):
    """Loss by step, as logged."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"]) for row in rows if row["split"] == "train"]


def check_same(logged, expected):
    """Processes reduce in another order than threads, so sums differ in their last bits; batches do not."""
    steps, values = zip(*logged, strict=True)
    assert list(steps) == list(range(1, len(logged) + 1))
    np.testing.assert_allclose(values, [loss for _, loss in expected[: len(logged)]], rtol=1e-5)


def saved(workdir):
    """The newest checkpoint's step; 0 before the first."""
    return max(saved_steps(epath.Path(workdir) / CHECKPOINTS), default=0)


def four_train_as_one_and_stop_when_one_is_killed(workdir, expected):
    launch = Launch(workdir, 4)
    step = launch.until(12)
    pids = launch.pids()
    os.kill(pids[2], signal.SIGKILL)
    code, said = launch.end()
    assert code == 128 + signal.SIGKILL, "".join(launch.lines[-60:])
    assert said[-1].startswith("offsites: process 2 of 4 was killed by SIGKILL; the others were stopped.")
    assert len(pids) == 4
    assert not any(map(running, pids))
    logged = losses(workdir)
    assert len(logged) >= step
    check_same(logged, expected)


def two_go_on_start_again_after_a_crash_and_save_together_when_asked(workdir, expected):
    begin = saved(workdir)
    launch = Launch(workdir, 2, "--restarts=1")
    launch.until_saved_after(workdir, begin)
    crashed = launch.pids()
    os.kill(crashed[0], signal.SIGKILL)
    again = launch.pids(start=2)
    logged, goes_on_from = losses(workdir), saved(workdir)
    assert begin < goes_on_from < len(logged)
    step = launch.until(goes_on_from + 5)
    launch.signal(signal.SIGTERM)
    code, said = launch.end()
    assert code == EXIT_PREEMPTED, "".join(launch.lines[-60:])
    assert any("process 0 of 2 was killed by SIGKILL" in line and "Starting again" in line for line in said)
    assert not any(map(running, [*crashed, *again]))
    assert step <= saved(workdir) < STEPS
    assert losses(workdir)[: len(logged)] == logged  # what was done twice is the same bit for bit
    check_same(losses(workdir), expected[: saved(workdir)])


def one_saves_and_leaves_when_its_launcher_is_killed(workdir, expected):
    launch = Launch(workdir, 1)
    step = launch.until(saved(workdir) + 3)
    (pid,) = launch.pids()
    launch.signal(signal.SIGKILL)
    launch.end()
    deadline = time.monotonic() + SECONDS
    while running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert step <= saved(workdir) < STEPS
    check_same(losses(workdir), expected[: saved(workdir)])


def test_a_run_that_lives_through_it_all_ends_as_one_that_was_never_disturbed(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFSITES_PATH", str(SYSTEMS))
    experiment = load_experiment(EXPERIMENT, OVERRIDES)
    train(experiment, tmp_path / "undisturbed")
    expected = losses(tmp_path / "undisturbed")
    assert [step for step, _ in expected] == list(range(1, STEPS + 1))

    workdir = tmp_path / 'it\'s "nasty" $(touch oops)\nand `more`; #'
    four_train_as_one_and_stop_when_one_is_killed(workdir, expected)
    two_go_on_start_again_after_a_crash_and_save_together_when_asked(workdir, expected)
    one_saves_and_leaves_when_its_launcher_is_killed(workdir, expected)
    train(experiment, workdir)
    check_same(losses(workdir), expected)
    assert len(losses(workdir)) == STEPS


def test_a_line_for_a_launcher_that_is_gone_harms_nobody():
    reads, writes = os.pipe()
    stream = io.TextIOWrapper(io.BufferedWriter(ToLauncher(writes, "w")), line_buffering=True)
    print("before", file=stream)
    assert os.read(reads, 100) == b"before\n"
    os.close(reads)
    print("after" * 100_000, file=stream)
    stream.close()
