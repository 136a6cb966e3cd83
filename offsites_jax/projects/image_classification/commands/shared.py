"""What the commands of the project share: starting JAX, reading options, writing results."""

import json
from collections.abc import Iterable
from typing import Any

from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.errors import DamagedDataError


def write_rows(rows: Iterable[dict[str, Any]], output: str) -> int:
    """Prints rows as JSON lines, or writes them to a file, each as it comes; returns how many."""
    count = 0
    if not output:
        for row in rows:
            print(json.dumps(row), flush=True)
            count += 1
        return count
    partial = epath.Path(f"{output}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w") as stream:
        for row in rows:
            stream.write(f"{json.dumps(row)}\n")
            stream.flush()
            count += 1
    partial.replace(output)
    return count


def write(file: epath.PathLike, content: bytes) -> None:
    """Writes a file whole or not at all."""
    write_atomically(epath.Path(file), content)


def start(cpu_devices: int = 0, cache: epath.PathLike | None = None) -> None:
    """Starts JAX."""
    from offsites_jax.parallel.start import start as start_jax

    start_jax(cpu_devices, cache=cache)


def check_all_read(errors: dict[str, str], count: int) -> None:
    """Raises DamagedDataError where some files were bad."""
    if errors:
        first, reason = next(iter(errors.items()))
        raise DamagedDataError(
            f"{len(errors)} of {count} files could not be read; the first, {first}: {reason}"
        )
