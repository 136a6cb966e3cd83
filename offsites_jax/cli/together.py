"""Processes of one run that end together, each with one line that says why.

Left to itself JAX ends the others by abort(): at once and with a stack trace where process 0 has died, after
minutes of missing heartbeats where another one has. Here each process keeps a connection to process 0. Over
it goes the reason for which one of them stops, and its end without a word is the death of a process.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, wait
from typing import Any, NamedTuple

import jax
from absl import logging
from jax._src import distributed  # the store that all processes share has no public name

from offsites_jax.cli.abort import on_abort
from offsites_jax.errors import EXIT_PREEMPTED, NonFiniteLossError, OffsitesError, Preempted
from offsites_jax.train.lost import ProcessLostError

# Errors that all processes raise at the same step: each says so itself and leaves in order.
SHARED = (Preempted, NonFiniteLossError)
# How long processes wait to be connected, and one that knows a reason to end for the others to hear it.
MEETING_SECONDS, PATIENCE_SECONDS = 60.0, 2.0
AGAIN = "see its log, then start all of them again to go on from the newest checkpoint"

_ADDRESS, _GOODBYE = "offsites_jax/together", b""
_leaving = threading.Lock()

Links = dict[int, Connection]


class Reason(NamedTuple):
    """Why all end: the line for the user, and the exit code."""

    message: str
    code: int


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends every process when the block fails in one of them; does nothing for a lone process."""
    if jax.process_count() == 1:
        yield
        return
    links: Links = {}
    met = threading.Event()
    target = _meet if jax.process_index() == 0 else _follow
    threading.Thread(target=target, args=(links, met), daemon=True).start()
    if not met.wait(MEETING_SECONDS):
        logging.warning("not all processes are connected: should one die, the others may take minutes to end")
    with _explaining_abort():
        try:
            yield
        except SHARED:
            raise
        except OffsitesError as error:
            if isinstance(error, ProcessLostError):
                time.sleep(PATIENCE_SECONDS)  # somebody may know which one, and end this process
            _leave(str(error), _stopped(str(error), error.exit_code), links)
        except Exception as error:
            traceback.print_exc()
            _leave(repr(error), _stopped(repr(error), 1), links)
        finally:
            _send(_GOODBYE, links)


def show_host() -> None:
    """Says which process this is, where, and what it computes on; nothing for a lone process."""
    if jax.process_count() == 1:
        return
    devices = jax.local_devices()
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    memory = f" of {limit / 2**30:.1f} GiB" if limit else ""
    print(
        f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()}: {len(devices)} x "
        f"{devices[0].device_kind}{memory}, {jax.device_count()} devices in all",
        file=sys.stderr,
        flush=True,
    )


def _meet(links: Links, met: threading.Event) -> None:
    """Process 0: takes the connections of all others, then passes on the first news of any of them."""
    store: Any = distributed.global_state.client
    key = secrets.token_bytes(16)
    with Listener(("0.0.0.0", 0), backlog=jax.process_count(), authkey=key) as listener:  # noqa: S104
        port = listener.address[1]
        store.key_value_set(_ADDRESS, f"{port} {key.hex()}", allow_overwrite=True)
        while len(links) < jax.process_count() - 1:
            with contextlib.suppress(OSError, EOFError, AuthenticationError):  # not one of us
                link = listener.accept()
                links[int(link.recv_bytes())] = link
    met.set()
    indices: dict[Any, int] = {link: index for index, link in links.items()}
    while indices:
        for ready in wait(list(indices)):
            index = indices.pop(ready)
            _pass_on(_news(links[index], index), {i: link for i, link in links.items() if i != index})


def _follow(links: Links, met: threading.Event) -> None:
    """Every other process: waits for news from process 0."""
    state: Any = distributed.global_state
    with contextlib.suppress(OSError, EOFError, AuthenticationError, jax.errors.JaxRuntimeError):
        port, key = state.client.blocking_key_value_get(_ADDRESS, int(MEETING_SECONDS * 1000)).split()
        host = state.coordinator_address.rsplit(":", 1)[0].strip("[]")
        link = Client((host, int(port)), authkey=bytes.fromhex(key))
        link.send_bytes(str(jax.process_index()).encode())
        links[0] = link
        met.set()
        _pass_on(_news(link, 0), {})


def _news(link: Connection, index: int) -> bytes:
    """What comes over the link of a process: a reason to end, or the goodbye of one that has finished."""
    try:
        return link.recv_bytes()
    except (OSError, EOFError):
        died = Reason(f"process {index} of {jax.process_count()} died; {AGAIN}", EXIT_PREEMPTED)
        return json.dumps(died).encode()


def _pass_on(news: bytes, links: Links) -> None:
    """Ends the others and this process for the reason given."""
    if news != _GOODBYE:
        reason = Reason(*json.loads(news))
        _leave(reason.message, reason, links)


def _stopped(message: str, code: int) -> Reason:
    """What the others are told of an error of this process."""
    return Reason(f"process {jax.process_index()} of {jax.process_count()} stopped: {message}", code)


def _leave(message: str, reason: Reason, links: Links) -> None:
    """Exits at once: an orderly exit would wait for processes that are gone."""
    _leaving.acquire()  # and never let go: the first thread to get here speaks for the process
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(2, f"offsites: {message}\n".encode())  # in one piece: JAX may write at the same moment
    if links:
        _send(json.dumps(reason).encode(), links)
        time.sleep(PATIENCE_SECONDS)
    os._exit(reason.code)


def _send(message: bytes, links: Links) -> None:
    for link in list(links.values()):
        with contextlib.suppress(OSError):  # it has gone
            link.send_bytes(message)


def _explaining_abort() -> contextlib.AbstractContextManager[None]:
    """Says what it means when JAX aborts this process, and leaves with the code that asks for a new start."""
    who = f"process {jax.process_index()} of {jax.process_count()}"
    line = f"offsites: {who}: JAX ended it, most likely since another process died (see above); {AGAIN}\n"

    def explain() -> None:
        if _leaving.acquire(timeout=PATIENCE_SECONDS):  # else another thread has the word
            os.write(2, line.encode())
        os._exit(EXIT_PREEMPTED)

    return on_abort(explain)
