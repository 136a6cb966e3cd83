"""Files of this project: written whole or not at all, and JSON that says what a folder holds."""

import io
import json
from typing import TypeVar

import msgspec
import numpy as np
from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.errors import DamagedDataError, UserError

T = TypeVar("T")


def write_file(file: epath.PathLike, content: bytes) -> None:
    """Writes a file that is never seen half-written; makes its folder.

    Raises:
      UserError: it cannot be written.

    """
    path = epath.Path(file)
    try:
        write_atomically(path, content)
    except OSError as error:
        what = f"{path}: cannot be written ({error.strerror or error})"
        raise UserError(f"{what}; free some space or choose another folder") from None


def read_about(file: epath.Path, kind: type[T], newest: int, what: str) -> T:
    """A JSON file with a field `format`, as the dataclass that it was written from.

    Args:
      file: to read.
      kind: the dataclass.
      newest: version of the layout that this package writes.
      what: it describes, for messages, such as "a scorer".

    Raises:
      UserError: it is of a newer version.
      DamagedDataError: it does not describe such a thing.

    """
    try:
        plain = json.loads(file.read_bytes())
        if isinstance(plain, dict) and isinstance(plain.get("format"), int) and plain["format"] > newest:
            raise UserError(f"{file}: format {plain['format']} is newer than this package; update it")
        return msgspec.convert(plain, kind)
    except (ValueError, msgspec.ValidationError) as error:
        raise DamagedDataError(f"{file}: does not describe {what} ({error}); fit it again") from None


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as a `.npy` file, without pickle."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
