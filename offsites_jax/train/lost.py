"""A process of the run that has died, as the others find out: by an error of the collectives between them."""

import contextlib
import re
from collections.abc import Callable, Iterator
from types import TracebackType

import jax

from offsites_jax.errors import EXIT_PREEMPTED, OffsitesError

# How Gloo, NCCL and JAX's own coordination service say that somebody does not answer.
_NO_ANSWER = re.compile(
    r"gloo|nccl|coordination|heartbeat|barrier|UNAVAILABLE|DEADLINE_EXCEEDED", re.IGNORECASE
)


class ProcessLostError(OffsitesError):
    """Another process of the run died; started again, all of them go on from the newest checkpoint."""

    exit_code = EXIT_PREEMPTED


@contextlib.contextmanager
def explaining_loss() -> Iterator[None]:
    """Turns the error of a collective that lost one of its processes into a ProcessLostError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not tells_of_loss(error):
            raise
        who = f"process {jax.process_index()} of {jax.process_count()}"
        raise ProcessLostError(
            f"{who}: another process died or cannot be reached ({_gist(error)}); see its log, then start "
            "all of them again to go on from the newest checkpoint"
        ) from error


def unless_lost(close: Callable[[], None]) -> Callable[..., None]:
    """An exit callback that calls `close`, which waits for all processes, only if all are there."""

    def exit(kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not tells_of_loss(error):
            close()

    return exit


def tells_of_loss(error: BaseException | None) -> bool:
    """Whether the error says that another process is gone."""
    several = jax.process_count() > 1
    return several and isinstance(error, jax.errors.JaxRuntimeError) and bool(_NO_ANSWER.search(str(error)))


def _gist(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
