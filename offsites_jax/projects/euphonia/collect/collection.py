"""A collection on disk: speakers, what they agreed to, what they are to read, and what they recorded.

    collection.json                         language, and the name of the project
    consents/ID_VERSION.txt                 every form that was shown
    pictures/DIGEST.png, .jpg               what questions are about
    speakers/SPEAKER/speaker.json           consents and skipped prompts
    speakers/SPEAKER/prompts.jsonl          the list, fixed when the speaker was added
    recordings/SPEAKER/DATE_MILLISECONDS.wav, .json
    uploads/ID/                             recordings that are still on their way
    tombstones.jsonl                        what was deleted and when, without its content

Recordings lie as in the storage of google/euphonia's audiotool, their JSON has its fields, and ours below
`offsites`. A recording without JSON is not one: that is written last.
"""

import json
import pathlib
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.euphonia.collect import consent as forms
from offsites_jax.projects.euphonia.collect.audio import Heard
from offsites_jax.projects.euphonia.collect.files import (
    append_json,
    read_json,
    read_json_lines,
    sync_folder,
    write_durably,
    write_json,
)
from offsites_jax.projects.euphonia.collect.metadata import FORMAT, Metadata, check_metadata, describe
from offsites_jax.projects.euphonia.collect.prompts import Prompt
from offsites_jax.projects.euphonia.collect.questions import picture_name

_SPEAKER = re.compile(r"spk-[0-9a-f]{10}")


class Collection:
    """Reads and changes a collection; one object per folder at a time, usable from several threads.

    Attributes:
      folder: where it lies.
      language: of the prompts, such as `en-US`.
      project: its name.
      problems: files that could not be read, and are left alone.

    """

    def __init__(self, folder: pathlib.Path) -> None:
        about = read_json(folder / "collection.json")
        if about.get("format") != FORMAT:
            raise UserError(f"{folder}: format {about.get('format')!r} of a collection; {FORMAT} can be read")
        self.folder = folder
        self.language = str(about["language"])
        self.project = str(about["project"])
        self.problems: list[str] = []
        self._lock = threading.RLock()
        self._finish_deletions()
        self._recordings = {speaker: self._read_recordings(speaker) for speaker in self.speakers()}

    # Speakers

    def speakers(self) -> list[str]:
        """Their ids."""
        return sorted(path.parent.name for path in self.folder.glob("speakers/*/speaker.json"))

    def add_speaker(self, prompts: Sequence[Prompt], speaker: str = "") -> str:
        """A speaker with a list to read, under an id that says nothing about the person.

        Args:
          prompts: the list.
          speaker: from `random_speaker`; drawn when left out.

        """
        speaker = speaker or random_speaker()
        if not _SPEAKER.fullmatch(speaker):
            raise UserError(f"{speaker}: is no id of a speaker; leave it out, and one is drawn")
        folder = self.folder / "speakers" / speaker
        with self._lock:
            if folder.exists() or speaker in self._deleted_speakers():
                raise UserError(f"{speaker}: was used before; leave the id out, and a new one is drawn")
            folder.mkdir(parents=True)
            (self.folder / "recordings" / speaker).mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(prompt._asdict(), ensure_ascii=False) + "\n" for prompt in prompts)
            write_durably(folder / "prompts.jsonl", "".join(lines).encode())
            write_json(folder / "speaker.json", {"speaker": speaker, "consents": [], "skipped": []})
            self._recordings[speaker] = {}
        return speaker

    def prompts(self, speaker: str) -> dict[str, Prompt]:
        """What a speaker is to read, by id, in order."""
        rows = read_json_lines(self._speaker_folder(speaker) / "prompts.jsonl")
        return {row["prompt_id"]: Prompt(**row) for row in rows}

    def consents(self, speaker: str) -> list[forms.Record]:
        """What a speaker agreed to and took back."""
        return list(self._state(speaker)["consents"])

    def skipped(self, speaker: str) -> list[str]:
        """Ids of prompts that the speaker passed over."""
        return list(self._state(speaker)["skipped"])

    def keep_form(self, form: forms.Consent) -> None:
        """Store the text of a consent form beside what is recorded under it.

        Raises:
          UserError: another text of the same id and version was shown before.

        """
        path = self.folder / "consents" / f"{form.consent_id}_{form.version}.txt"
        if not path.exists():
            write_durably(path, forms.write_form(form).encode())
        elif forms.read_consent(path) != form:
            raise UserError(f"{path}: has another text than the form of the same version; raise its version")

    def keep_picture(self, content: bytes) -> None:
        """Store a picture that a question is about."""
        path = self.picture_path(picture_name(content))
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_durably(path, content)

    def picture_path(self, name: str) -> pathlib.Path:
        """Where a picture that a prompt names lies."""
        return self.folder / "pictures" / name

    def agree(self, speaker: str, form: forms.Consent) -> None:
        """Note that a speaker agreed to a form, now."""
        with self._lock:
            records = forms.agree(self.consents(speaker), form, now_ms())
            self._change(speaker, consents=records)

    def revoke(self, speaker: str) -> None:
        """Note that a speaker took back every consent; also in the JSON of each recording."""
        with self._lock:
            records = forms.revoke(self.consents(speaker), now := now_ms())
            self._change(speaker, consents=records)
            for name, metadata in self._recordings[speaker].items():
                metadata["consents"] = forms.revoke(metadata["consents"], now)
                write_json(self.recording_path(speaker, name, "json"), metadata)

    def skip(self, speaker: str, prompt_id: str) -> None:
        """Note that a speaker passed over a prompt."""
        with self._lock:
            skipped = self.skipped(speaker)
            if prompt_id not in skipped:
                self._change(speaker, skipped=[*skipped, prompt_id])

    def delete_speaker(self, speaker: str) -> int:
        """Remove all there is of a speaker but a line that says so; how many recordings there were."""
        with self._lock:
            count = len(self.recordings(speaker))
            self._bury({"kind": "speaker", "speaker": speaker, "recordings": count})
            self._remove_speaker(speaker)
            del self._recordings[speaker]
            return count

    # Recordings

    def recordings(self, speaker: str) -> list[Metadata]:
        """The JSON of each recording, oldest first."""
        with self._lock:
            self._speaker_folder(speaker)
            return sorted(self._recordings[speaker].values(), key=lambda m: m["timestamp"])

    def recording_path(self, speaker: str, name: str, suffix: str = "wav") -> pathlib.Path:
        """Where a recording of a known name lies."""
        return self.folder / "recordings" / speaker / f"{name}.{suffix}"

    def recording(self, speaker: str, name: str) -> Metadata | None:
        """The JSON of one recording, None where there is none: names are looked up, never made into paths."""
        with self._lock:
            self._speaker_folder(speaker)
            return self._recordings[speaker].get(name)

    def free_name(self, speaker: str, local_date: str, taken: Iterable[str]) -> tuple[str, int]:
        """A name that no recording has or had, and its time in milliseconds."""
        used = {*taken, *self._recordings[speaker]}
        used |= {row["name"] for row in self.tombstones() if row.get("speaker") == speaker and "name" in row}
        compact = re.sub(r"[^0-9T]", "", local_date)
        time_ms = now_ms()
        while (name := f"{compact}_{time_ms}") in used or self.recording_path(speaker, name).exists():
            time_ms += 1
        return name, time_ms

    def next_version(self, speaker: str, prompt_id: str) -> int:
        """One more than any recording of that prompt has or had."""
        mine = [m["offsites"]["version"] for m in self.recordings(speaker) if m["task"] == prompt_id]
        gone = [
            row["version"]
            for row in self.tombstones()
            if row.get("speaker") == speaker and row.get("prompt_id") == prompt_id
        ]
        return max([*mine, *gone], default=0) + 1

    def commit(self, ticket: Mapping[str, Any], heard: Heard) -> Metadata:
        """Write the JSON of a sound that lies in its place, which makes it a recording; twice is once."""
        speaker, name = ticket["speaker"], ticket["name"]
        with self._lock:
            known = self.recording(speaker, name)
            if known is not None:
                return known
            prompt = self.prompts(speaker)[ticket["prompt_id"]]
            version = self.next_version(speaker, prompt.prompt_id)
            metadata = describe(ticket, prompt, heard, version)
            metadata |= {
                "project": self.project, "language": self.language, "consents": self.consents(speaker),
            }  # fmt: skip
            write_json(self.recording_path(speaker, name, "json"), metadata)
            self._recordings[speaker][name] = metadata
            skipped = self.skipped(speaker)
            if prompt.prompt_id in skipped:
                self._change(speaker, skipped=[one for one in skipped if one != prompt.prompt_id])
            return metadata

    def delete_recording(self, speaker: str, name: str) -> None:
        """Remove the sound and the JSON of one recording; what stays is a line that says so."""
        with self._lock:
            metadata = self._recordings[speaker][name]
            own = metadata["offsites"]
            self._bury(
                {
                    "kind": "recording",
                    "speaker": speaker,
                    "name": name,
                    "prompt_id": metadata["task"],
                    "version": own["version"],
                    "upload_id": own["uploadId"],
                }
            )
            self._remove_recording(speaker, name)
            del self._recordings[speaker][name]

    def tombstones(self) -> list[dict[str, Any]]:
        """What was deleted."""
        return list(read_json_lines(self.folder / "tombstones.jsonl"))

    # Inside

    def _speaker_folder(self, speaker: str) -> pathlib.Path:
        folder = self.folder / "speakers" / speaker
        if not _SPEAKER.fullmatch(speaker) or not (folder / "speaker.json").exists():
            raise UserError(f"{self.folder}: has no speaker {speaker}; it has {', '.join(self.speakers())}")
        return folder

    def _state(self, speaker: str) -> dict[str, Any]:
        return read_json(self._speaker_folder(speaker) / "speaker.json")

    def _change(self, speaker: str, **values: Any) -> None:
        write_json(self._speaker_folder(speaker) / "speaker.json", {**self._state(speaker), **values})

    def _read_recordings(self, speaker: str) -> dict[str, Metadata]:
        found = {}
        for path in sorted((self.folder / "recordings" / speaker).glob("*.json")):
            try:
                metadata = read_json(path)
                check_metadata(path, metadata)
            except DamagedDataError as error:
                self.problems.append(str(error))
            else:
                found[path.stem] = metadata
        return found

    def _bury(self, row: Mapping[str, Any]) -> None:
        append_json(self.folder / "tombstones.jsonl", {**row, "deleted": now_ms()})

    def _deleted_speakers(self) -> set[str]:
        return {row["speaker"] for row in self.tombstones() if row.get("kind") == "speaker"}

    def _finish_deletions(self) -> None:
        """Remove what a crash kept from being removed after its tombstone was written."""
        for row in self.tombstones():
            if row.get("kind") == "speaker":
                self._remove_speaker(row["speaker"])
            else:
                self._remove_recording(row["speaker"], row["name"])

    def _remove_speaker(self, speaker: str) -> None:
        for upload in self.folder.glob("uploads/*/upload.json"):
            if read_json(upload).get("speaker") == speaker:
                shutil.rmtree(upload.parent)
        for place in ("recordings", "speakers"):
            if (self.folder / place / speaker).exists():
                shutil.rmtree(self.folder / place / speaker)
                sync_folder(self.folder / place)

    def _remove_recording(self, speaker: str, name: str) -> None:
        for suffix in ("json", "wav"):
            self.recording_path(speaker, name, suffix).unlink(missing_ok=True)
        folder = self.folder / "recordings" / speaker
        if folder.exists():
            sync_folder(folder)


def create_collection(
    folder: pathlib.Path, language: str = "en-US", project: str = "personal-speech"
) -> Collection:
    """An empty collection, or the one that is there; only the owner of the account can read a new one.

    Raises:
      UserError: a folder with other things in it, or that cannot be written.

    """
    if (folder / "collection.json").exists():
        return Collection(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty and no collection; name a new folder")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("consents", "recordings", "speakers", "uploads"):
            (folder / name).mkdir(exist_ok=True)
        write_json(folder / "collection.json", {"format": FORMAT, "project": project, "language": language})
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); name another folder") from error
    return Collection(folder)


def random_speaker() -> str:
    """A new id that says nothing about the person."""
    return f"spk-{secrets.token_hex(5)}"


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
