"""Speech Accessibility Project (University of Illinois): atypical speech of many etiologies, on agreement.

    .../<contributor>/<contributor>.json
    .../<contributor>/<contributor>_<n>_<n>.wav        (or anywhere else below the root)

A JSON file has `Etiology`, `Contributor ID` and `Files: [{Filename, Prompt: {Transcript, Prompt Text,
Category Description}}]`. Other fields are kept as they are. Markup as in xiuwenz2/SAPC-template.
"""

import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from etils import epath

from offsites_jax.data.text.normalise import normalise
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.corpora.corpus import (
    Corpus,
    Dropped,
    below,
    existing_folder,
    files_below,
    read_json,
)
from offsites_jax.projects.euphonia.manifest import Utterance
from offsites_jax.projects.euphonia.speakers import Speaker

_PARTS = {"train": "train", "dev": "dev", "test": "test"}
_FLAG = re.compile(r"^\s*#(\w+)", re.MULTILINE)
_MARKUP = re.compile(r"\[[^\]]*\]|\{[^}]*\}")
_KNOWN = ("Filename", "Prompt")


class Segment(NamedTuple):
    """A piece of a recording and what is said in it; no times for the whole."""

    start: float | None
    end: float | None
    text: str


def read_speech_accessibility(root: str | os.PathLike[str]) -> Corpus:
    """All recordings that a contributor's JSON file lists.

    A transcript with time stamps (`#ts`) becomes an utterance for each segment.

    Raises:
      UserError: no JSON file of a contributor is there.

    """
    folder = existing_folder(root)
    found_below = files_below(folder, ".wav", ".json")
    recordings = {path.name: path for path in found_below if path.suffix.lower() == ".wav"}
    dropped: list[Dropped] = []
    utterances: dict[str, Utterance] = {}
    speakers: dict[str, Speaker] = {}
    found_files = False
    for file in (path for path in found_below if path.suffix.lower() == ".json"):
        found = read_json(file)
        if found is None:
            dropped.append(Dropped(below(folder, file), "JSON that cannot be read"))
            continue
        if not isinstance(found.get("Files"), list):
            continue  # one of the lists of splits
        found_files = True
        speaker = str(found.get("Contributor ID") or file.stem)
        speakers.setdefault(speaker, Speaker(speaker, etiology=str(found.get("Etiology") or "").strip()))
        for number, entry in enumerate(found["Files"]):
            place = f"{below(folder, file)} entry {number + 1}"
            _read_entry(entry, place, speaker, recordings, utterances, dropped)
    if not found_files:
        raise UserError(f"{folder}: no <contributor>.json with a list Files; unpack the archives there")
    named = {one.speaker for one in utterances.values()}
    return Corpus(
        tuple(utterances.values()),
        tuple(speakers[name] for name in sorted(named)),
        tuple(dropped),
        _differing(utterances.values()),
    )


def read_transcript(text: str) -> list[Segment]:
    """What is said, without the markup: `#dis`, `#ts`, annotations in [] and {}.

    Raises:
      ValueError: a line of a transcript with time stamps that is not "start end words".

    """
    said = _FLAG.sub("", _MARKUP.sub(" ", text))
    if "ts" not in _FLAG.findall(text):
        return [Segment(None, None, " ".join(said.split()))]
    return [_segment(line) for line in said.splitlines() if line.strip()]


def _segment(line: str) -> Segment:
    start, end, *words = line.split(maxsplit=2)
    if not 0 <= float(start) < float(end):
        raise ValueError("a segment that ends before it starts")
    return Segment(float(start), float(end), words[0] if words else "")


def _read_entry(
    entry: Any,
    place: str,
    speaker: str,
    recordings: Mapping[str, epath.Path],
    utterances: dict[str, Utterance],
    dropped: list[Dropped],
) -> None:
    prompt = entry.get("Prompt") if isinstance(entry, dict) else None
    transcript = prompt.get("Transcript") if isinstance(prompt, dict) else None
    if not isinstance(transcript, str) or not isinstance(entry.get("Filename"), str):
        dropped.append(Dropped(place, "entry without file name or transcript"))
        return
    recording = recordings.get(pathlib.PureWindowsPath(entry["Filename"].strip()).name)
    if recording is None:
        dropped.append(Dropped(place, "no recording of that name"))
        return
    try:
        segments = [part for part in read_transcript(transcript) if normalise(part.text)]
    except ValueError:
        dropped.append(Dropped(place, "time stamps that cannot be read"))
        return
    if not segments:
        dropped.append(Dropped(place, "transcript without words"))
    for number, segment in enumerate(segments):
        name = recording.stem if len(segments) == 1 else f"{recording.stem}_{number + 1}"
        if name in utterances:
            dropped.append(Dropped(place, "recording that an earlier entry has"))
            continue
        utterances[name] = _utterance(name, speaker, recording, segment, entry)


def _utterance(
    name: str, speaker: str, recording: epath.Path, segment: Segment, entry: Mapping[str, Any]
) -> Utterance:
    prompt = entry["Prompt"]
    category = str(prompt.get("Category Description") or "")
    others = {key: value for key, value in entry.items() if key not in _KNOWN}
    part = next((_PARTS[p.name.lower()] for p in recording.parents if p.name.lower() in _PARTS), None)
    prompted = str(prompt.get("Prompt Text") or "")
    extra = {"category": category, "split": part, "prompt_text": prompted, "other": others}
    return Utterance(
        utt_id=name,
        speaker=speaker,
        audio=str(recording),
        text=segment.text,
        start=segment.start,
        end=segment.end,
        domain=domain_of(category),
        source="speech_accessibility",
        transcript_status="verified",
        extra={key: value for key, value in extra.items() if value},
    )


def domain_of(category: str) -> str:
    """The domain that a category of prompts belongs to."""
    lower = category.lower()
    if "assistant" in lower or "command" in lower:
        return "home_automation"
    return "conversational" if "spontaneous" in lower or "conversation" in lower else "other"


def _differing(utterances: Iterable[Utterance]) -> tuple[Dropped, ...]:
    """Prompts that contributors said differently are common; that is worth knowing, not wrong."""
    differs = [
        one.utt_id
        for one in utterances
        if one.extra.get("prompt_text") and normalise(one.extra["prompt_text"]) != normalise(one.text)
    ]
    return tuple(Dropped(name, "transcript that differs from its prompt") for name in differs)
