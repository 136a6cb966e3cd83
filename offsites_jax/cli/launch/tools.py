"""Programs that a target is reached with: found, run with an argument list, never through a shell."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence

from offsites_jax.errors import OffsitesError, UserError


class ProcessFailedError(OffsitesError):
    """A process ended with an exit code that is now ours."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def call(command: Sequence[str], install: str, standard_input: str | None = None) -> None:
    """Runs a program to its end.

    Args:
      command: the program and its arguments.
      install: where the program comes from, for who lacks it.
      standard_input: text that it reads.

    Raises:
      UserError: the program is not installed.
      ProcessFailedError: it failed.

    """
    program = shutil.which(command[0])
    if program is None:
        raise UserError(
            f"{command[0]}: not installed here; {install}, or say --dry-run and run what it prints elsewhere"
        )
    done = subprocess.run([program, *command[1:]], input=standard_input, text=True, check=False)  # noqa: S603
    if done.returncode:
        code = exit_code(done.returncode)
        raise ProcessFailedError(f"{shlex.join(command[:3])} ...: ended with exit code {code}", code)


def exit_code(returncode: int) -> int:
    """What a shell would say of a process: 128 and the number of the signal that killed it."""
    return returncode if returncode >= 0 else 128 - returncode
