"""The manifest of an export: what it is, and the SHA-256 of each of its files."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, cast

from offsites_jax.errors import DamagedDataError, UserError

MANIFEST = "manifest.json"
CONFIG = "config.json"
README = "README.md"


def is_remote(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is in a bucket, such as gs://bucket/folder."""
    return "://" in os.fspath(folder)


def as_path(folder: str | os.PathLike[str]) -> pathlib.Path:
    """The folder as a path object; one in a bucket as that of etils, which is imported only then."""
    if not is_remote(folder):
        return pathlib.Path(folder)
    from etils import epath

    return cast(pathlib.Path, epath.Path(folder))


def write_json(file: pathlib.Path, value: Any) -> None:
    """Writes indented JSON with sorted keys."""
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_manifest(folder: pathlib.Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes `manifest.json`: the facts, with size and SHA-256 of every other file under `files`."""
    manifest = {**facts, "files": {name: fingerprint(folder / name) for name in file_names(folder)}}
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of an export.

    Raises:
      UserError: the folder is no export.
      DamagedDataError: the manifest is not what was written.

    """
    file = folder / MANIFEST
    if not file.is_file():
        raise UserError(f"{folder}: no {MANIFEST} here; give a folder made by `offsites export`")
    try:
        manifest = json.loads(file.read_text())
    except ValueError as error:  # covers malformed JSON and malformed UTF-8
        raise DamagedDataError(f"{file}: damaged ({error}); copy or export it again") from None
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(map(_is_inside, files)):
        raise DamagedDataError(f"{file}: damaged (lists no files of this folder); copy or export it again")
    return manifest


def verify(folder: pathlib.Path) -> dict[str, Any]:
    """Checks every file against the manifest and returns it.

    Raises:
      UserError: the folder is no export.
      DamagedDataError: a file is missing, cut short or changed; the message names the first such file.

    """
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise DamagedDataError(f"{file}: missing, but {MANIFEST} lists it; copy or export it again")
        found = fingerprint(file)
        for key, unit in (("size", " bytes"), ("sha256", "")):
            if found[key] != expected[key]:
                raise DamagedDataError(
                    f"{file}: damaged ({key} {found[key]}{unit}, {MANIFEST} says {expected[key]}{unit}); "
                    "copy or export it again"
                )
    return manifest


def file_names(folder: pathlib.Path) -> list[str]:
    """Relative POSIX paths of all files of an export but its manifest, sorted."""
    files = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in files if name != MANIFEST)


def fingerprint(file: pathlib.Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"size": stream.tell(), "sha256": digest}


def _is_inside(name: str) -> bool:
    path = pathlib.PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
