"""A collection as rows of a manifest: only what its speakers agree to now."""

import pathlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from offsites_jax.errors import DamagedDataError
from offsites_jax.projects.euphonia.collect.collection import Collection, Metadata
from offsites_jax.projects.euphonia.collect.consent import in_force
from offsites_jax.projects.euphonia.collect.files import sha256_of

Versions = Literal["newest", "all"]


class Export(NamedTuple):
    """What is exported, and what is not.

    Attributes:
      rows: of the manifest; `audio` is relative to the collection.
      unwritten: rows of answers that nobody has written down yet; their text is empty.
      withdrawn: how many recordings have no consent any more.
      poor: how many were rated `again`.
      superseded: how many were recorded anew.
      problems: recordings that are damaged, one line each.

    """

    rows: list[dict[str, Any]]
    unwritten: list[dict[str, Any]]
    withdrawn: int
    poor: int
    superseded: int
    problems: list[str]


def export_rows(
    collection: Collection,
    versions: Versions = "newest",
    poor: bool = False,
    transcripts: Mapping[str, str] | None = None,
) -> Export:
    """The rows of all speakers, in the order of recording.

    Args:
      collection: to export.
      versions: the newest usable recording of each prompt, or all of them.
      poor: also those that were rated to be best recorded again.
      transcripts: what was said by `utt_id`, of those who listened; it counts more than the prompt.

    """
    rows: list[dict[str, Any]] = []
    withdrawn = rejected = superseded = 0
    problems = list(collection.problems)
    for speaker in collection.speakers():
        standing, consents = [], collection.consents(speaker)
        for metadata in collection.recordings(speaker):
            if not in_force(metadata["consents"], consents):
                withdrawn += 1
            elif metadata["offsites"]["rating"] == "again" and not poor:
                rejected += 1
            else:
                standing.append(metadata)
        newest = {metadata["task"]: metadata for metadata in standing}  # later ones replace earlier ones
        chosen = [m for m in standing if versions == "all" or newest[m["task"]] is m]
        superseded += len(standing) - len(chosen)
        for metadata in chosen:
            try:
                _check_sound(collection, metadata)
            except DamagedDataError as error:
                problems.append(str(error))
            else:
                rows.append(_row(metadata, transcripts or {}))
    written = [row for row in rows if row["text"]]
    unwritten = [row for row in rows if not row["text"]]
    return Export(written, unwritten, withdrawn, rejected, superseded, problems)


def _check_sound(collection: Collection, metadata: Metadata) -> None:
    path = collection.recording_path(metadata["euid"], _stem(metadata))
    if not path.exists():
        raise DamagedDataError(f"{path}: is missing; restore it from a copy, or delete its JSON")
    if sha256_of(path) != metadata["offsites"]["sha256"]:
        raise DamagedDataError(f"{path}: is not what was recorded; restore it from a copy")


def _row(metadata: Metadata, transcripts: Mapping[str, str]) -> dict[str, Any]:
    own, speaker = metadata["offsites"], metadata["euid"]
    name = f"{speaker}-{_stem(metadata)}"
    is_read = metadata.get("taskType", "prompt") == "prompt"
    return {
        "utt_id": name,
        "speaker": speaker,
        "audio": str(pathlib.PurePosixPath("recordings", speaker, metadata["name"])),
        "text": transcripts.get(name) or (metadata["prompt"] if is_read else ""),
        "prompt_id": metadata["task"],
        "domain": own["domain"],
        "source": metadata["project"],
        "sample_rate": own["sampleRate"],
        "duration_s": own["seconds"],
        "transcript_status": "verified" if transcripts.get(name) else "prompt_assumed",
        "quality": own["quality"],
        "version": own["version"],
        "rating": own["rating"],
        "sha256": own["sha256"],
    }


def _stem(metadata: Metadata) -> str:
    return str(metadata["name"]).removesuffix(".wav")
