"""What to run, whatever it runs on, and the checks that all targets share."""

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from offsites_jax.errors import EXIT_DAMAGED_DATA, EXIT_NON_FINITE, EXIT_USER_ERROR, UserError

if TYPE_CHECKING:
    from offsites_jax.parallel.mesh import MeshSettings

# Kubernetes appends the slice, the host and five random letters, and allows 63 characters in all.
LONGEST_NAME = 40

# Exit codes against which starting again does not help.
HOPELESS = (EXIT_USER_ERROR, EXIT_DAMAGED_DATA, EXIT_NON_FINITE)

RESTARTS = "how often to start again after a crash or a preemption; on gke preemptions do not count"


@dataclasses.dataclass(frozen=True)
class Run:
    """One `offsites train`, told apart from where it runs.

    Attributes:
      experiment: experiment file, as the processes will find it.
      workdir: folder of the run.
      overrides: values by dotted key.
      mesh: the experiment's mesh, overrides applied.
      environment: variables of the processes.
      flags: further options of `offsites train`, such as --profile=10:15.

    """

    experiment: str
    workdir: str
    overrides: Mapping[str, str]
    mesh: "MeshSettings"
    environment: Mapping[str, str]
    flags: Sequence[str] = ()

    def words(self) -> list[str]:
        """The arguments of `offsites`."""
        overrides = [f"--config.{key}={value}" for key, value in self.overrides.items()]
        return ["train", self.experiment, f"--workdir={self.workdir}", *self.flags, *overrides]

    def assignments(self) -> list[str]:
        """The environment as words before a command; `env` passes them on without a shell."""
        if not self.environment:
            return []
        return ["env", *(f"{key}={value}" for key, value in self.environment.items())]

    def name(self) -> str:
        """A name made from the experiment file's."""
        stem = os.path.basename(self.experiment).partition(".py")[0].lower()
        return re.sub(r"[^a-z0-9]+", "-", stem).strip("-")[:LONGEST_NAME]

    def rooted(self) -> "Run":
        """The same run with absolute paths, for processes that start in another folder."""
        return dataclasses.replace(self, experiment=rooted(self.experiment), workdir=rooted(self.workdir))

    def on_tpu(self) -> "Run":
        """The same run where a host without TPU fails instead of training on its CPU."""
        return dataclasses.replace(self, environment={"JAX_PLATFORMS": "tpu,cpu", **self.environment})


def rooted(path: str) -> str:
    """An absolute path; gs:// and the like stay."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def parse_environment(assignments: Iterable[str]) -> dict[str, str]:
    """Reads ["KEY=VALUE"].

    Raises:
      UserError: for anything else.

    """
    environment = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise UserError(f"--env: {assignment!r} is no KEY=VALUE; say --env OFFSITES_PATH=systems")
        environment[key] = value
    return environment


def check_name(name: str, run: Run) -> str:
    """The job's name, which becomes part of host names; an empty one is made from the experiment file's."""
    name = name or run.name()
    if not re.fullmatch(rf"[a-z](?:[-a-z0-9]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?", name):
        raise UserError(
            f"--name: {name!r} cannot be part of a host name; use at most {LONGEST_NAME} of a-z, 0-9 and -, "
            "with a letter first and no - last"
        )
    return name


def check_word(flag: str, value: str) -> str:
    """A value that is one plain word: a zone, a partition, an accelerator."""
    if not re.fullmatch(r"[A-Za-z0-9_.,:@/=+*\[\]-]+", value) or value.startswith("-"):
        raise UserError(f"--{flag}: {value!r} must be one word without spaces, quotes or $")
    return value


def check_at_least(flag: str, value: int, least: int) -> int:
    """A number that is not too small."""
    if value < least:
        raise UserError(f"--{flag}: {value} is too few; give at least {least}")
    return value


def check_mesh(run: Run, devices: int) -> None:
    """Raises UserError for a mesh that leaves devices out, or needs more: seen here, before any is booked."""
    from offsites_jax.parallel.mesh import mesh_shape

    used = math.prod(mesh_shape(run.mesh, devices))
    if used < devices:
        raise UserError(
            f"config.mesh: uses {used} of the {devices} devices asked for; set one of data, fsdp, tensor to "
            "-1, as in --config.mesh.data=-1"
        )


def check_slices(run: Run, slices: int) -> None:
    """Raises UserError when the mesh knows of another number of slices."""
    check_at_least("slices", slices, 1)
    if run.mesh.slices != slices:
        raise UserError(
            f"--slices: {slices}, but config.mesh.slices is {run.mesh.slices}; "
            f"say --config.mesh.slices={slices} too"
        )


def check_remote(run: Run, target: str) -> None:
    """Raises UserError for paths that the hosts of a pod do not have."""
    if not run.workdir.startswith("gs://"):
        raise UserError(
            f"--workdir: {run.workdir!r} would be another folder on every host of --on {target}, and gone "
            "with it; give a bucket, gs://bucket/folder"
        )
    if os.path.isabs(run.experiment):
        raise UserError(
            f"{run.experiment}: a path of this machine; for --on {target} start in the project's folder and "
            "say experiments/..., which the hosts have too"
        )
