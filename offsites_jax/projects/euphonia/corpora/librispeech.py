"""LibriSpeech (Panayotov et al. 2015, openslr.org/12): read books, typical speech, 16 kHz FLAC.

LibriSpeech/<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<nnnn>.flac
LibriSpeech/<subset>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt   "utterance TEXT IN CAPITALS"
"""

import os
from collections.abc import Sequence

from etils import epath

from offsites_jax.data.delimited import read_text
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

SUBSETS = (
    "train-clean-100", "train-clean-360", "train-other-500",
    "dev-clean", "dev-other", "test-clean", "test-other",
)  # fmt: skip


def read_librispeech(root: str | os.PathLike[str], subsets: Sequence[str] = ()) -> Corpus:
    """The utterances of some subsets.

    Args:
      root: the folder `LibriSpeech`, or the one above it.
      subsets: of `SUBSETS`; all that are there unless told.

    Raises:
      UserError: a subset is not there, or none is.

    """
    folder = existing_folder(root)
    folder = folder / "LibriSpeech" if (folder / "LibriSpeech").is_dir() else folder
    there = [name for name in SUBSETS if (folder / name).is_dir()]
    missing = [name for name in subsets if name not in there]
    if missing or not there:
        wanted = missing[0] if missing else f"one of {', '.join(SUBSETS)}"
        raise UserError(f"{folder}: no folder {wanted}; it has {', '.join(there) or 'none of them'}")
    utterances: list[Utterance] = []
    dropped: list[Dropped] = []
    for subset in subsets or there:
        for speaker in subfolders(folder / subset):
            for chapter in subfolders(speaker):
                _read_chapter(folder, subset, chapter, utterances, dropped)
    return Corpus(tuple(utterances), typical(one.speaker for one in utterances), tuple(dropped))


def _read_chapter(
    root: epath.Path, subset: str, chapter: epath.Path, utterances: list[Utterance], dropped: list[Dropped]
) -> None:
    speaker = chapter.parent.name
    recordings = files_of(chapter, ".flac")
    listing = chapter / f"{speaker}-{chapter.name}.trans.txt"
    lines = read_text(listing).splitlines() if listing.exists() else []
    texts = {name: text.strip() for name, _, text in (line.partition(" ") for line in lines) if name}
    for name, recording in recordings.items():
        if not texts.get(name):
            dropped.append(Dropped(below(root, recording), "recording without text"))
            continue
        utterances.append(
            Utterance(
                name, speaker, str(recording), texts[name], source="librispeech", sample_rate=16000,
                transcript_status="verified", extra={"subset": subset, "chapter": chapter.name},
            )
        )  # fmt: skip
    dropped += [
        Dropped(f"{below(root, chapter)}/{name}", "text without recording")
        for name in texts
        if name not in recordings
    ]
