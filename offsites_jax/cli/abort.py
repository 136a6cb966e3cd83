"""The last word when a library aborts this process."""

import contextlib
import ctypes
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def on_abort(act: Callable[[], None]) -> Iterator[None]:
    """Calls `act` when a C++ library calls abort() in the block; it should write a line and `os._exit`.

    A signal handler of Python would be run after abort() returns, which it never does; hence one of C.
    Libraries that install one of their own must have been loaded before.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handle(number: int) -> None:
        del number
        act()

    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    before = libc.signal(signal.SIGABRT, ctypes.cast(handle, ctypes.c_void_p))
    try:
        yield
    finally:
        libc.signal(signal.SIGABRT, before)
