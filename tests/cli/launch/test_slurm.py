"""The batch script, run by bash against programs that stand in for Slurm's."""

import itertools
import os
import signal
import subprocess
import time

import pytest


def directives_of(script):
    """What sbatch reads: it stops at the first line that is no comment."""
    head = itertools.takewhile(lambda line: line.startswith("#") or not line, script.splitlines())
    return [line.removeprefix("#SBATCH ") for line in head if line.startswith("#SBATCH")]


def run_script(script, cwd, ask=None):
    """The exit code of a batch script; `ask` sends it TERM once the file exists, as Slurm does."""
    file = cwd / "job.sh"
    file.write_text(script)
    job = subprocess.Popen(["bash", str(file)], cwd=cwd, env={**os.environ, "SLURM_JOB_ID": "17"})
    while ask and not ask.exists():
        assert job.poll() is None
        time.sleep(0.01)
    if ask:
        job.send_signal(signal.SIGTERM)
    return job.wait(timeout=60)


def test_slurm_gets_every_option_and_odd_words_as_they_were(
    printed, fake, calls, tmp_path, experiment, odder
):
    fake(srun=[0], scontrol=[0])
    script = printed(
        "slurm",
        *("--nodes=4", "--gpus-per-node=8", "--partition=long", "--account=me", "--time=1-12:00:00"),
        *("--sbatch=--qos=high --exclusive", "--leave-seconds=90", f"--env=ODD={odder}"),
        *("--config.mesh.data=-1", "--profile=10:12"),
        workdir=f"/shared/{odder}",
    )
    assert directives_of(script) == [
        *("--job-name=curve-experiment", "--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8"),
        *("--partition=long", "--account=me", "--time=1-12:00:00", "--signal=B:TERM@90"),
        *("--open-mode=append", "--qos=high", "--exclusive", "--requeue"),
    ]
    assert run_script(script, tmp_path) == 0
    (call,) = calls("srun")
    assert call["argv"][:3] == ["--kill-on-bad-exit=0", "--wait=300", "env"]
    assert call["argv"][3:] == [
        *(f"ODD={odder}", "offsites", "train", os.path.abspath(experiment), f"--workdir=/shared/{odder}"),
        *("--profile=10:12", "--config.mesh.data=-1"),
    ]
    assert not calls("scontrol")
    assert not (tmp_path / "oops").exists()


def test_slurm_passes_term_on_and_puts_the_job_back_into_the_queue(printed, fake, calls, tmp_path):
    fake(srun=["wait"], scontrol=[0])
    script = printed("slurm", workdir=tmp_path)
    assert run_script(script, tmp_path, ask=tmp_path / "fakes" / "waiting") == 75
    assert [call["argv"] for call in calls("scontrol")] == [["requeue", "17"]]


@pytest.mark.parametrize(("code", "requeued"), [(75, True), (0, False), (1, False), (137, False)])
def test_slurm_comes_back_after_a_preemption_only(printed, fake, calls, tmp_path, code, requeued):
    fake(srun=[code], scontrol=[0])
    assert run_script(printed("slurm", workdir=tmp_path), tmp_path) == code
    assert bool(calls("scontrol")) == requeued


@pytest.mark.parametrize(
    ("options", "program"),
    [
        (("--venv=/opt/v e",), ["/opt/v e/bin/offsites"]),
        (("--container=/i.sif",), ["apptainer", "exec", "/i.sif", "offsites"]),
        (("--container=/i.sif", "--gpus-per-node=8"), ["apptainer", "exec", "--nv", "/i.sif", "offsites"]),
    ],
)
def test_slurm_finds_the_program(printed, fake, calls, tmp_path, options, program):
    fake(srun=[0])
    assert run_script(printed("slurm", *options, workdir=tmp_path), tmp_path) == 0
    assert calls("srun")[0]["argv"][2 : 2 + len(program)] == program


def test_slurm_is_given_the_script_it_would_print(launch, printed, fake, calls, tmp_path):
    fake(sbatch=[0])
    assert launch("slurm", workdir=tmp_path) == 0
    (call,) = calls("sbatch")
    assert call["argv"] == []
    assert call["stdin"] == printed("slurm", workdir=tmp_path)
