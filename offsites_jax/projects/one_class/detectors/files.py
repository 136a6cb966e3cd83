"""Fitted scorers as files: NAME.npz holds the arrays, NAME.json says what they are. No pickle anywhere."""

import dataclasses
import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import numpy as np
from etils import epath

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.one_class.detectors.base import Scorer
from offsites_jax.projects.one_class.stored import read_about, write_file
from offsites_jax.train.media import encode_json

FORMAT = 1

S = TypeVar("S", bound=Scorer)


@dataclasses.dataclass(frozen=True)
class About:
    """The JSON file.

    Attributes:
      format: version of this layout.
      kind: of the scorer.
      settings: its fields that are no arrays.
      sha256: of the file of arrays.

    """

    format: int
    kind: str
    settings: dict[str, Any]
    sha256: str


def write(scorer: Scorer, path: str | os.PathLike[str]) -> None:
    """Writes `path`.npz and `path`.json, each under its final name only when complete.

    Raises:
      UserError: the folder cannot be written.

    """
    arrays = {name: np.asarray(getattr(scorer, name)) for name in scorer.shapes()}
    settings = {f.name: getattr(scorer, f.name) for f in _settings(type(scorer))}
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    content = stream.getvalue()
    about = About(FORMAT, scorer.kind, settings, hashlib.sha256(content).hexdigest())
    arrays_file, about_file = _files(path)
    # The JSON names the digest of the arrays, so a crash between the two is noticed when reading.
    write_file(arrays_file, content)
    write_file(about_file, encode_json(dataclasses.asdict(about)).content)


def read(path: str | os.PathLike[str], kinds: Mapping[str, type[S]]) -> S:
    """The scorer that `write` wrote.

    Args:
      path: as given to `write`.
      kinds: the class of each kind.

    Raises:
      UserError: no such files, a kind that is unknown, or files of a newer version.
      DamagedDataError: the two files do not belong together, or are broken.

    """
    arrays_file, about_file = _files(path)
    for file in (about_file, arrays_file):
        if not file.exists():
            raise UserError(f"{file}: no such file; a scorer is a .json and a .npz of the same name")
    about = read_about(about_file, About, FORMAT, "a scorer")
    if about.kind not in kinds:
        raise UserError(f"{about_file}: unknown kind of scorer {about.kind!r}; known: {', '.join(kinds)}")
    content = arrays_file.read_bytes()
    if hashlib.sha256(content).hexdigest() != about.sha256:
        raise DamagedDataError(
            f"{arrays_file}: is not the file that {about_file.name} describes; fit the scorer again"
        )
    arrays = _read_arrays(arrays_file, content)
    scorer = kinds[about.kind]
    _check_arrays(arrays_file, arrays, scorer)
    return scorer(**arrays, **_checked_settings(about_file, about, scorer))


def _settings(scorer: type[Scorer]) -> list[dataclasses.Field]:
    """The fields that are no arrays."""
    return [field for field in dataclasses.fields(scorer) if field.name not in scorer.shapes()]


def _files(path: str | os.PathLike[str]) -> tuple[epath.Path, epath.Path]:
    """The arrays and the JSON; a dot in the name is no suffix."""
    stem = epath.Path(path)
    return stem.with_name(f"{stem.name}.npz"), stem.with_name(f"{stem.name}.json")


def _read_arrays(file: epath.Path, content: bytes) -> dict[str, np.ndarray]:
    try:
        packed = zipfile.ZipFile(io.BytesIO(content)).infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in packed):
            raise ValueError("its arrays are compressed")  # which could unpack to any size
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, zipfile.BadZipFile, KeyError, OSError) as error:
        raise DamagedDataError(f"{file}: does not hold arrays ({error}); fit the scorer again") from None


def _check_arrays(file: epath.Path, arrays: Mapping[str, np.ndarray], scorer: type[Scorer]) -> None:
    """Raises DamagedDataError unless every array is there, finite, and of a shape that fits the others."""
    shapes = scorer.shapes()
    if set(arrays) != set(shapes):
        raise DamagedDataError(
            f"{file}: holds {', '.join(sorted(arrays)) or 'no arrays'}, but a {scorer.kind} scorer has "
            f"{', '.join(shapes)}; fit it again"
        )
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        expected = shapes[name].split()
        wanted = [sizes.setdefault(axis, size) for axis, size in zip(expected, array.shape, strict=False)]
        if len(expected) != array.ndim or wanted != list(array.shape):
            raise DamagedDataError(
                f"{file}: array {name} of shape {list(array.shape)} is not [{', '.join(expected)}] "
                f"with {sizes}; fit the scorer again"
            )
        dtype = np.int32 if name == "samples" else np.float32
        if array.dtype != dtype or not np.isfinite(array).all():
            raise DamagedDataError(
                f"{file}: array {name} is no finite {dtype.__name__}; fit the scorer again"
            )


def _checked_settings(file: epath.Path, about: About, scorer: type[Scorer]) -> dict[str, Any]:
    fields = {f.name: f.type for f in _settings(scorer)}
    if set(about.settings) != set(fields):
        raise DamagedDataError(
            f"{file}: settings {sorted(about.settings)} are not those of a {about.kind} scorer, "
            f"{sorted(fields)}; fit it again"
        )
    try:
        return {name: msgspec.convert(about.settings[name], kind) for name, kind in fields.items()}
    except msgspec.ValidationError as error:
        raise DamagedDataError(f"{file}: a setting is wrong ({error}); fit the scorer again") from None
