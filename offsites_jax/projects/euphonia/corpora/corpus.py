"""What every reader gives: utterances, speakers, and what it left out and why."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.data.audio.read import LEAST_RATE, LEAST_SECONDS, seconds_of
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.manifest import Utterance, write_manifest
from offsites_jax.projects.euphonia.speakers import Speaker, write_speakers

FULL_RATE = 16000  # below it, the upper half of the features' band is empty; that of G.722, too


class Dropped(NamedTuple):
    """Something that a reader left out.

    Attributes:
      item: a recording, a line or a folder, by its place below the corpus.
      reason: why.

    """

    item: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus as rows.

    Attributes:
      utterances: in order of name.
      speakers: who speaks in them.
      dropped: what was left out; nothing goes missing silently.
      notes: what was kept although something about it is unusual, likewise.

    """

    utterances: tuple[Utterance, ...]
    speakers: tuple[Speaker, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    notes: tuple[Dropped, ...] = ()

    def counts(self) -> dict[str, int]:
        """How much was dropped for each reason, most first."""
        return dict(Counter(entry.reason for entry in self.dropped).most_common())

    def summary(self) -> str:
        """One line about what was read."""
        speakers = len({utterance.speaker for utterance in self.utterances})
        left_out = ", ".join(f"{count} {reason}" for reason, count in self.counts().items())
        return f"{len(self.utterances)} utterances of {speakers} speakers; left out: {left_out or 'nothing'}"


def measured(corpus: Corpus) -> Corpus:
    """The corpus with rate and length of each recording by its header; unreadable ones are dropped.

    Recordings below 16 kHz get `bandlimited` in `extra`. Nothing is decoded.

    Raises:
      UserError: soundfile is missing.

    """
    headers: dict[str, tuple[int, float] | str] = {}
    kept, dropped = [], list(corpus.dropped)
    for utterance in corpus.utterances:
        if utterance.audio not in headers:
            headers[utterance.audio] = _header(utterance.audio)
        header = headers[utterance.audio]
        wrong = header if isinstance(header, str) else _beyond(utterance, header[1])
        if wrong:
            dropped.append(Dropped(utterance.utt_id, wrong))
        else:
            kept.append(_with_header(utterance, header))
    return dataclasses.replace(corpus, utterances=tuple(kept), dropped=tuple(dropped))


def write_corpus(corpus: Corpus, folder: str | os.PathLike[str]) -> dict[str, epath.Path]:
    """Writes `manifest.jsonl`, `speakers.csv` and `dropped.jsonl`; each appears whole or not at all.

    Returns:
      The files by name.

    Raises:
      UserError: no utterance is left.

    """
    if not corpus.utterances:
        raise UserError(f"nothing to write: {corpus.summary()}; check the path and the layout below it")
    files = {name: epath.Path(folder) / name for name in ("manifest.jsonl", "speakers.csv", "dropped.jsonl")}
    write_manifest(files["manifest.jsonl"], corpus.utterances)
    write_speakers(files["speakers.csv"], corpus.speakers)
    lines = [{**entry._asdict(), "dropped": True} for entry in corpus.dropped]
    lines += [{**entry._asdict(), "dropped": False} for entry in corpus.notes]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(files["dropped.jsonl"], text.encode())
    return files


def subfolders(folder: epath.Path) -> list[epath.Path]:
    """Folders directly inside, in order of name; hidden ones are none."""
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")), key=_name
    )


def files_of(folder: epath.Path, *suffixes: str) -> dict[str, epath.Path]:
    """Files directly inside with one of these endings, by name without it, in order of name.

    What macOS adds to archives, `._name`, is none.
    """
    if not folder.is_dir():
        return {}
    paths = (path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    return {path.stem: path for path in sorted(paths, key=_name) if not path.name.startswith(".")}


def files_below(folder: epath.Path, *suffixes: str) -> list[epath.Path]:
    """Files with one of these endings in a folder and all folders below it, in order of name."""
    inner = [path for inside in subfolders(folder) for path in files_below(inside, *suffixes)]
    own = (path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    return [*sorted((path for path in own if not path.name.startswith(".")), key=_name), *inner]


def existing_folder(root: str | os.PathLike[str]) -> epath.Path:
    """The root of a corpus.

    Raises:
      UserError: there is no such folder.

    """
    folder = epath.Path(root)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the one the corpus was unpacked to")
    return folder


def below(root: epath.Path, path: epath.Path) -> str:
    """The place of a file within a corpus."""
    return path.relative_to(root).as_posix()


def read_json(file: epath.Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none."""
    try:
        found = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def typical(names: Iterable[str]) -> tuple[Speaker, ...]:
    """Speakers without a disorder, in order of name."""
    return tuple(Speaker(name, etiology="typical", severity=0) for name in sorted(set(names)))


def _name(path: epath.Path) -> bytes:
    return os.fsencode(path.name)


def _header(audio: str) -> tuple[int, float] | str:
    """Rate and seconds of a recording, or why it cannot be used."""
    soundfile = _soundfile()
    try:
        if audio.endswith(".g722"):
            return _usable(FULL_RATE, seconds_of(audio))
        with epath.Path(audio).open("rb") as stream, soundfile.SoundFile(stream) as sound:
            return _usable(sound.samplerate, sound.frames / sound.samplerate)
    except (soundfile.LibsndfileError, OSError):
        return "audio that cannot be read"


def _usable(rate: int, seconds: float) -> tuple[int, float] | str:
    if rate < LEAST_RATE:
        return "sample rate below 8 kHz"
    return "shorter than 32 ms" if seconds < LEAST_SECONDS else (rate, seconds)


def _beyond(utterance: Utterance, seconds: float) -> str:
    """Why a segment does not lie in its recording, "" where it does; a header may round its end off."""
    last = max(utterance.start or 0.0, (utterance.end or 0.0) - 0.1)
    return "segment beyond the end of its recording" if last >= seconds else ""


def _with_header(utterance: Utterance, header: Any) -> Utterance:
    rate, seconds = header
    start = utterance.start or 0.0
    end = min(utterance.end or seconds, seconds)
    extra = {**utterance.extra, "bandlimited": True} if rate < FULL_RATE else utterance.extra
    return dataclasses.replace(utterance, sample_rate=rate, duration_s=round(end - start, 4), extra=extra)


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise UserError("recordings need soundfile; pip install 'offsites-jax[speech]'") from error
    return soundfile
