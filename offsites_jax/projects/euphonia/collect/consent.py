"""Consent: the text a speaker is shown, and the record of what was agreed to and taken back.

Records have the fields that google/euphonia's audiotool stores with each recording, without its signature.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from offsites_jax.errors import UserError

Record: TypeAlias = dict[str, Any]

SAMPLE = pathlib.Path(__file__).parent / "consent.txt"

_FORM = "begin it with `id:`, `version:` (a whole number) and `title:`, then an empty line and the text"


@dataclasses.dataclass(frozen=True)
class Consent:
    """What a speaker is asked to agree to.

    Attributes:
      consent_id: of the form, such as `home-study`.
      version: a higher one asks everyone again.
      title: one line.
      text: paragraphs with empty lines between them.

    """

    consent_id: str
    version: int
    title: str
    text: str


def read_consent(path: pathlib.Path) -> Consent:
    """A form from a text file: `id:`, `version:` and `title:`, an empty line, then the text.

    Raises:
      UserError: a missing file, or one of another form.

    """
    try:
        head, _, text = path.read_text("utf-8").strip().partition("\n\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text; check the path") from error
    fields = {name.strip(): value.strip() for name, _, value in (s.partition(":") for s in head.splitlines())}
    if set(fields) != {"id", "version", "title"} or not fields["version"].isdecimal() or not text.strip():
        raise UserError(f"{path}: is no consent form; {_FORM}")
    if not fields["id"].replace("-", "").replace("_", "").isalnum():
        raise UserError(f"{path}: id {fields['id']!r} is no plain name; take letters, digits, - and _")
    return Consent(fields["id"], int(fields["version"]), fields["title"], text.strip())


def write_form(form: Consent) -> str:
    """A form as `read_consent` reads it."""
    return f"id: {form.consent_id}\nversion: {form.version}\ntitle: {form.title}\n\n{form.text}\n"


def agreed(records: Iterable[Record], consent: Consent) -> bool:
    """Whether this version of the form is agreed to, and not taken back."""
    wanted = (consent.consent_id, consent.version)
    return any((r["consentId"], r["version"]) == wanted and not r["revokeTimestamp"] for r in records)


def agree(records: Sequence[Record], consent: Consent, now_ms: int) -> list[Record]:
    """The records with one more; valid ones of other versions of the same form are marked as superseded."""
    if agreed(records, consent):
        return list(records)
    kept = [
        {**r, "superseded": True} if r["consentId"] == consent.consent_id and not r["revokeTimestamp"] else r
        for r in records
    ]
    new = {
        "consentId": consent.consent_id,
        "version": consent.version,
        "consentTimestamp": now_ms,
        "revokeTimestamp": 0,
    }
    return [*kept, new]


def revoke(records: Iterable[Record], now_ms: int) -> list[Record]:
    """The records with all that were valid taken back now."""
    return [r if r["revokeTimestamp"] else {**r, "revokeTimestamp": now_ms} for r in records]


def in_force(stored: Iterable[Record], current: Iterable[Record]) -> bool:
    """Whether a recording may be used.

    It may if one of the consents it was made under still stands. To agree again later does not bring earlier
    recordings back.

    Args:
      stored: with the recording.
      current: of its speaker.

    """
    standing = {_identity(r) for r in current if not r["revokeTimestamp"]}
    return any(_identity(r) in standing and not r["revokeTimestamp"] for r in stored)


def _identity(record: Record) -> tuple[Any, ...]:
    return record["consentId"], record["version"], record["consentTimestamp"]
