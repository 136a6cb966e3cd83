"""One's own recordings: with a manifest, or with the text of each in a file of the same name.

manifest.jsonl or manifest.csv, and recordings anywhere below
<speaker>/<name>.{wav,flac} and <speaker>/<name>.txt
"""

import os
from collections.abc import Sequence

from etils import epath

from offsites_jax.data.text.normalise import normalise
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.corpora.corpus import (
    Corpus,
    Dropped,
    below,
    existing_folder,
    files_of,
    subfolders,
)
from offsites_jax.projects.euphonia.manifest import Utterance, scan_manifest
from offsites_jax.projects.euphonia.speakers import Speaker, read_speakers

MANIFESTS = ("manifest.jsonl", "manifest.csv")


def read_own(root: str | os.PathLike[str]) -> Corpus:
    """The recordings of a folder; bad rows of a manifest are listed among what was dropped.

    A `speakers.csv` in the folder describes the speakers.

    Raises:
      UserError: neither a manifest nor a folder of a speaker with recordings is there.

    """
    folder = existing_folder(root)
    manifest = next((folder / name for name in MANIFESTS if (folder / name).exists()), None)
    utterances, dropped = _listed(manifest) if manifest is not None else _folders(folder)
    if not utterances and not dropped:
        raise UserError(f"{folder}: no manifest.jsonl and no <speaker>/<name>.wav; give one of them")
    table = folder / "speakers.csv"
    known = read_speakers(table) if table.exists() else {}
    names = sorted({one.speaker for one in utterances})
    return Corpus(tuple(utterances), tuple(known.get(name, Speaker(name)) for name in names), tuple(dropped))


def _listed(manifest: epath.Path) -> tuple[Sequence[Utterance], list[Dropped]]:
    found = scan_manifest(manifest)
    dropped = [
        Dropped(f"{manifest.name} row {problem.row}", f"{problem.field}: {problem.message}")
        for problem in found.problems
    ]
    return found.utterances, dropped


def _folders(root: epath.Path) -> tuple[Sequence[Utterance], list[Dropped]]:
    utterances: list[Utterance] = []
    dropped: list[Dropped] = []
    for speaker in subfolders(root):
        texts = files_of(speaker, ".txt")
        recordings = files_of(speaker, ".wav", ".flac")
        for name, path in recordings.items():
            words = texts[name].read_bytes().decode("utf-8-sig", "replace") if name in texts else ""
            if normalise(words):
                text = " ".join(words.split())
                utterances.append(Utterance(f"{speaker.name}_{name}", speaker.name, str(path), text))
            else:
                reason = "text without words" if name in texts else "recording without text"
                dropped.append(Dropped(below(root, path), reason))
        dropped += [
            Dropped(below(root, path), "text without recording")
            for name, path in texts.items()
            if name not in recordings
        ]
    return utterances, dropped
