"""Processes that live and end together, with small stand-ins for the training."""

import asyncio
import fcntl
import os
import signal
import sys
import textwrap
import time

import pytest

from offsites_jax.cli.launch import group, local
from offsites_jax.errors import EXIT_PREEMPTED

# What a stand-in may say.
PRELUDE = """
import os, signal, subprocess, sys, time

def save_and_leave(number, frame):
    print("saved", flush=True)
    sys.exit(75)

def saves(): signal.signal(signal.SIGTERM, save_and_leave)
def refuses(): signal.signal(signal.SIGTERM, signal.SIG_IGN)
def ready(file): open(file, "w").close()
def wait_for(*files):
    while not all(map(os.path.exists, files)): time.sleep(0.01)
def ask(number): os.kill(os.getppid(), number)
def wait(): time.sleep(60)
"""


def run(*programs, save_seconds=30.0):
    """The ending of a group of Python programs, and the seconds it took."""
    commands = [[sys.executable, "-c", PRELUDE + textwrap.dedent(program)] for program in programs]
    begin = time.monotonic()
    ending = asyncio.run(group.run_together(commands, dict(os.environ), save_seconds))
    return ending, time.monotonic() - begin


def test_lines_carry_the_index_of_their_process(capsys):
    ending, _ = run(
        "print('first'); print('x' * 300_000); sys.stdout.write('no line break')",
        "sys.stdout.buffer.write(b'not \\xff text\\n'); print('trouble', file=sys.stderr)",
    )
    out, err = capsys.readouterr()
    assert ending.finished
    assert ending.culprit is None
    assert sorted(out.splitlines()) == sorted(
        ["[0] first", "[0] " + "x" * 300_000, "[0] no line break", "[1] not \N{REPLACEMENT CHARACTER} text"]
    )
    assert err.splitlines()[1:] == ["[1] trouble"]


def test_one_that_fails_takes_the_others_along_whatever_they_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(group, "CRASH_SECONDS", 0.5)
    ending, seconds = run(
        f"saves(); ready('{tmp_path}/0'); wait()",
        f"refuses(); ready('{tmp_path}/1'); wait()",
        f"wait_for('{tmp_path}/0', '{tmp_path}/1'); os.kill(os.getpid(), signal.SIGKILL)",
    )
    assert ending.culprit == (2, -signal.SIGKILL)
    assert "[0] saved" in capsys.readouterr().out
    assert seconds < 30
    error = local.error_of(ending, 3)
    assert error.exit_code == 128 + signal.SIGKILL
    assert "\n" not in str(error)
    assert str(error).startswith("process 2 of 3 was killed by SIGKILL; the others were stopped.")


@pytest.mark.parametrize(("code", "hopeless"), [(1, False), (2, True), (3, True), (4, True), (134, False)])
def test_the_exit_code_is_that_of_the_first_to_fail(code, hopeless):
    ending, _ = run(f"sys.exit({code})", "wait()")
    assert ending.culprit == (0, code)
    assert ending.hopeless == hopeless
    assert local.error_of(ending, 2).exit_code == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_save_when_the_launcher_is_asked_to_leave(tmp_path, capsys, number):
    ending, _ = run(
        f"saves(); ready('{tmp_path}/0'); wait()",
        f"saves(); wait_for('{tmp_path}/0'); ask(signal.{number.name}); wait()",
    )
    assert ending.asked
    assert ending.culprit is None
    assert sorted(ending.order) == [(0, EXIT_PREEMPTED), (1, EXIT_PREEMPTED)]
    assert sorted(capsys.readouterr().out.splitlines()) == ["[0] saved", "[1] saved"]
    assert local.error_of(ending, 2).exit_code == EXIT_PREEMPTED


def test_when_one_leaves_the_others_get_the_time_to_follow(capsys):
    ending, _ = run("sys.exit(75)", "time.sleep(1); print('saved'); sys.exit(75)")
    assert not ending.asked
    assert ending.order == ((0, EXIT_PREEMPTED), (1, EXIT_PREEMPTED))
    assert capsys.readouterr().out == "[1] saved\n"


def test_leaving_does_not_wait_for_one_that_was_not_ready(tmp_path, monkeypatch):
    monkeypatch.setattr(group, "CRASH_SECONDS", 0.5)
    ending, seconds = run(
        f"refuses(); ready('{tmp_path}/0'); wait()", f"wait_for('{tmp_path}/0'); ask(signal.SIGTERM); wait()"
    )
    assert seconds < 30
    assert ending.order == ((1, -signal.SIGTERM),)
    assert local.error_of(ending, 2).exit_code == EXIT_PREEMPTED


def test_a_second_ctrl_c_waits_for_nobody():
    ending, seconds = run("refuses(); ask(signal.SIGINT); time.sleep(0.2); ask(signal.SIGINT); wait()")
    assert ending.culprit == (0, -signal.SIGKILL)
    assert seconds < 30


def test_what_a_process_started_ends_with_it(tmp_path):
    lock = tmp_path / "lock"
    worker = f"import fcntl, time; f = open({str(lock)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
    worker += "print('locked', flush=True); time.sleep(60)"
    run(
        f"""
        worker = subprocess.Popen([sys.executable, "-c", {worker!r}], stdout=subprocess.PIPE)
        worker.stdout.readline()
        sys.exit(1)
        """
    )
    with lock.open("w") as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)
