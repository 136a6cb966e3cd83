"""Pseudonyms: the same patient always gets the same one, and nobody without the key can tell who it is."""

import hashlib
import hmac
import os

from etils import epath

from offsites_jax.errors import UserError

KEY_VARIABLE = "OFFSITES_IDENTITY_KEY"
MIN_KEY_BYTES = 16

_LENGTH = 20  # hexadecimal digits: 80 bits, no two of a billion patients alike


def read_key(path: str | os.PathLike[str] | None = None) -> bytes:
    """The key from a file, or from the environment variable OFFSITES_IDENTITY_KEY.

    A key is any secret of at least 16 bytes, such as `openssl rand -hex 32` writes. White space around it
    does not count.

    Raises:
      UserError: there is none, or it is too short.

    """
    if path is None:
        place, key = KEY_VARIABLE, os.environ.get(KEY_VARIABLE, "").encode()
    else:
        place, file = str(path), epath.Path(path)
        if not file.exists():
            raise UserError(f"{place}: no such file; make a key with `openssl rand -hex 32 > {place}`")
        key = file.read_bytes()
    key = key.strip()
    if len(key) < MIN_KEY_BYTES:
        raise UserError(
            f"{place}: a key of {MIN_KEY_BYTES} bytes or more is needed, as `openssl rand -hex 32` gives"
        )
    return key


def pseudonym(key: bytes, identifier: str, site: str = "") -> str:
    """Keyed HMAC-SHA-256 of a site and an identifier there, such as a patient's number.

    Raises:
      UserError: the key is too short, or the identifier empty.

    """
    if len(key) < MIN_KEY_BYTES:
        raise UserError(f"key: has {len(key)} bytes; {MIN_KEY_BYTES} or more are needed")
    if not identifier.strip():
        raise UserError("patient identifier: empty; patients without one cannot be told apart")
    message = _part(site) + _part(identifier.strip())
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:_LENGTH]


def _part(text: str) -> bytes:
    """Text with its length before it, so that no two pairs of site and identifier make the same message."""
    data = text.encode()
    return len(data).to_bytes(4, "big") + data
