"""Common Voice (Ardila et al. 2020): typical speech that volunteers read, as MP3.

    cv-corpus-<version>/<language>/clips/*.mp3
    cv-corpus-<version>/<language>/{train,dev,test,validated,invalidated,other}.tsv
    cv-corpus-<version>/<language>/clip_durations.tsv        (newer versions: clip, duration[ms])

Quotation marks in the tables are characters of the sentences, they enclose nothing.
"""

import os
from collections.abc import Mapping, Sequence

from etils import epath

from offsites_jax.data.text.normalise import normalise
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.corpora.corpus import Corpus, Dropped, existing_folder, files_of, typical
from offsites_jax.projects.euphonia.corpora.delimited import Row, read_table
from offsites_jax.projects.euphonia.manifest import Utterance

PARTS = ("train", "dev", "test")

_EXTRA = ("age", "gender", "accents", "accent", "variant", "locale", "segment", "sentence_domain")


def read_common_voice(
    root: str | os.PathLike[str], language: str = "en", parts: Sequence[str] = PARTS
) -> Corpus:
    """The clips that some tables list; a clip that several list is taken from the first.

    Args:
      root: the folder of the language, or of the corpus.
      language: its folder, in the latter case.
      parts: names of tables, such as "validated".

    Raises:
      UserError: no such table, or no clips.

    """
    folder = existing_folder(root)
    folder = folder if (folder / "clips").is_dir() else folder / language
    clips = files_of(folder / "clips", ".mp3", ".wav")
    if not clips:
        raise UserError(f"{folder / 'clips'}: no clips; give the folder of the corpus, and its language")
    seconds = _durations(folder / "clip_durations.tsv")
    utterances: dict[str, Utterance] = {}
    dropped: list[Dropped] = []
    for part in parts:
        file = folder / f"{part}.tsv"
        table = read_table(file, ("client_id", "path", "sentence"), delimiter="\t", quoted=False)
        dropped += [Dropped(f"{file.name} row {row}", "row of another length") for row in table.ragged]
        for row in table.rows:
            _read_row(row, part, clips, seconds, utterances, dropped)
    found = tuple(utterances.values())
    return Corpus(found, typical(one.speaker for one in found), tuple(dropped))


def _read_row(
    row: Row,
    part: str,
    clips: Mapping[str, epath.Path],
    seconds: Mapping[str, float],
    utterances: dict[str, Utterance],
    dropped: list[Dropped],
) -> None:
    name = row.cells["path"].removesuffix(".mp3")
    reason = _reason(row, name, clips, utterances)
    if reason:
        dropped.append(Dropped(f"{part}.tsv row {row.number}", reason))
        return
    extra = {field: row.cells[field] for field in _EXTRA if row.cells.get(field)}
    utterances[name] = Utterance(
        utt_id=name,
        speaker=row.cells["client_id"],
        audio=str(clips[name]),
        text=row.cells["sentence"],
        source="common_voice",
        duration_s=seconds.get(name),
        prompt_id=row.cells.get("sentence_id") or None,
        extra={"split": part, **extra},
    )


def _reason(row: Row, name: str, clips: Mapping[str, epath.Path], utterances: Mapping[str, Utterance]) -> str:
    """Why a row is of no use; "" where it is."""
    if name not in clips:
        return "no clip of that name"
    if not row.cells["client_id"]:
        return "row without client_id"
    if not normalise(row.cells["sentence"]):
        return "sentence without words"
    return "clip that another table or row has" if name in utterances else ""


def _durations(file: epath.Path) -> dict[str, float]:
    """Seconds by clip; none where the version has no such table."""
    if not file.exists():
        return {}
    rows = read_table(file, ("clip", "duration[ms]"), delimiter="\t", quoted=False).rows
    return {
        row.cells["clip"].removesuffix(".mp3"): int(row.cells["duration[ms]"]) / 1000
        for row in rows
        if row.cells["duration[ms]"].isdecimal()
    }
