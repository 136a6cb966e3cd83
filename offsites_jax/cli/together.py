"""Processes of one run that end together, each with one line that says why.

Left to itself JAX ends the others by abort(), minutes later when heartbeats stay away, or at once with a
stack trace where process 0 is the one that died; and a process that leaves waits for all others to leave.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax
from jax._src.distributed import global_state  # the key-value store between processes has no public name

from offsites_jax.errors import EXIT_PREEMPTED, NonFiniteLossError, OffsitesError, Preempted

# Errors that all processes raise at the same step, so that each can say so itself and leave in order.
SHARED = (Preempted, NonFiniteLossError)
POLL_SECONDS = 0.5

_KEY = "offsites_jax/end"


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends every process when the block fails in one of them; does nothing for a lone process."""
    if jax.process_count() == 1:
        yield
        return
    finished = threading.Event()
    threading.Thread(target=_listen, args=(finished,), daemon=True).start()
    with _explaining_abort():
        try:
            yield
        except SHARED:
            raise
        except Exception as error:
            finished.set()
            known = isinstance(error, OffsitesError)
            if not known:
                traceback.print_exc()
            _tell_and_leave(str(error) if known else repr(error), error.exit_code if known else 1)
        finally:
            finished.set()


def _listen(finished: threading.Event) -> None:
    """Waits until another process says why it ends, and ends this one."""
    while not finished.wait(POLL_SECONDS):
        try:
            news = json.loads(global_state.client.key_value_try_get(_KEY))
        except (jax.errors.JaxRuntimeError, AttributeError):
            continue  # nothing there, or JAX is going down
        if not finished.is_set():
            _leave(f"process {news['process']} stopped: {news['message']}", news["code"])


def _tell_and_leave(message: str, code: int) -> None:
    """Tells the others, and gives them the time to hear it: they die with the connections to this one."""
    news = {"process": jax.process_index(), "message": message, "code": code}
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process was first
        global_state.client.key_value_set(_KEY, json.dumps(news))
    time.sleep(4 * POLL_SECONDS)
    _leave(message, code)


def _leave(message: str, code: int) -> None:
    """Exits now: an orderly exit would wait for the processes that are gone."""
    print(f"offsites: {message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def _explaining_abort() -> Iterator[None]:
    """Says what it means when JAX aborts this process, and leaves with the code that asks for a new start.

    JAX does so in a thread of its own when process 0 or a heartbeat is gone. Python's own signal handlers
    would run only after an abort() that never returns.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    who = f"process {jax.process_index()} of {jax.process_count()}"
    line = (
        f"offsites: {who}: ended by JAX for the reason above, most likely because another process died; see "
        "its log, then start all of them again to go on from the newest checkpoint\n"
    ).encode()

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def explain(number: int) -> None:
        os.write(sys.__stderr__.fileno(), line)
        os._exit(EXIT_PREEMPTED)

    before = libc.signal(signal.SIGABRT, ctypes.cast(explain, ctypes.c_void_p))
    try:
        yield
    finally:
        libc.signal(signal.SIGABRT, before)
