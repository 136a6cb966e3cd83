"""Recordings of the Euphonia audio tool (google/euphonia, audiotool).

    <folder>/<euid>/<localDate>_<timestamp>.wav
    <folder>/<euid>/<localDate>_<timestamp>.json

The tool takes a prompt as read: it copies it into `transcript`. A response has a transcript only where
somebody wrote one. A recording is taken only where a consent covers it that was not revoked; the JSON file
holds the consents at the time of recording, so a later recording, or the caller, may know of a revocation.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeAlias

from etils import epath

from offsites_jax.data.text.normalise import normalise
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.corpora.corpus import (
    Corpus,
    Dropped,
    below,
    existing_folder,
    files_of,
    read_json,
    subfolders,
)
from offsites_jax.projects.euphonia.manifest import Utterance
from offsites_jax.projects.euphonia.speakers import Speaker

Consent: TypeAlias = tuple[str, int]  # its name and version

_KEPT = ("language", "project", "platform", "localDate")


def read_audiotool(root: str | os.PathLike[str], withdrawn: Collection[str] = ()) -> Corpus:
    """The recordings of all speakers that may be used.

    Neither names nor signatures nor devices are taken over.

    Args:
      root: the folder of recordings, with a folder for each speaker.
      withdrawn: speakers who took back their consent after their last recording.

    Raises:
      UserError: no recordings are there.

    """
    folder = existing_folder(root)
    utterances: list[Utterance] = []
    dropped: list[Dropped] = []
    notes: list[Dropped] = []
    for speaker in subfolders(folder):
        recordings = files_of(speaker, ".wav")
        records = {name: read_json(path) for name, path in files_of(speaker, ".json").items()}
        revoked = _revoked(records.values())
        for name, path in recordings.items():
            record = records.get(name)
            reason = _reason(speaker.name, record, revoked, withdrawn) if name in records else "no metadata"
            if reason or record is None:
                dropped.append(Dropped(below(folder, path), reason or "metadata that cannot be read"))
                continue
            utterances.append(_utterance(speaker.name, name, path, record))
            if record.get("fileSize") not in (None, path.stat().length):
                notes.append(Dropped(below(folder, path), "file of another size than its metadata says"))
        dropped += [
            Dropped(f"{below(folder, speaker)}/{name}.json", "metadata without recording")
            for name in records
            if name not in recordings
        ]
    if not utterances and not dropped:
        raise UserError(f"{folder}: no <speaker>/<date>_<time>.wav; give the folder of recordings")
    names = sorted({one.speaker for one in utterances})
    return Corpus(tuple(utterances), tuple(map(Speaker, names)), tuple(dropped), tuple(notes))


def _consents(record: Mapping[str, Any] | None, *, revoked: bool) -> set[Consent]:
    """Consents of a record that are revoked, or those that count: neither revoked nor superseded."""
    listed = (record or {}).get("consents")
    found = set()
    for entry in listed if isinstance(listed, list) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("version", 0), int):
            continue
        if bool(entry.get("revokeTimestamp")) is revoked and (revoked or not entry.get("superseded")):
            found.add((str(entry.get("consentId")), entry.get("version", 0)))
    return found


def _revoked(records: Iterable[Mapping[str, Any] | None]) -> set[Consent]:
    """Consents that some record says are revoked; every version of one that the newest record ends."""
    known = sorted((record for record in records if record), key=_time)
    revoked = {consent for record in known for consent in _consents(record, revoked=True)}
    last = known[-1] if known else None
    ended = _names(_consents(last, revoked=True)) - _names(_consents(last, revoked=False))
    given = {consent for record in known for consent in _consents(record, revoked=False)}
    return revoked | {(name, version) for name, version in given if name in ended}


def _names(consents: set[Consent]) -> set[str]:
    return {name for name, _ in consents}


def _time(record: Mapping[str, Any]) -> float:
    time = record.get("timestamp")
    return time if isinstance(time, int | float) else 0.0


def _reason(
    speaker: str, record: Mapping[str, Any] | None, revoked: set[Consent], withdrawn: Collection[str]
) -> str:
    """Why a recording may not or cannot be used; "" where it can."""
    if record is None:
        return "metadata that cannot be read"
    if record.get("euid", speaker) != speaker:
        return "metadata of another speaker"
    given = _consents(record, revoked=False)
    taken_back = _consents(record, revoked=True)
    if speaker in withdrawn or given & revoked or _names(taken_back) - _names(given):
        return "consent revoked"
    if not given:
        return "no consent"
    text = record.get("transcript")
    return "" if isinstance(text, str) and normalise(text) else "no transcript"


def _utterance(speaker: str, name: str, path: epath.Path, record: Mapping[str, Any]) -> Utterance:
    kind = record.get("taskType") or "prompt"
    assumed = kind == "prompt" and record["transcript"] == record.get("prompt")
    extra = {field: record[field] for field in _KEPT if record.get(field)}
    return Utterance(
        utt_id=f"{speaker}_{name}",
        speaker=speaker,
        audio=str(path),
        text=record["transcript"],
        prompt_id=str(record["task"]) if record.get("task") else None,
        source="audiotool",
        transcript_status="prompt_assumed" if assumed else "verified",
        extra={"task_type": kind, **extra},
    )
