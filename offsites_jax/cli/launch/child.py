"""One process of a group on this machine: `offsites`, and a watch on whoever started it.

Its standard input is a pipe that the launcher holds and never writes to. The pipe ends when the launcher
does, however it ends, so that no process stays behind.
"""

import io
import os
import signal
import sys
import threading
import time

from offsites_jax.cli.main import main


class ToLauncher(io.FileIO):
    """A pipe that the launcher reads; when it is gone, what is written goes nowhere.

    A line of the log may be on its way in the very moment the launcher dies. It must not end the training.
    """

    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # any buffer
        """Writes, or does as if."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def leave_with_launcher(seconds: float) -> None:
    """Waits for the launcher to be gone; then asks this process to save and leave, and at last ends it.

    Args:
      seconds: how long saving may take.

    """
    while os.read(0, 1):
        pass
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for broken in (1, 2):  # the launcher read these; writing to them would now be an error
        os.dup2(nowhere, broken)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(seconds)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BufferedWriter(ToLauncher(pipe, "w", closefd=False)), line_buffering=True)
        for pipe in (1, 2)
    )
    threading.Thread(target=leave_with_launcher, args=(float(sys.argv[1]),), daemon=True).start()
    main(sys.argv[2:])
