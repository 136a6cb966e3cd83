"""The manifest: one line of JSON for each utterance, whatever corpus it comes from.

    {"utt_id": "E1-0001", "speaker": "E1", "audio": "E1/0001.wav", "text": "turn on the light"}

Further fields are optional; unknown ones are kept. A table with a header, saved as CSV, will do as well.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.data.delimited import read_text
from offsites_jax.data.text.normalise import normalise
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.corpora.delimited import read_table
from offsites_jax.train.media import strict

DOMAINS = ("home_automation", "caregiver", "conversational", "other")
STATUSES = ("prompt_assumed", "verified")

_REQUIRED = ("utt_id", "speaker", "audio", "text")
_SURROGATE = re.compile("[\ud800-\udfff\0]")
_LIMIT = 1e12  # no time and no rate is larger; what is not finite is beyond it too
_NAMED = 5  # problems that one line of error lists


@dataclasses.dataclass(frozen=True)
class Utterance:
    """Something one speaker said.

    Attributes:
      utt_id: unique in a manifest.
      speaker: who.
      audio: path of the recording.
      text: what was said, as far as known.
      start: of the utterance within the recording, in seconds; None for the recording's start.
      end: likewise; None for its end.
      prompt_id: of what the speaker was asked to say.
      domain: what is spoken about, one of `DOMAINS`.
      source: the corpus.
      sample_rate: of the recording, in Hz.
      duration_s: of the utterance.
      transcript_status: whether `text` is the prompt, taken as read, or was verified by a listener.
      quality: measures of the recording, as `offsites_jax.data.audio.quality` names them.
      extra: fields that a corpus adds.

    """

    utt_id: str
    speaker: str
    audio: str
    text: str
    start: float | None = None
    end: float | None = None
    prompt_id: str | None = None
    domain: str = "other"
    source: str = "own"
    sample_rate: int | None = None
    duration_s: float | None = None
    transcript_status: str = "prompt_assumed"
    quality: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Problem(NamedTuple):
    """A mistake in a file.

    Attributes:
      file: its path.
      row: counted from 1.
      field: of the row.
      message: what is wrong. It never quotes what was said, nor a name.

    """

    file: str
    row: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.field}: {self.message}"


class Scan(NamedTuple):
    """What a manifest holds: utterances without fault, and the faults of the others."""

    utterances: list[Utterance]
    problems: list[Problem]


def read_manifest(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, check_audio: bool = True
) -> list[Utterance]:
    """The utterances of a manifest, every one of them without fault.

    Args:
      path: a file of JSON lines, or a `.csv` table.
      root: folder that `audio` is relative to; the manifest's own unless told.
      check_audio: whether recordings have to exist.

    Raises:
      UserError: no such file, no rows, or bad rows: the first few with row and field, and how many there
        are. `scan_manifest` gives them all.

    """
    found = scan_manifest(path, root, check_audio)
    if found.problems:
        listed = "; ".join(map(str, found.problems[:_NAMED]))
        more = f"; and {len(found.problems) - _NAMED} more" if len(found.problems) > _NAMED else ""
        raise UserError(f"{path}: {len(found.problems)} problems: {listed}{more}; correct these rows")
    if not found.utterances:
        raise UserError(f"{path}: no utterances; give one line of JSON for each")
    return found.utterances


def scan_manifest(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, check_audio: bool = True
) -> Scan:
    """What `read_manifest` would give, with bad rows listed instead of refused.

    Raises:
      UserError: no such file.

    """
    file = epath.Path(path)
    folder = epath.Path(root) if root is not None else file.parent
    rows, problems = _csv_rows(file) if file.suffix == ".csv" else _json_rows(file)
    seen: dict[tuple[Any, ...], int] = {}
    utterances = []
    for number, row in rows:
        wrong = _mistakes(row, folder, check_audio) or _repeated(row, number, seen)
        problems += [Problem(str(file), number, field, message) for field, message in wrong]
        if not wrong:
            utterances.append(_utterance(row, folder))
    return Scan(utterances, sorted(problems, key=lambda problem: problem.row))


def write_manifest(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> None:
    """Writes a manifest at once; recordings below its folder are named relative to it."""
    file = epath.Path(path)
    write_atomically(file, "".join(_line(utterance, file.parent) for utterance in utterances).encode())


def write_rejected(path: str | os.PathLike[str], problems: Iterable[Problem]) -> None:
    """Writes problems as JSON lines, so that a run can go on without the rows they name."""
    lines = (json.dumps(problem._asdict(), ensure_ascii=False) + "\n" for problem in problems)
    write_atomically(epath.Path(path), "".join(lines).encode())


def _json_rows(file: epath.Path) -> tuple[list[tuple[int, dict[str, Any]]], list[Problem]]:
    rows, problems = [], []
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            problems.append(Problem(str(file), number, "line", "not valid JSON"))
            continue
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            problems.append(Problem(str(file), number, "line", 'not {"utt_id": ..., ...}'))
    return rows, problems


def _csv_rows(file: epath.Path) -> tuple[list[tuple[int, dict[str, Any]]], list[Problem]]:
    table = read_table(file, _REQUIRED)
    message = f"not {len(table.header)} cells as in the first line"
    problems = [Problem(str(file), number, "line", message) for number in table.ragged]
    return [(row.number, _typed(row.cells)) for row in table.rows], problems


def _typed(cells: Mapping[str, str]) -> dict[str, Any]:
    """Cells as JSON would hold them; empty ones are left out, and what is no number stays text."""
    row: dict[str, Any] = {name: cell for name, cell in cells.items() if cell}
    for name, kind in (("start", float), ("end", float), ("duration_s", float), ("sample_rate", int)):
        try:
            row[name] = kind(row[name])
        except (KeyError, ValueError):
            continue
    return {**dict.fromkeys(_REQUIRED, ""), **row}


def _mistakes(row: Mapping[str, Any], folder: epath.Path, check_audio: bool) -> list[tuple[str, str]]:
    """Field and message of all that is wrong with one row."""
    wrong = [(name, "missing") for name in _REQUIRED if name not in row]
    wrong += [(name, "not text") for name in _REQUIRED if name in row and not isinstance(row[name], str)]
    if wrong:
        return wrong
    wrong += [(name, "empty") for name in _REQUIRED if not row[name].strip()]
    wrong += [(name, "not valid Unicode") for name in _REQUIRED if _SURROGATE.search(row[name])]
    if wrong:
        return wrong
    if not normalise(row["text"]):
        wrong.append(("text", "holds no words"))
    if not _is_name(row["speaker"]):
        wrong.append(("speaker", "holds a slash or starts with a dot"))
    for name, allowed in (("domain", DOMAINS), ("transcript_status", STATUSES)):
        if row.get(name) is not None and row[name] not in allowed:
            wrong.append((name, f"has to be one of {', '.join(allowed)}"))
    wrong += _wrong_numbers(row)
    wrong += [(name, "not an object") for name in ("quality",) if not isinstance(row.get(name, {}), dict)]
    if check_audio and not (folder / row["audio"]).exists():
        wrong.append(("audio", "no such file"))
    return wrong


def _is_name(speaker: str) -> bool:
    """Speakers name folders: of checkpoints, of recordings."""
    return not speaker.startswith(".") and not any(mark in speaker for mark in "/\\\0")


def _wrong_numbers(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    wrong = []
    for name, least in (("start", 0.0), ("end", 0.0), ("duration_s", 0.0), ("sample_rate", 1)):
        value = row.get(name)
        if value is not None and not (_is_number(value) and value >= least):
            wrong.append((name, f"has to be a number, {least:g} or more"))
    start, end = row.get("start"), row.get("end")
    if not wrong and end is not None and end <= (start or 0.0):
        wrong.append(("end", "not after start"))
    return wrong


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LIMIT


def _repeated(row: Mapping[str, Any], number: int, seen: dict[tuple[Any, ...], int]) -> list[tuple[str, str]]:
    """Two rows of one id, or of the same piece of sound, which could be on both sides of a split."""
    wrong = []
    keys = (("utt_id", (row["utt_id"],)), ("audio", (row["audio"], row.get("start"), row.get("end"))))
    for field, key in keys:
        first = seen.setdefault((field, *key), number)
        if first != number:
            wrong.append((field, f"the same as in row {first}"))
    return wrong


def _utterance(row: Mapping[str, Any], folder: epath.Path) -> Utterance:
    names = [field.name for field in dataclasses.fields(Utterance) if field.name not in ("audio", "extra")]
    known = {name: row[name] for name in names if row.get(name) is not None}
    extra = {name: value for name, value in row.items() if name not in (*names, "audio")}
    return Utterance(**known, audio=str(folder / row["audio"]), extra=extra)


def _line(utterance: Utterance, folder: epath.Path) -> str:
    values = {field.name: getattr(utterance, field.name) for field in dataclasses.fields(Utterance)}
    extra = values.pop("extra")
    values["audio"] = _seen_from(folder, utterance.audio)
    row = {name: value for name, value in values.items() if value is not None and value != {}}
    return json.dumps(strict({**extra, **row}), ensure_ascii=False) + "\n"


def _seen_from(folder: epath.Path, audio: str) -> str:
    """A path that a manifest in that folder finds again, wherever it is read from."""
    if "://" in audio:
        return audio
    whole, above = os.path.abspath(audio), os.path.abspath(folder)
    return os.path.relpath(whole, above) if whole.startswith(above + os.sep) else whole
