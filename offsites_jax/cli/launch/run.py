"""What to run, whatever it runs on, and the checks that all targets share."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence

from offsites_jax.errors import UserError

# Kubernetes appends the slice, the host and five random letters, and allows 63 characters in all.
LONGEST_NAME = 40


@dataclasses.dataclass(frozen=True)
class Run:
    """One `offsites train`, told apart from where it runs.

    Attributes:
      experiment: experiment file, as the processes will find it.
      workdir: folder of the run.
      overrides: values by dotted key.
      environment: variables of the processes.
      flags: further options of `offsites train`, such as --profile=10:15.

    """

    experiment: str
    workdir: str
    overrides: Mapping[str, str]
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


def check_bucket(workdir: str, target: str) -> None:
    """A folder that every host of a pod sees."""
    if not workdir.startswith("gs://"):
        raise UserError(
            f"--workdir: {workdir!r} would be another folder on every host of --on {target}, and gone with it; "
            "give a bucket, gs://bucket/folder"
        )
