"""Files a user names, for prediction: no labels, no splits."""

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence

from etils import epath

from offsites_jax.data.source import Record
from offsites_jax.errors import UserError

MAX_BYTES = 2**30
_WILD = frozenset("*?[")


class FilesSource:
    """Whole files by position; a folder stands for all files below it, a pattern for what matches.

    Files of a folder or pattern are in byte order of path; what has a name with a dot in front is left out.
    In a pattern `**` stands for any folders; a file that really has the pattern as its name goes first.

    Records are {"content": bytes, "path": str}.

    Raises:
      UserError: a path that does not exist, or nothing to read at all.

    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = [file for path in paths for file in _files(epath.Path(path))]
        if not self._paths:
            raise UserError(f"{', '.join(paths) or 'INPUT'}: no files to read; name files or a folder")

    def __len__(self) -> int:
        """Number of files."""
        return len(self._paths)

    def __getitem__(self, index: int) -> Record:
        """The bytes of one file; refuses files over 1 GiB."""
        path = self._paths[index]
        if path.stat().length > MAX_BYTES:
            raise UserError(f"{path}: larger than 1 GiB; cut it into smaller files")
        return {"content": path.read_bytes(), "path": str(path)}

    def describe(self, index: int) -> str:
        """The file's path."""
        return str(self._paths[index])

    def fingerprint(self) -> str:
        """Digest of the paths."""
        return hashlib.sha256("\0".join(map(str, self._paths)).encode()).hexdigest()[:16]


def _files(path: epath.Path) -> list[epath.Path]:
    if path.is_dir():
        return _in_order(_below(path, ()))
    if path.exists():
        return [path]
    if not _WILD & set(os.fspath(path)):
        raise UserError(f"{path}: no such file; check the path")
    found = {
        file
        for match in _matches(os.fspath(path))
        for file in (_below(match, ()) if match.is_dir() else [match])
    }
    if not found:
        raise UserError(f"{path}: no file matches; check the pattern")
    return _in_order(found)


def _below(folder: epath.Path, inside: tuple[str, ...]) -> Iterator[epath.Path]:
    """All files of a folder and its folders; a link back to one it lies in is not followed."""
    place = os.path.realpath(folder)
    if place in inside:
        return
    for child in folder.iterdir():
        if child.name.startswith("."):
            continue
        if child.is_dir():
            yield from _below(child, (*inside, place))
        elif child.is_file():
            yield child


def _matches(pattern: str) -> list[epath.Path]:
    """Files and folders that a pattern means."""
    if "://" not in pattern:
        return [epath.Path(found) for found in glob.glob(pattern, recursive=True)]
    if "**" in pattern:
        raise UserError(f"{pattern}: a bucket is not searched with **; name the folder, which stands for all")
    folder, _, last = pattern.rpartition("/")
    return [found for found in epath.Path(folder).glob(last) if not found.name.startswith(".")]


def _in_order(files: Iterator[epath.Path] | set[epath.Path]) -> list[epath.Path]:
    return sorted(files, key=lambda file: os.fsencode(os.fspath(file)))
