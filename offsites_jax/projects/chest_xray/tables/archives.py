"""Files from strangers: archives that cannot write outside themselves, XML without entities."""

import io
import os
import tarfile
import xml.etree.ElementTree as ET  # only its tree: the parser below is expat itself
from collections.abc import Iterator
from pathlib import PurePosixPath
from xml.parsers import expat

from etils import epath

from offsites_jax.errors import DamagedDataError, UserError

MAX_FILE = 4 * 2**20
MAX_TOTAL = 2**30
MAX_FILES = 200_000


def read_members(path: str | os.PathLike[str], suffix: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files of a tar archive (any compression) or folder that end in `suffix`.

    An archive is read as a stream and nothing of it is written to disk.

    Raises:
      UserError: there is no such file or folder.
      DamagedDataError: not an archive, cut off, or larger than the limits of this module; or a member is a
        link or device, or has an absolute path or one with "..".

    """
    place = epath.Path(path)
    if place.is_dir():
        yield from _files(place, suffix)
    elif place.exists():
        yield from _members(place, suffix)
    else:
        raise UserError(f"{path}: no such file or folder; name the archive, or the folder it was unpacked to")


def safe_path(name: str) -> str:
    """A relative path that stays below its root, in its shortest form.

    Raises:
      ValueError: an absolute path, a drive, "..", or no path at all; the message says which.

    """
    parts = PurePosixPath(name.replace("\\", "/"))
    if not parts.parts or "\0" in name:
        raise ValueError(f"{name!r} is not a path")
    if parts.is_absolute() or ":" in parts.parts[0]:
        raise ValueError(f"{name!r} is an absolute path")
    if ".." in parts.parts:
        raise ValueError(f"{name!r} leaves its folder")
    return str(parts)


def parse_xml(content: bytes, place: str) -> ET.Element:
    """The root of an XML document that declares no entities.

    Raises:
      DamagedDataError: it is no XML, or declares an entity.

    """
    builder = ET.TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = _refuse
    parser.ExternalEntityRefHandler = _refuse
    try:
        parser.Parse(content, True)
        return builder.close()
    except _EntityError:
        raise DamagedDataError(
            f"{place}: declares an XML entity, which is refused; remove its DOCTYPE"
        ) from None
    except (expat.ExpatError, AssertionError) as error:
        raise DamagedDataError(f"{place}: not well-formed XML ({error})") from error


class _EntityError(Exception):
    pass


def _refuse(*_: object) -> int:
    raise _EntityError


def _files(folder: epath.Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith(suffix):
                file = epath.Path(root) / name
                if file.stat().length > MAX_FILE:
                    raise DamagedDataError(f"{file}: larger than {MAX_FILE} bytes; no report is")
                yield str(file.relative_to(folder)), file.read_bytes()


def _members(archive: epath.Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    total = 0
    try:
        with archive.open("rb") as stream, tarfile.open(fileobj=stream, mode="r|*") as members:
            for number, member in enumerate(members):
                total += member.size
                _check(archive, member, number, total)
                content = members.extractfile(member) if member.isreg() else None
                if content is not None and member.name.endswith(suffix):
                    yield member.name, content.read()
    except (tarfile.TarError, EOFError, OSError, io.UnsupportedOperation) as error:
        raise DamagedDataError(
            f"{archive}: cannot be read as a tar archive ({error}); fetch it again"
        ) from error


def _check(archive: epath.Path, member: tarfile.TarInfo, number: int, total: int) -> None:
    if not member.isreg() and not member.isdir():
        raise DamagedDataError(f"{archive}: {member.name!r} is a link or a device; only plain files are read")
    try:
        safe_path(member.name)
    except ValueError as error:
        raise DamagedDataError(f"{archive}: {error}; such archives are not read") from None
    if member.size > MAX_FILE or total > MAX_TOTAL or number >= MAX_FILES:
        raise DamagedDataError(
            f"{archive}: {member.name!r} goes beyond {MAX_FILE} bytes a file, {MAX_TOTAL} "
            f"in all or {MAX_FILES} files"
        )
