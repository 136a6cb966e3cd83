"""Recordings on their way in: announced with size and digest, sent in pieces, taken up where they broke off.

An upload has an id that the page drew. Everything can be said twice: what is complete stays complete, and
what was deleted is not taken in again.
"""

import pathlib
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from offsites_jax.projects.euphonia.collect.audio import decode, listen
from offsites_jax.projects.euphonia.collect.collection import Collection, Metadata
from offsites_jax.projects.euphonia.collect.consent import Consent, agreed
from offsites_jax.projects.euphonia.collect.files import (
    read_json,
    sha256_of,
    sync,
    sync_folder,
    write_json,
)

MAX_BYTES = 20 * 2**20

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_DEVICE = {"userAgent": str, "sampleRate": int, "baseLatency": float, "recorder": str}


class Refused(Exception):  # noqa: N818 - an answer to the page
    """What the page is told instead.

    Attributes:
      status: of HTTP.
      message: one line.
      more: further fields of the answer.

    """

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.more = more


class Progress(NamedTuple):
    """How far an upload is.

    Attributes:
      offset: bytes that are on the disk.
      metadata: of the recording once complete.

    """

    offset: int
    metadata: Metadata | None = None


class Uploads:
    """Takes recordings into a collection."""

    def __init__(self, collection: Collection, form: Consent) -> None:
        self._collection = collection
        self._form = form
        self._folder = collection.folder / "uploads"
        self._lock = threading.RLock()
        self._busy: set[str] = set()
        self._tidy()

    def begin(self, speaker: str, announced: Mapping[str, Any]) -> Progress:
        """Announce a recording, or ask how far it came.

        Args:
          speaker: whose it is.
          announced: `id`, `prompt_id`, `size` in bytes, `sha256`, `local_date` (2026-01-31T12:00:00),
            `utc_offset` in minutes, and optionally `device`.

        Raises:
          Refused: without consent, too large, of no known prompt, deleted before, or malformed.

        """
        ticket = _check_ticket(announced)
        with self._lock:
            self._check_consent(speaker)
            done = self._committed(speaker, ticket["id"])
            if done is not None:
                return Progress(ticket["size"], done)
            if ticket["prompt_id"] not in self._collection.prompts(speaker):
                raise Refused(404, "There is no such prompt.")
            folder = self._folder / ticket["id"]
            if (folder / "upload.json").exists():
                self._same(speaker, ticket, read_json(folder / "upload.json"))
            else:
                name, time_ms = self._collection.free_name(speaker, ticket["local_date"], self._names())
                folder.mkdir(exist_ok=True)
                ticket |= {"speaker": speaker, "name": name, "timestamp": time_ms}
                write_json(folder / "upload.json", ticket)
            return self._progress(speaker, ticket["id"])

    def open(self, speaker: str, upload_id: str, offset: int) -> "Receiver":
        """Go on at a byte.

        Raises:
          Refused: without consent, no such upload, another one is writing, or it is not at this byte.

        """
        with self._lock:
            self._check_consent(speaker)
            self._ticket(speaker, upload_id)
            if upload_id in self._busy:
                raise Refused(409, "This recording is just being sent.", busy=True)
            there = self._offset(upload_id)
            if offset != there:
                raise Refused(409, f"{there} bytes are here.", offset=there)
            self._busy.add(upload_id)
        return Receiver(self, speaker, upload_id)

    def finish(self, speaker: str, upload_id: str) -> Progress:
        """Complete an upload whose bytes are all there; otherwise say how far it is.

        Raises:
          Refused: the bytes differ from what was announced (they are dropped: send again), or are no WAV file
            (nothing is kept).

        """
        with self._lock:
            ticket = self._ticket(speaker, upload_id)
            folder = self._folder / upload_id
            place = self._collection.recording_path(speaker, ticket["name"])
            part = folder / "audio.part"
            if not place.exists():  # else a crash came between this and the JSON
                if self._offset(upload_id) < ticket["size"]:
                    return Progress(self._offset(upload_id))
                self._check_audio(part, ticket)
                part.replace(place)
                sync_folder(place.parent)
            prompt = self._collection.prompts(speaker)[ticket["prompt_id"]]
            read = prompt.text if prompt.kind == "prompt" else ""
            metadata = self._collection.commit(ticket, listen(decode(place.read_bytes()), read))
            shutil.rmtree(folder)
            return Progress(ticket["size"], metadata)

    def close(self, upload_id: str) -> None:
        """Allow others to go on with an upload."""
        with self._lock:
            self._busy.discard(upload_id)

    def part(self, upload_id: str) -> pathlib.Path:
        """Where the bytes of an upload that `open` checked are gathered."""
        return self._folder / upload_id / "audio.part"

    def size(self, speaker: str, upload_id: str) -> int:
        """How many bytes were announced."""
        return int(self._ticket(speaker, upload_id)["size"])

    def _progress(self, speaker: str, upload_id: str) -> Progress:
        """Complete it if only the last step is missing."""
        ticket = self._ticket(speaker, upload_id)
        moved = self._collection.recording_path(speaker, ticket["name"]).exists()
        if moved or self._offset(upload_id) >= ticket["size"]:
            return self.finish(speaker, upload_id)
        return Progress(self._offset(upload_id))

    def _tidy(self) -> None:
        """Remove what a crash left of uploads that were completed or deleted."""
        collection = self._collection
        settled = {row.get("upload_id") for row in collection.tombstones()}
        for speaker in collection.speakers():
            settled |= {metadata["offsites"]["uploadId"] for metadata in collection.recordings(speaker)}
        for folder in self._folder.iterdir():
            if folder.name in settled:
                shutil.rmtree(folder)

    def _check_consent(self, speaker: str) -> None:
        if not agreed(self._collection.consents(speaker), self._form):
            raise Refused(403, "The consent form has to be agreed to first.")

    def _check_audio(self, part: pathlib.Path, ticket: Mapping[str, Any]) -> None:
        if sha256_of(part) != ticket["sha256"]:
            part.unlink()
            raise Refused(409, "The recording arrived damaged and has to be sent again.", offset=0)
        try:
            decode(part.read_bytes())
        except ValueError as error:
            shutil.rmtree(part.parent)
            raise Refused(422, f"The recording {error}.") from error

    def _committed(self, speaker: str, upload_id: str) -> Metadata | None:
        for metadata in self._collection.recordings(speaker):
            if metadata["offsites"]["uploadId"] == upload_id:
                return metadata
        if any(row.get("upload_id") == upload_id for row in self._collection.tombstones()):
            raise Refused(410, "This recording was deleted.")
        return None

    def _ticket(self, speaker: str, upload_id: str) -> dict[str, Any]:
        path = self._folder / upload_id / "upload.json"
        if not _ID.fullmatch(upload_id) or not path.exists():
            raise Refused(404, "There is no such upload.")
        ticket = read_json(path)
        if ticket["speaker"] != speaker:
            raise Refused(404, "There is no such upload.")
        return ticket

    def _same(self, speaker: str, ticket: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        fields = ("prompt_id", "size", "sha256")
        if known["speaker"] != speaker or any(known[field] != ticket[field] for field in fields):
            raise Refused(409, "Another recording was announced under this id.")

    def _offset(self, upload_id: str) -> int:
        part = self.part(upload_id)
        return part.stat().st_size if part.exists() else 0

    def _names(self) -> Iterator[str]:
        for path in self._folder.glob("*/upload.json"):
            yield read_json(path)["name"]


class Receiver:
    """Writes the bytes of one upload behind those that are there; a context that ends on the disk."""

    def __init__(self, uploads: Uploads, speaker: str, upload_id: str) -> None:
        self._uploads = uploads
        self._id = upload_id
        self._left = 0
        try:
            self._stream = uploads.part(upload_id).open("ab")
            self._left = uploads.size(speaker, upload_id) - self._stream.tell()
        except BaseException:
            uploads.close(upload_id)
            raise

    def __enter__(self) -> "Receiver":
        return self

    def write(self, piece: bytes) -> None:
        """Add bytes.

        Raises:
          Refused: more than were announced.

        """
        if len(piece) > self._left:
            raise Refused(413, "More bytes came than were announced.")
        self._left -= len(piece)
        self._stream.write(piece)
        self._stream.flush()  # out of the process: what came is there even if it is killed

    def __exit__(self, *_: object) -> None:
        try:
            sync(self._stream.fileno())
            self._stream.close()
        finally:
            self._uploads.close(self._id)


def _check_ticket(announced: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are kept, and no others: there is no place for a name."""
    texts = {"id": _ID, "sha256": _SHA256, "local_date": _DATE}
    for field, form in texts.items():
        if not isinstance(announced.get(field), str) or not form.fullmatch(announced[field]):
            raise Refused(400, f"{field} is malformed.")
    for field, least, most in (("size", 1, 2**40), ("utc_offset", -24 * 60, 24 * 60)):
        value = announced.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise Refused(400, f"{field} is malformed.")
    if announced["size"] > MAX_BYTES:
        raise Refused(413, f"The recording is larger than {MAX_BYTES // 2**20} MiB.")
    if not isinstance(announced.get("prompt_id"), str):
        raise Refused(400, "prompt_id is malformed.")
    return {
        **{field: announced[field] for field in (*texts, "prompt_id", "size", "utc_offset")},
        "device": _check_device(announced.get("device", {})),
    }


def _check_device(device: Any) -> dict[str, Any]:
    """What is known of the machine; labels of microphones often hold a name, so they have no field."""
    if not isinstance(device, dict):
        raise Refused(400, "device is malformed.")
    kept = {}
    for field, kind in _DEVICE.items():
        value = device.get(field)
        if isinstance(value, kind) and not isinstance(value, bool):
            kept[field] = value[:200] if isinstance(value, str) else value
    return kept
