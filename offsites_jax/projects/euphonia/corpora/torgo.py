r"""TORGO (Rudzicz et al. 2012): dysarthric speech and controls, by two microphones at once.

    [F|FC|M|MC/]<speaker>/Session<k>/{wav_headMic,wav_arrayMic}/NNNN.wav
    [F|FC|M|MC/]<speaker>/Session<k>/prompts/NNNN.txt

A prompt may be an instruction in brackets, a word with a hint (`bear [as in animal]`), the path of a picture
to describe, or `xxx` for a spoilt recording; some hold terminal escapes. Severity is not in the download:
`torgo_severity.csv`, which may be edited, holds what the literature says, where sources differ.
"""

import os
import pathlib
import re
from collections.abc import Sequence

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.corpora.corpus import (
    Corpus,
    Dropped,
    below,
    existing_folder,
    files_of,
    subfolders,
    typical,
)
from offsites_jax.projects.euphonia.manifest import Utterance
from offsites_jax.projects.euphonia.speakers import Speaker, read_speakers

MICROPHONES = ("head", "array")
SEVERITY = pathlib.Path(__file__).with_name("torgo_severity.csv")

_SPEAKER = re.compile(r"[FM]C?\d{2}")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[@-~]|\x1b.")
_PICTURE = re.compile(r"\S*[/\\]\S+\.(?:jpe?g|png|gif|bmp)\s*", re.IGNORECASE)
_HINT = re.compile(r"\[[^\]]*\]?")


def read_torgo(
    root: str | os.PathLike[str],
    microphones: Sequence[str] = MICROPHONES,
    severity: str | os.PathLike[str] = SEVERITY,
) -> Corpus:
    """The utterances of all speakers.

    Recordings of one utterance by two microphones have the same text and `prompt_id`: a split by phrase keeps
    them together.

    Args:
      root: folder that the archives were unpacked to.
      microphones: "head", "array" or both.
      severity: table of speakers.

    Raises:
      UserError: no speaker is there, or a microphone is none.

    """
    folder = existing_folder(root)
    unknown = [name for name in microphones if name not in MICROPHONES]
    if unknown or not microphones:
        raise UserError(f"microphones {list(microphones)}: take from {', '.join(MICROPHONES)}")
    speakers = [
        path
        for top in (folder, *subfolders(folder))
        for path in subfolders(top)
        if _SPEAKER.fullmatch(path.name)
    ]
    if not speakers:
        raise UserError(f"{folder}: no folder of a speaker such as F01 or MC02; unpack the archives there")
    utterances: list[Utterance] = []
    dropped: list[Dropped] = []
    notes: list[Dropped] = []
    for speaker in speakers:
        for session in subfolders(speaker):
            if session.name.lower().startswith("session"):
                _read_session(folder, session, microphones, utterances, dropped, notes)
    known = read_speakers(severity)
    named = sorted({one.speaker for one in utterances})
    found = tuple(known.get(name, Speaker(name)) for name in named if "C" not in name)
    controls = typical(name for name in named if "C" in name)
    return Corpus(tuple(utterances), (*found, *controls), tuple(dropped), tuple(notes))


def clean_prompt(text: str) -> tuple[str, str]:
    """What was to be said, and "" or why a recording of this prompt is of no use."""
    words = " ".join(_ESCAPE.sub("", text).replace("\ufeff", "").split())
    if not words:
        return "", "empty prompt"
    if words.startswith("["):
        return "", "prompt is an instruction"
    if _PICTURE.fullmatch(words):
        return "", "prompt is a picture"
    if words.lower().strip(" .") == "xxx":
        return "", "prompt says xxx"
    return _HINT.sub("", words).strip(), ""


def _read_session(
    root: epath.Path,
    session: epath.Path,
    microphones: Sequence[str],
    utterances: list[Utterance],
    dropped: list[Dropped],
    notes: list[Dropped],
) -> None:
    speaker = session.parent.name
    prompts = files_of(session / "prompts", ".txt")
    recordings = {name: files_of(session / f"wav_{name}Mic", ".wav") for name in microphones}
    notes += [
        Dropped(below(root, session), f"no recordings by the {name} microphone")
        for name, files in recordings.items()
        if not files
    ]
    heard = sorted({number for files in recordings.values() for number in files})
    for number in heard:
        sources = {name: files[number] for name, files in recordings.items() if number in files}
        text, reason = _prompt(prompts.get(number))
        if reason:
            dropped += [Dropped(below(root, path), reason) for path in sources.values()]
            continue
        prompt = f"{speaker}_{session.name}_{number}"
        utterances += [
            Utterance(
                f"{prompt}_{name}", speaker, str(path), text, prompt_id=prompt, source="torgo",
                extra={"session": session.name, "microphone": name},
            )
            for name, path in sources.items()
        ]  # fmt: skip
    dropped += [
        Dropped(below(root, path), "prompt without recording")
        for number, path in prompts.items()
        if number not in heard
    ]


def _prompt(file: epath.Path | None) -> tuple[str, str]:
    if file is None:
        return "", "recording without prompt"
    return clean_prompt(file.read_bytes().decode("utf-8", errors="replace"))
