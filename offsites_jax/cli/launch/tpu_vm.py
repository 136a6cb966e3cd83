"""`--on tpu-vm`: a TPU slice by gcloud, with the training started on all its hosts over ssh."""

import dataclasses
import shlex
import sys

from offsites_jax.cli.launch.options import option
from offsites_jax.cli.launch.run import (
    HOPELESS,
    RESTARTS,
    Run,
    check_at_least,
    check_name,
    check_remote,
    check_word,
)
from offsites_jax.cli.launch.tools import ProcessFailedError, call
from offsites_jax.errors import UserError

INSTALL = "install the Google Cloud CLI (cloud.google.com/sdk) and say gcloud auth login"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of `--on tpu-vm`."""

    zone: str = option("zone, such as us-west4-a")
    name: str = option("name of the job; made from the experiment file's by default", "")
    project: str = option("Google Cloud project; that of gcloud by default", "")
    tpu_type: str = option("kind and size of the TPU, such as v5litepod-16; needed by --create and xpk", "")
    create: bool = option("create the TPU first", False)
    version: str = option("system image of the TPU that --create makes, such as v2-alpha-tpuv5-lite", "")
    spot: bool = option("use spot capacity, which is cheap and may be taken away", False)
    image: str = option("image that holds offsites and the experiment file", "")
    checkout: str = option(
        "without --image: the project's folder on the hosts, with its .venv", "offsites_jax"
    )
    restarts: int = option(RESTARTS, 0)


def launch(run: Run, settings: Settings, dry_run: bool) -> None:
    """Runs the commands one after the other, or prints them.

    Raises:
      UserError: an option is impossible, or gcloud is not installed.
      ProcessFailedError: a command failed.

    """
    steps = commands(run, settings)
    if dry_run:
        for step in steps:
            print(shlex.join(step))
        return
    for step in steps[:-1]:
        call(step, INSTALL)
    for restarts_left in reversed(range(settings.restarts + 1)):
        try:
            return call(steps[-1], INSTALL)
        except ProcessFailedError as error:
            if error.exit_code in HOPELESS or not restarts_left:
                raise
            print(f"offsites: {error}. Starting again, restarts left: {restarts_left - 1}", file=sys.stderr)


def commands(run: Run, settings: Settings) -> list[list[str]]:
    """The argument lists: at last the training, before it perhaps the creation of the TPU."""
    check(run, settings)
    name = check_name(settings.name, run)
    where = [f"--zone={settings.zone}", *([f"--project={settings.project}"] if settings.project else [])]
    vm = ["gcloud", "compute", "tpus", "tpu-vm"]
    train = [*vm, "ssh", name, *where, "--worker=all", f"--command={remote_line(run.on_tpu(), settings)}"]
    if not settings.create:
        return [train]
    kind = [f"--accelerator-type={settings.tpu_type}", f"--version={settings.version}"]
    return [[*vm, "create", name, *where, *kind, *(["--spot"] if settings.spot else [])], train]


def remote_line(run: Run, settings: Settings) -> str:
    """The line that the shell of a host reads; every word of ours reaches `offsites` as it is."""
    if settings.image:
        variables = [f"--env={key}={value}" for key, value in run.environment.items()]
        docker = ["sudo", "docker", "run", "--rm", "--privileged", "--net=host", *variables]
        return shlex.join([*docker, "--entrypoint=offsites", settings.image, *run.words()])
    words = [*run.assignments(), ".venv/bin/offsites", *run.words()]
    return f"{shlex.join(['cd', '--', settings.checkout])} && {shlex.join(['exec', *words])}"


def check(run: Run, settings: Settings) -> None:
    """Raises UserError for settings that cannot work."""
    check_remote(run, "tpu-vm")
    check_at_least("restarts", settings.restarts, 0)
    for name in ("zone", "project", "tpu_type", "version", "image"):
        if getattr(settings, name):
            check_word(name.replace("_", "-"), getattr(settings, name))
    if settings.create and not (settings.tpu_type and settings.version):
        raise UserError(
            "--create: needs --tpu-type and --version, such as v5litepod-16 and v2-alpha-tpuv5-lite"
        )
