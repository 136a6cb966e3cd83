"""Processes on this machine that live and end together."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from offsites_jax.errors import (
    EXIT_DAMAGED_DATA,
    EXIT_NON_FINITE,
    EXIT_PREEMPTED,
    EXIT_USER_ERROR,
)

# Starting again does not help against these.
HOPELESS = (EXIT_USER_ERROR, EXIT_DAMAGED_DATA, EXIT_NON_FINITE)

# When one process is gone the others can no longer save together: they only need time to say so.
CRASH_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a group ended.

    Attributes:
      order: (index of the process, return code) in the order they ended; a negative code is a signal.
      asked: whether the group was asked to leave.

    """

    order: tuple[tuple[int, int], ...]
    asked: bool

    @property
    def culprit(self) -> tuple[int, int] | None:
        """The first process that neither finished nor left as asked, and its return code."""
        calm = (0, EXIT_PREEMPTED, -signal.SIGTERM) if self.asked else (0, EXIT_PREEMPTED)
        return next((end for end in self.order if end[1] not in calm), None)

    @property
    def finished(self) -> bool:
        """Whether all ran to their end."""
        return all(code == 0 for _, code in self.order)

    @property
    def hopeless(self) -> bool:
        """Whether the same would happen again."""
        return self.culprit is not None and self.culprit[1] in HOPELESS


async def run_together(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], save_seconds: float
) -> Ending:
    """Runs one process per command until all have ended.

    When one fails, the others are stopped. SIGTERM and Ctrl-C are passed on as SIGTERM, so that the processes
    save together and leave; a second Ctrl-C does not wait for them.

    Args:
      commands: argument lists.
      environment: variables of the processes.
      save_seconds: how long they may take to leave when asked.

    """
    asked, hurried = _listen()
    order: list[tuple[int, int]] = []
    group = [await _start(command, environment) for command in commands]
    copies = [
        asyncio.create_task(_copy(index, stream, out))
        for index, process in enumerate(group)
        for stream, out in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    ]
    ends = [asyncio.create_task(_end(index, process, order)) for index, process in enumerate(group)]

    def failed() -> bool:
        return Ending(tuple(order), asked.is_set()).culprit is not None

    # Undisturbed, until one ends badly or leaves, or all are asked to leave.
    await _until(ends, lambda: asked.is_set() or any(code for _, code in order), asked)
    if asked.is_set():
        _signal(group, signal.SIGTERM)
    # Whoever leaves has agreed with the others on a step: give them time to save.
    await _until(ends, lambda: failed() or hurried.is_set(), hurried, timeout=save_seconds)
    if not hurried.is_set():
        _signal(group, signal.SIGTERM)
        await _until(ends, hurried.is_set, hurried, timeout=CRASH_SECONDS)
    for process in group:
        if process.returncode is None:
            _kill_group(process)
    await asyncio.wait(ends)
    await asyncio.wait(copies, timeout=CRASH_SECONDS)
    return Ending(tuple(order), asked.is_set())


def _listen() -> tuple[asyncio.Event, asyncio.Event]:
    """Events that are set by the first and by the second request to leave."""
    asked, hurried = asyncio.Event(), asyncio.Event()

    def note(number: signal.Signals) -> None:
        if asked.is_set() and number == signal.SIGINT:
            hurried.set()
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, note, number)
    return asked, hurried


async def _start(command: Sequence[str], environment: Mapping[str, str]) -> Process:
    # A session of its own: Ctrl-C reaches the process through us alone, and its workers end with it.
    return await asyncio.create_subprocess_exec(
        *command, env=environment, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
    )


async def _end(index: int, process: Process, order: list[tuple[int, int]]) -> None:
    order.append((index, await process.wait()))
    _kill_group(process)


async def _until(
    ends: Sequence[asyncio.Task[None]],
    reached: Callable[[], bool],
    event: asyncio.Event,
    timeout: float | None = None,
) -> None:
    """Waits until `reached`, at most until all have ended or the time is over; `event` wakes it up as well."""
    waker = asyncio.create_task(event.wait())
    deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
    while not reached():
        running = [end for end in ends if not end.done()]
        left = None if deadline is None else deadline - asyncio.get_running_loop().time()
        if not running or (left is not None and left <= 0):
            break
        await asyncio.wait([*running, waker], timeout=left, return_when=asyncio.FIRST_COMPLETED)
    waker.cancel()


async def _copy(index: int, stream: asyncio.StreamReader, out: TextIO) -> None:
    """Passes lines on, with the index of the process before each."""
    rest = b""
    while chunk := await stream.read(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            print(f"[{index}] {line.decode(errors='replace')}", file=out, flush=True)
    if rest:
        print(f"[{index}] {rest.decode(errors='replace')}", file=out, flush=True)


def _signal(group: Sequence[Process], number: signal.Signals) -> None:
    for process in group:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


def _kill_group(process: Process) -> None:
    """Ends a process and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
