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
        self._calls = 0
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

    def reached(self) -> bool:
        """Whether all processes should save and leave. Call once a step, on all of them.

        JAX agrees on a call number above that of every process and compares for equality. It takes the number
        as 0 before the first call; so calls must be counted from 1, not by steps that a resumed run starts
        high: a signal during its start would be lost.
        """
        if jax.process_count() == 1:
            return self._asked
        self._calls += 1
        return multihost_utils.reached_preemption_sync_point(self._calls)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
