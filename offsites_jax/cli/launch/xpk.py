"""`--on xpk`: a workload of xpk (AI-Hypercomputer/xpk) on a GKE cluster that xpk made."""

import dataclasses
import shlex

from offsites_jax.cli.launch.options import option
from offsites_jax.cli.launch.run import (
    RESTARTS,
    Run,
    check_at_least,
    check_name,
    check_remote,
    check_slices,
    check_word,
)
from offsites_jax.cli.launch.tools import call
from offsites_jax.errors import EXIT_PREEMPTED, UserError


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of `--on xpk`."""

    cluster: str = option("cluster that xpk made")
    image: str = option("image that holds offsites and the experiment file")
    tpu_type: str = option("kind and size of the TPU, such as v5litepod-16")
    name: str = option("name of the job; made from the experiment file's by default", "")
    slices: int = option("slices", 1)
    zone: str = option("zone; that of gcloud by default", "")
    project: str = option("Google Cloud project; that of gcloud by default", "")
    priority: str = option("priority, from very-low to very-high", "")
    restarts: int = option(RESTARTS, 100)
    save_seconds: int = option("how long saving may take when asked to leave", 120)


def launch(run: Run, settings: Settings, dry_run: bool) -> None:
    """Creates the workload, or prints the command.

    Raises:
      UserError: an option is impossible, or xpk is not installed.

    """
    command = workload_command(run, settings)
    if dry_run:
        print(shlex.join(command))
        return
    call(command, "install it with pip install xpk")


def workload_command(run: Run, settings: Settings) -> list[str]:
    """The argument list."""
    check(run, settings)
    optional = {key: getattr(settings, key) for key in ("zone", "project", "priority")}
    return [
        *("xpk", "workload", "create"),
        f"--workload={check_name(settings.name, run)}",
        f"--cluster={settings.cluster}",
        f"--tpu-type={settings.tpu_type}",
        f"--num-slices={settings.slices}",
        f"--docker-image={settings.image}",
        f"--command={pod_line(run.on_tpu())}",
        f"--max-restarts={settings.restarts}",
        f"--restart-on-exit-codes={EXIT_PREEMPTED}",
        f"--termination-grace-period-seconds={settings.save_seconds}",
        *(f"--{key}={value}" for key, value in optional.items() if value),
    ]


def pod_line(run: Run) -> str:
    """The line that bash reads in each pod.

    It stands in a manifest, where Kubernetes reads $$ as $. `exec` makes sure that signals reach the
    training.

    Raises:
      UserError: for a line break or the like, which xpk's manifest cannot hold.

    """
    line = shlex.join(["exec", *run.assignments(), "offsites", *run.words()])
    if not line.isprintable():
        raise UserError(
            f"--on xpk: cannot pass on line breaks, tabs and other invisible characters, as in {line!r}"
        )
    return line.replace("$", "$$")


def check(run: Run, settings: Settings) -> None:
    """Raises UserError for settings that cannot work."""
    check_remote(run, "xpk")
    check_slices(run, settings.slices)
    check_at_least("restarts", settings.restarts, 0)
    check_at_least("save-seconds", settings.save_seconds, 1)
    for name in ("cluster", "image", "tpu_type", "zone", "project", "priority"):
        if getattr(settings, name):
            check_word(name.replace("_", "-"), getattr(settings, name))
