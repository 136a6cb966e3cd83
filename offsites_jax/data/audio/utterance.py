"""What readers of speech give: one record per recording, and what they left out."""

from typing import NamedTuple


class Utterance(NamedTuple):
    """A recording with its text.

    Attributes:
      key: name within its collection; the same in every language where recordings are parallel.
      path: of the file.
      text: what is said, cleaned.
      language: ISO code, as "en" or "pt_BR".
      speaker: whose voice it is.
      seconds: length.

    """

    key: str
    path: str
    text: str
    language: str
    speaker: str
    seconds: float


class Collection(NamedTuple):
    """Recordings in byte order of their keys.

    Attributes:
      utterances: those with a text.
      left_out: key and reason of every other.

    """

    utterances: tuple[Utterance, ...]
    left_out: tuple[tuple[str, str], ...]
