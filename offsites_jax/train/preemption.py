"""SIGTERM as a request to leave at the next step, agreed between all processes."""

import signal
import threading
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Context in which SIGTERM is noted instead of killing the process.

    With several processes JAX's own service catches the signal and makes all of them stop at one step.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: signal.Handlers | int | None = None

    def __enter__(self) -> "Preemption":
        alone = jax.process_count() == 1
        # Only the main thread may install handlers; elsewhere SIGTERM keeps its meaning.
        if alone and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)  # type: ignore[assignment]
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def reached(self, step: int) -> bool:
        """Whether all processes should save at `step` and leave."""
        if jax.process_count() == 1:
            return self._asked
        return multihost_utils.reached_preemption_sync_point(step)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
