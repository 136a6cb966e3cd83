"""Asterisk's core sounds: telephone prompts by professional speakers, the same ones in five languages.

Debian's packages `asterisk-core-sounds-LANGUAGE` (transcripts), `-wav` (8 kHz) and `-g722` (16 kHz),
installed or unpacked side by side with `dpkg -x`. The recordings are CC-BY-SA 3.0 (English, Spanish, French)
and CC-BY 3.0 (Italian, Russian); each package's `copyright` file names the speaker to be credited.

One speaker a language and half an hour each: enough to prove that a system works, not how well.
"""

import gzip
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Literal

from offsites_jax.data.audio.read import seconds_of
from offsites_jax.data.audio.utterance import Collection, Utterance
from offsites_jax.errors import DamagedDataError, UserError

LANGUAGES = ("en", "es", "fr", "it", "ru")

_SOUNDS = "usr/share/asterisk/sounds"
_QUOTES = str.maketrans({**dict.fromkeys("\u201c\u201d«»", '"'), **dict.fromkeys("\u2018\u2019", "'")})
# Whatever is in brackets is about the recording: [@], <beep ascending>, (note: does not say "2").
_REMARK = re.compile(r"\[[^]]*\]|<[^>]*>|\([^)]*\)")
_SPACED = re.compile(r"\s+([.,;:!?])")


def read_asterisk(
    root: str | os.PathLike[str], language: str, encoding: Literal["wav", "g722"] = "wav"
) -> Collection:
    """Every prompt of a language that has both a recording and words.

    Args:
      root: folder that the packages were unpacked in; "/" where they are installed.
      language: one of `LANGUAGES`.
      encoding: "wav" at 8 kHz or "g722" at 16 kHz.

    Raises:
      UserError: an unknown language, or a package that is not there.
      DamagedDataError: transcripts that cannot be read.

    """
    if language not in LANGUAGES:
        raise UserError(f"language {language!r} has no Asterisk prompts; take one of {', '.join(LANGUAGES)}")
    base = pathlib.Path(root)
    folder = _voice_folder(base, language)
    files = {str(path.relative_to(folder).with_suffix("")): path for path in folder.rglob(f"*.{encoding}")}
    if not files:
        raise UserError(f"{folder}: no {encoding} files; unpack asterisk-core-sounds-{language}-{encoding}")
    texts = _match(dict(_transcripts(base, language)), files)
    utterances, left_out = [], []
    for key in sorted({*files, *texts}, key=str.encode):
        reason = _fault(key, files, texts)
        if reason:
            left_out.append((key, reason))
            continue
        path = str(files[key])
        text = clean_transcript(texts[key])
        utterances.append(Utterance(key, path, text, language, _speaker(folder), seconds_of(path)))
    return Collection(tuple(utterances), tuple(left_out))


def clean_transcript(text: str) -> str:
    """The words of a line of the transcripts, "" where it only describes a sound.

    Remarks in brackets go, curly quotes become straight, a lone quote goes.
    """
    text = _REMARK.sub(" ", text.translate(_QUOTES))
    if text.count('"') % 2:
        text = text.replace('"', " ")
    text = _SPACED.sub(r"\1", " ".join(text.split())).strip()
    return text if any(character.isalnum() for character in text) else ""


def _voice_folder(base: pathlib.Path, language: str) -> pathlib.Path:
    """The folder of the language, such as `en_US_f_Allison`: country, sex and speaker follow."""
    found = sorted((base / _SOUNDS).glob(f"{language}_*_*_*"))
    if not found:
        raise UserError(
            f"{base / _SOUNDS}: no voice for {language}; unpack asterisk-core-sounds-{language}-wav"
        )
    return found[0]


def _speaker(folder: pathlib.Path) -> str:
    return folder.name.split("_")[-1]


def _transcripts(base: pathlib.Path, language: str) -> Iterator[tuple[str, str]]:
    package = f"asterisk-core-sounds-{language}"
    file = base / "usr/share/doc" / package / f"core-sounds-{language}.txt.gz"
    if not file.exists():
        raise UserError(f"{file}: no such file; unpack {package}, which holds the transcripts")
    try:
        lines = gzip.decompress(file.read_bytes()).decode("utf-8-sig").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DamagedDataError(f"{file}: cannot be read; unpack {package} again") from error
    for line in lines:
        key, colon, text = line.partition(":")
        if colon and not line.startswith(";"):
            yield key.strip(), text.strip().removeprefix(f"{key}:").strip()  # one names itself twice


def _match(texts: dict[str, str], files: dict[str, pathlib.Path]) -> dict[str, str]:
    """Texts under the names of the files, some of which differ in capitals."""
    by_lower = {name.lower(): name for name in files}
    exact = {key: text for key, text in texts.items() if key in files}
    rest = {by_lower.get(key.lower(), key): text for key, text in texts.items() if key not in files}
    return rest | exact


def _fault(key: str, files: dict[str, pathlib.Path], texts: dict[str, str]) -> str:
    """Why a prompt cannot be used, or ""."""
    if key.startswith("silence/"):
        return "silence"
    if key not in files:
        return "no recording"
    if key not in texts:
        return "no text"
    return "" if clean_transcript(texts[key]) else "no words"
