"""Files a user names, for prediction: no labels, no splits."""

import hashlib
from collections.abc import Sequence

from etils import epath

from offsites_jax.data.source import Record
from offsites_jax.errors import UserError

MAX_BYTES = 2**30


class FilesSource:
    """Whole files by position; a folder stands for the files directly inside it, in byte order of name.

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
        inside = (p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        return sorted(inside, key=lambda p: p.name.encode())
    if not path.exists():
        raise UserError(f"{path}: no such file; check the path")
    return [path]
