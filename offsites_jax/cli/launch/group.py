"""Processes on this machine that live and end together."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from offsites_jax.cli.launch.run import HOPELESS
from offsites_jax.errors import EXIT_PREEMPTED

# When one process is gone the others can no longer save together: they only need time to say so.
CRASH_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a group ended.

    Attributes:
      order: (index of the process, return code) in the order they ended, without those that were stopped
        because of another; a negative code is a signal.
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


class News:
    """What has happened to a group so far, and a way to wait for more.

    Attributes:
      order: (index of the process, return code) of those that ended, the first one first.
      asked: whether we were asked to leave.
      hurried: whether we were asked again, by Ctrl-C.

    """

    def __init__(self) -> None:
        self.order: list[tuple[int, int]] = []
        self.asked = self.hurried = False
        self._more = asyncio.Event()

    def note_end(self, index: int, code: int) -> None:
        """A process ended."""
        self.order.append((index, code))
        self._more.set()

    def note_request(self, number: signal.Signals) -> None:
        """We were asked to leave by this signal."""
        self.hurried = self.asked and number == signal.SIGINT
        self.asked = True
        self._more.set()

    async def until(self, reached: Callable[[], bool], seconds: float | None = None) -> None:
        """Waits until `reached`, at most this long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not reached():
                    self._more.clear()
                    await self._more.wait()


class Member(asyncio.SubprocessProtocol):
    """One process of a group: passes its lines on, with its index before each, and tells when it ends.

    It has ended when it is gone, even while something that it started still holds its pipes.
    """

    def __init__(self, index: int, news: News) -> None:
        self._index = index
        self._news = news
        self._unfinished = {1: b"", 2: b""}
        self._running = True
        self.silent = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process has started."""
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._process = transport
        self.pid = transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Prints whole lines."""
        *lines, self._unfinished[fd] = (self._unfinished[fd] + data).split(b"\n")
        for line in lines:
            self._print(fd, line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Prints what came after the last line break."""
        if self._unfinished.get(fd):
            self._print(fd, self._unfinished[fd])

    def process_exited(self) -> None:
        """Ends what the process started as well: workers that load data."""
        self._running = False
        self._kill_group()
        code = self._process.get_returncode()
        assert code is not None
        self._news.note_end(self._index, code)

    def connection_lost(self, exc: Exception | None) -> None:
        """All that it said has been printed."""
        self.silent.set()

    def ask_to_leave(self) -> None:
        """Sends SIGTERM to the process, but not to what it started, which it needs for its last step."""
        if self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def end(self) -> None:
        """Ends the process and what it started."""
        if self._running:
            self._kill_group()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _print(self, fd: int, line: bytes) -> None:
        out = sys.stdout if fd == 1 else sys.stderr
        print(f"[{self._index}] {line.decode(errors='replace')}", file=out, flush=True)


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
    news = News()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, news.note_request, number)
    group = [await start(command, environment, Member(index, news)) for index, command in enumerate(commands)]
    pids = " ".join(str(member.pid) for member in group)
    print(f"offsites: started {len(group)} processes: pid {pids}", file=sys.stderr, flush=True)

    def over() -> bool:
        return len(news.order) == len(group)

    def torn() -> bool:
        return any(code not in (0, EXIT_PREEMPTED) for _, code in news.order)

    # Undisturbed, until one ends badly or leaves, or all are asked to leave.
    await news.until(lambda: over() or news.asked or any(code for _, code in news.order))
    if news.asked:
        for member in group:
            member.ask_to_leave()
    # Who leaves has agreed with the others on a step: give them time to save, unless one can no longer.
    await news.until(lambda: over() or torn() or news.hurried, save_seconds)
    by_themselves = tuple(news.order) if torn() else ()
    for member in group:
        member.ask_to_leave()
    await news.until(lambda: over() or news.hurried, CRASH_SECONDS)
    for member in group:
        member.end()
    await news.until(over)
    for member in group:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(member.silent.wait(), CRASH_SECONDS)
    return Ending(by_themselves or tuple(news.order), news.asked)


async def start(command: Sequence[str], environment: Mapping[str, str], member: Member) -> Member:
    """Starts a process with pipes that we hold.

    In a session of its own, so that Ctrl-C reaches it through us alone and all that it starts can be ended
    with it.
    """
    loop = asyncio.get_running_loop()
    await loop.subprocess_exec(lambda: member, *command, env=environment, start_new_session=True)
    return member
