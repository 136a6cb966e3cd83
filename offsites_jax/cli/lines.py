"""Line output that appears under its name only when complete."""

import os
import pathlib
from collections.abc import Iterable

from offsites_jax.errors import UserError


def write_lines(lines: Iterable[str], output: str | None) -> None:
    """Prints the lines, or writes them to a file that exists only once all are written."""
    if not output:
        for line in lines:
            print(line, flush=True)
        return
    file = pathlib.Path(output)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with partial.open("w") as stream:
            stream.writelines(f"{line}\n" for line in lines)
        partial.rename(file)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror}); choose another --output") from None
    finally:
        partial.unlink(missing_ok=True)
