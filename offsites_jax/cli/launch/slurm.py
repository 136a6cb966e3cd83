"""`--on slurm`: a batch script that saves before its time is up and puts itself back into the queue."""

import dataclasses
import os
import shlex

from offsites_jax.cli.launch.options import option
from offsites_jax.cli.launch.run import Run, check_at_least, check_mesh, check_name, check_word
from offsites_jax.cli.launch.tools import call
from offsites_jax.errors import EXIT_PREEMPTED, UserError

NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - refused, not used

# What follows `srun ... &`. A trapped signal ends `wait` early, with a code that is not the training's; only
# the last, undisturbed wait counts.
WAIT_AND_REQUEUE = f"""\
training=$!

# Slurm says TERM to this script before the time is up. srun passes it on; the tasks save and end with
# {EXIT_PREEMPTED}.
leave() {{
  disturbed=yes
  kill -TERM "$training"
}}
trap leave TERM

disturbed=yes
while [ "$disturbed" = yes ]; do
  disturbed=no
  wait "$training"
  code=$?
done

if [ "$code" -eq {EXIT_PREEMPTED} ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of `--on slurm`."""

    name: str = option("name of the job; made from the experiment file's by default", "")
    nodes: int = option("machines", 1)
    tasks_per_node: int = option("processes on each machine; one for each GPU by default", 0)
    gpus_per_node: int = option("GPUs of each machine", 0)
    cpus_per_task: int = option("CPU cores of each process", 0)
    partition: str = option("partition", "")
    account: str = option("account", "")
    time: str = option("longest time of one stay in the queue, as 1-12:00:00", "")
    leave_seconds: int = option("how long before the end of the time to save and leave", 120)
    sbatch: str = option("further options of sbatch, as in --sbatch='--qos=long --exclusive'", "")
    venv: str = option("virtual environment that holds offsites", "")
    container: str = option("Apptainer image that holds offsites", "")


def launch(run: Run, settings: Settings, dry_run: bool) -> None:
    """Submits the script, or prints it.

    Raises:
      UserError: an option is impossible, or Slurm is not installed.

    """
    script = batch_script(run, settings)
    if dry_run:
        print(script, end="")
        return
    call(["sbatch"], "run this on a login node of the cluster", standard_input=script)


def batch_script(run: Run, settings: Settings) -> str:
    """The script, complete."""
    check(run, settings)
    run = run.rooted()
    training = shlex.join(
        [
            # One task that leaves must not take the others along: they may still be saving. JAX ends the
            # others of a task that crashed; --wait ends them at the latest.
            *("srun", "--kill-on-bad-exit=0", "--wait=300"),
            *run.assignments(),
            *program(settings),
            *run.words(),
        ]
    )
    return "\n".join(["#!/bin/bash", *directives(run, settings), "", f"{training} &", WAIT_AND_REQUEUE])


def directives(run: Run, settings: Settings) -> list[str]:
    """What the script asks of Slurm."""
    asked = {
        "job-name": check_name(settings.name, run),
        "nodes": settings.nodes,
        "ntasks-per-node": tasks_per_node(settings),
        "gpus-per-node": settings.gpus_per_node,
        "cpus-per-task": settings.cpus_per_task,
        "partition": settings.partition,
        "account": settings.account,
        "time": settings.time,
        "signal": f"B:TERM@{settings.leave_seconds}",
        "open-mode": "append",  # a job that comes back goes on with its log
    }
    lines = [f"--{key}={check_word(key, str(value))}" for key, value in asked.items() if value]
    lines += [check_sbatch(word) for word in settings.sbatch.split()]
    return [f"#SBATCH {line}" for line in [*lines, "--requeue"]]


def tasks_per_node(settings: Settings) -> int:
    """JAX gives a task of Slurm the GPU of its local number, so there is one task for each GPU."""
    return settings.tasks_per_node or max(1, settings.gpus_per_node)


def program(settings: Settings) -> list[str]:
    """The words that start `offsites` on a node."""
    if settings.container:
        gpu = ["--nv"] if settings.gpus_per_node else []
        return ["apptainer", "exec", *gpu, os.path.abspath(settings.container), "offsites"]
    if settings.venv:
        return [os.path.join(os.path.abspath(settings.venv), "bin", "offsites")]
    return ["offsites"]


def check(run: Run, settings: Settings) -> None:
    """Raises UserError for settings that cannot work."""
    check_at_least("nodes", settings.nodes, 1)
    check_at_least("leave-seconds", settings.leave_seconds, 1)
    for name in ("tasks_per_node", "gpus_per_node", "cpus_per_task"):
        check_at_least(name.replace("_", "-"), getattr(settings, name), 0)
    if settings.gpus_per_node:
        check_mesh(run, settings.nodes * settings.gpus_per_node)
    if settings.venv and settings.container:
        raise UserError("--venv, --container: give one of them; the container has its own offsites")
    if settings.nodes > 1 and run.rooted().workdir.startswith(tuple(f"{folder}/" for folder in NODE_LOCAL)):
        raise UserError(
            f"--workdir: {run.workdir!r} is another folder on each of the {settings.nodes} nodes; give one "
            "on the cluster's shared file system, or gs://bucket/folder"
        )


def check_sbatch(word: str) -> str:
    """A further option of sbatch.

    Raises:
      UserError: it is no option of the form --key=value or --key.

    """
    if not word.startswith("--"):
        raise UserError(f"--sbatch: {word!r} is no option; say --sbatch='--qos=long --exclusive'")
    check_word("sbatch", word.removeprefix("--"))
    return word
