"""Unpacks the archives checkpoints are published in, trusting nothing they say."""

import pathlib
import re
import shutil
import tarfile
import zlib
from typing import IO

from offsites_jax.errors import DamagedDataError, UserError

SUFFIXES = (".tgz", ".tar.gz", ".tar")
_WANTED = re.compile(r"checkpoint|[^/\\]+\.index|[^/\\]+\.data-\d{5}-of-\d{5}")
_LIMIT = 1 << 35  # bytes


def unpack_checkpoint(archive: pathlib.Path, folder: pathlib.Path, limit: int = _LIMIT) -> None:
    """Puts the files of a TensorFlow checkpoint into a folder, all on one level.

    Only regular files with the names of such files are taken, by their last name alone: neither `..`, nor
    absolute paths, nor links lead anywhere.

    Args:
      archive: a `.tar`, compressed or not.
      folder: where to.
      limit: bytes that the archive may hold.

    Raises:
      UserError: it holds more than `limit`, or two files of one name.
      DamagedDataError: it cannot be read to its end.

    """
    total = 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                total += member.size
                if total > limit:
                    raise UserError(f"{archive}: unpacks to more than {limit:,} bytes; unpack it yourself")
                name = pathlib.PurePosixPath(member.name).name
                stream = tar.extractfile(member) if member.isreg() and _WANTED.fullmatch(name) else None
                if stream is not None:
                    _write_new(folder / name, stream, archive)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        why = " ".join(str(error).split())  # Python tries one compression after another, a line for each
        raise DamagedDataError(f"{archive}: cannot be unpacked ({why}); download it again") from error


def _write_new(file: pathlib.Path, stream: IO[bytes], archive: pathlib.Path) -> None:
    if file.exists():
        raise UserError(f"{archive}: holds two files {file.name}; unpack it and give the one to read")
    with file.open("xb") as target:
        shutil.copyfileobj(stream, target)
