"""Files that survive a power cut: whole or not there, and never written over by chance."""

import hashlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any

from offsites_jax.errors import DamagedDataError, UserError

_PIECE = 1 << 20


def write_durably(path: pathlib.Path, content: bytes) -> None:
    """Write to a temporary file beside it, onto the disk, then under its name."""
    partial = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            sync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: pathlib.Path, value: Any) -> None:
    """`write_durably` of readable JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_durably(path, f"{text}\n".encode())


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """An object from a file.

    Raises:
      UserError: no such file.
      DamagedDataError: it holds something else.

    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check the path") from error
    except (ValueError, RecursionError) as error:
        raise DamagedDataError(f"{path}: is not valid JSON; restore it from a copy") from error
    if not isinstance(value, dict):
        raise DamagedDataError(f"{path}: holds no JSON object; restore it from a copy")
    return value


def append_json(path: pathlib.Path, value: Any) -> None:
    """Add a line to a file of JSON lines, onto the disk; half a line of an earlier crash is closed first."""
    with path.open("a+b") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        stream.flush()
        sync(stream.fileno())
    sync_folder(path.parent)


def read_json_lines(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that `append_json` wrote, without a line that a crash cut off."""
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n"):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def sha256_of(path: pathlib.Path) -> str:
    """Digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def sync(descriptor: int) -> None:
    """Wait until an open file is on the disk."""
    os.fsync(descriptor)


def sync_folder(folder: pathlib.Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
