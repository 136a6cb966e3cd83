"""Errors meant for the person at the keyboard, and the exit codes they end a process with.

Each message is one line: what is wrong, where (file, field, key), and what to do.
"""

EXIT_USER_ERROR = 2
EXIT_DAMAGED_DATA = 3
EXIT_NON_FINITE = 4
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: start the same command again to go on


class OffsitesError(Exception):
    """Base of every error the command line prints as one line instead of a traceback."""

    exit_code = 1


class UserError(OffsitesError):
    """Something the user can put right: a wrong key, a missing folder, an impossible mesh."""

    exit_code = EXIT_USER_ERROR


class DamagedDataError(OffsitesError):
    """Data that exists but is broken: a corrupt image, a checkpoint with a flipped bit."""

    exit_code = EXIT_DAMAGED_DATA


class NonFiniteLossError(OffsitesError):
    """The loss became NaN or infinite; the message names the step and the objective."""

    exit_code = EXIT_NON_FINITE


class Preempted(OffsitesError):  # noqa: N818 - an event, not a mistake
    """The process was asked to leave; its state is saved and the run can go on."""

    exit_code = EXIT_PREEMPTED
