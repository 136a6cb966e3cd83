"""The roll call: which processes of a run are there, which are missing, and whether they agree.

JAX waits for all processes of a run without saying for which. So before they join they meet at the address
of the coordinator over a plain connection: each says who and where it is and what it is about to run;
process 0 compares, and tells all of them to go on, or why not.
"""

import contextlib
import dataclasses
import socket
import time
from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec

from offsites_jax.errors import UserError

_LINE_BYTES = 16 * 1024  # of what one says to another
_SPEAK_SECONDS = 5.0  # time to say it in, once connected
_RETRY_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Presence:
    """What a process says of itself.

    Attributes:
        index: its number, from 0.
        count: how many processes it believes there are.
        host: the name of its machine.
        same: what must be equal in all processes, by name: versions, the experiment.

    """

    index: int
    count: int
    host: str
    same: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What process 0 tells the others: why nobody can go on, or an empty string."""

    problem: str


Message = TypeVar("Message", Presence, Verdict)


def answer_roll_call(coordinator: str, me: Presence, timeout_seconds: float) -> None:
    """Returns when all processes are there and agree.

    Args:
        coordinator: "host:port" of process 0, which listens there until all have come.
        me: this process.
        timeout_seconds: how long to wait for the others.

    Raises:
        UserError: one is missing, two are the same, or they disagree: which ones, and in what.

    """
    deadline = time.monotonic() + timeout_seconds
    if me.index:
        problem = _report_to(coordinator, me, deadline, timeout_seconds)
    else:
        problem = _call(coordinator, me, deadline, timeout_seconds)
    if problem:
        raise UserError(problem)


def problem_of(roll: Mapping[int, Presence], arrival: Presence) -> str:
    """Why a process that arrives does not fit those on the roll; empty if it does."""
    first = roll[0]
    if not 0 <= arrival.index < arrival.count == first.count:
        return (
            f"{_who(arrival)} was started as one of {arrival.count}, {_who(first)} as one of {first.count}: "
            "give all the same process count, and each an index below it"
        )
    if arrival.index in roll:
        hosts = " and ".join(sorted((roll[arrival.index].host, arrival.host)))  # whoever came first
        return (
            f"two processes call themselves process {arrival.index} of {first.count}, on {hosts}: "
            "give each its own index"
        )
    for name, value in first.same.items():
        if arrival.same.get(name) != value:
            return (
                f"{_who(arrival)} has {name} {arrival.same.get(name)}, {_who(first)} has {value}: "
                "start all processes from the same installation with the same command"
            )
    return ""


def missing(roll: Mapping[int, Presence], count: int, coordinator: str, waited: float) -> str:
    """Names the processes that are not on the roll."""
    absent = [str(index) for index in range(count) if index not in roll]
    here = ", ".join(f"{index} on {roll[index].host}" for index in sorted(roll))
    return (
        f"process {', '.join(absent)} of {count} did not come to coordinator {coordinator} within "
        f"{waited:g} s (here: {here}): look at its log, and start it with the same coordinator and count"
    )


def _who(presence: Presence) -> str:
    return f"process {presence.index} on {presence.host}"


def _call(coordinator: str, me: Presence, deadline: float, waited: float) -> str:
    """Process 0: notes who comes, and tells all of them what is wrong, if anything."""
    roll, links, problem = {0: me}, [], ""
    with _listening(coordinator) as server, contextlib.ExitStack() as open_links:
        while len(roll) < me.count and not problem:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                link = open_links.enter_context(server.accept()[0])
            except TimeoutError:
                problem = missing(roll, me.count, coordinator, waited)
                break
            arrival = _heard(link)
            if arrival is None:  # a port scanner, or a process of another kind
                continue
            links.append(link)
            problem = problem_of(roll, arrival)
            roll[arrival.index] = arrival
        for link in links:
            _say(link, Verdict(problem))
        for link in links:  # they hang up first: the port is free for JAX at once
            with contextlib.suppress(OSError):
                link.recv(1)
    return problem


def _report_to(coordinator: str, me: Presence, deadline: float, waited: float) -> str:
    """Every other process: reports, and hears how it went."""
    while (link := _connected(coordinator)) is None:
        if time.monotonic() > deadline:
            return (
                f"process {me.index} of {me.count} found nothing at coordinator {coordinator} within "
                f"{waited:g} s: check the address and the firewall, and that process 0 runs"
            )
        time.sleep(_RETRY_SECONDS)
    with link:
        _say(link, me)
        link.settimeout(max(deadline - time.monotonic(), 0) + _SPEAK_SECONDS)
        verdict = _read(link, Verdict)
    if verdict is None:
        return (
            f"process {me.index} of {me.count} got no answer at coordinator {coordinator}: process 0 ended, "
            "or another program listens there; look at the log of process 0"
        )
    return verdict.problem


@contextlib.contextmanager
def _listening(coordinator: str) -> Iterator[socket.socket]:
    port = int(coordinator.rsplit(":", 1)[1])
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        server = socket.create_server(
            ("", port), family=family, dualstack_ipv6=family == socket.AF_INET6, backlog=1024
        )
    except (OSError, OverflowError) as error:
        raise UserError(
            f"process 0 cannot listen on port {port} of coordinator {coordinator} ({error}): "
            "choose a free port"
        ) from error
    with server:
        yield server


def _connected(coordinator: str) -> socket.socket | None:
    host, port = coordinator.rsplit(":", 1)
    try:
        return socket.create_connection((host.strip("[]"), int(port)), timeout=_SPEAK_SECONDS)
    except OSError:
        return None


def _heard(link: socket.socket) -> Presence | None:
    link.settimeout(_SPEAK_SECONDS)
    return _read(link, Presence)


def _say(link: socket.socket, message: Presence | Verdict) -> None:
    with contextlib.suppress(OSError):  # it has gone: others will say why
        link.sendall(msgspec.json.encode(message) + b"\n")


def _read(link: socket.socket, kind: type[Message]) -> Message | None:
    """One line of JSON; None where nothing of the kind comes in time."""
    try:
        with link.makefile("rb") as lines:
            return msgspec.json.decode(lines.readline(_LINE_BYTES), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
