"""Files that are never seen half-written."""

import os

from etils import epath


def write_atomically(file: epath.Path, content: bytes) -> None:
    """Writes a file whole or not at all; makes its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
