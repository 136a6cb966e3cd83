"""Recordings of the Project Euphonia app (google/project-euphonia-app): one speaker.

data/<index>/recording.wav
data/<index>/phrase.txt
"""

import os

from etils import epath

from offsites_jax.data.text.normalise import normalise
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.corpora.corpus import (
    Corpus,
    Dropped,
    below,
    existing_folder,
    subfolders,
)
from offsites_jax.projects.euphonia.manifest import Utterance
from offsites_jax.projects.euphonia.speakers import Speaker


def read_euphonia_app(root: str | os.PathLike[str], speaker: str) -> Corpus:
    """The recordings of one export.

    Args:
      root: the folder `data`, or the one above it.
      speaker: whose recordings they are; the app does not say.

    Raises:
      UserError: no recordings are there.

    """
    folder = existing_folder(root)
    folder = folder / "data" if (folder / "data").is_dir() else folder
    places = sorted(
        (path for path in subfolders(folder) if path.name.isdecimal()), key=lambda path: int(path.name)
    )
    if not places:
        raise UserError(f"{folder}: no folders 0, 1, 2, ...; give the folder data of an export")
    utterances: list[Utterance] = []
    dropped: list[Dropped] = []
    for place in places:
        text = _phrase(place / "phrase.txt")
        reason = _reason(place, text)
        if reason:
            dropped.append(Dropped(below(folder, place), reason))
            continue
        utterances.append(
            Utterance(
                f"{speaker}_{place.name}", speaker, str(place / "recording.wav"), text,
                prompt_id=place.name, source="euphonia_app",
            )
        )  # fmt: skip
    return Corpus(tuple(utterances), (Speaker(speaker),) if utterances else (), tuple(dropped))


def _phrase(file: epath.Path) -> str:
    return file.read_bytes().decode("utf-8-sig", errors="replace").strip() if file.exists() else ""


def _reason(place: epath.Path, text: str) -> str:
    """Why a folder is of no use; "" where it is."""
    if not (place / "recording.wav").exists():
        return "phrase without recording"
    if not (place / "phrase.txt").exists():
        return "recording without phrase"
    return "" if normalise(text) else "phrase without words"
