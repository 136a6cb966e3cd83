"""UASpeech (Kim et al. 2008): single words by speakers with cerebral palsy and by controls, on request.

    audio/{original,normalized,noisereduce}/<speaker>/<speaker>_B<block>_<word>_M<microphone>.wav
    audio/<speaker>/...  audio/control/<speaker>/...        (older copies)
    doc/speaker_wordlist.xls                                 (or beside `audio`)

The word list names the word of each key in its sheet `Word_filename`, uncommon words with their block, and
the intelligibility of each speaker in its sheet `Speaker`.
"""

import io
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from offsites_jax.errors import DamagedDataError, UserError
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
from offsites_jax.projects.euphonia.speakers import Speaker
from offsites_jax.projects.euphonia.splits import Split, given_split

VARIANTS = ("normalized", "noisereduce", "original")
TEST_BLOCK = "B2"

_LIST = "speaker_wordlist.xls"
_SPEAKER = re.compile(r"C?[FM]\d{2}")
_NAME = re.compile(
    r"(?P<speaker>C?[FM]\d{2})_(?P<block>B[1-3])_(?P<key>D\d|L[A-Z]|CW?\d{1,3}|UW\d{1,3})_(?P<microphone>M[2-8])"
)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_KINDS = {"D": "digit", "L": "letter", "C": "command", "CW": "common", "UW": "uncommon"}
_BANDS = ((25.0, 4), (50.0, 3), (75.0, 2), (100.0, 1))  # the corpus's very low, low, mid and high


class WordList(NamedTuple):
    """What the word list says.

    Attributes:
      words: by key.
      speakers: those it describes.

    """

    words: Mapping[str, str]
    speakers: Mapping[str, Speaker]


def read_uaspeech(
    root: str | os.PathLike[str], variant: str = "normalized", microphones: Sequence[str] = ()
) -> Corpus:
    """The recordings of one variant; older copies, which have one only, are read whatever it is called.

    Args:
      root: folder that holds `audio`.
      variant: of the sound, where there are several.
      microphones: "M2" to "M8"; all unless told.

    Raises:
      UserError: no recordings, no word list, or no such variant; xlrd is missing.
      DamagedDataError: a word list that cannot be read.

    """
    folder = existing_folder(root)
    listed = read_word_list(_list_file(folder))
    utterances: list[Utterance] = []
    dropped: list[Dropped] = []
    for speaker in _speaker_folders(folder, variant):
        for name, path in files_of(speaker, ".wav").items():
            found = _NAME.fullmatch(name)
            text = listed.words.get(_key(found)) if found else None
            if not found or found["speaker"] != speaker.name:
                dropped.append(Dropped(below(folder, path), "name that is not of the corpus"))
            elif text is None:
                dropped.append(Dropped(below(folder, path), "word that is not in the word list"))
            elif not microphones or found["microphone"] in microphones:
                utterances.append(_utterance(found, path, text))
    names = sorted({one.speaker for one in utterances})
    patients = tuple(listed.speakers.get(name, Speaker(name)) for name in names if name[0] != "C")
    return Corpus(
        tuple(utterances), (*patients, *typical(name for name in names if name[0] == "C")), tuple(dropped)
    )


def block_split(corpus: Corpus) -> Split:
    """The usual split of the corpus: blocks 1 and 3 train, block 2 tests.

    The 155 common words are said in every block, so the test shares them with training; report common and
    uncommon words apart, as `extra["common"]` tells them.
    """
    return given_split(
        corpus.utterances, lambda utterance: "test" if utterance.extra["block"] == TEST_BLOCK else "train"
    )


def read_word_list(path: str | os.PathLike[str]) -> WordList:
    """The words and speakers of `speaker_wordlist.xls`.

    Raises:
      UserError: no such file or sheet, or xlrd is missing.
      DamagedDataError: not a workbook of Excel 97.

    """
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"{file}: no such file; it is part of the corpus, in its folder doc")
    sheets = _sheets(file)
    if "Word_filename" not in sheets:
        raise UserError(f"{file}: no sheet Word_filename; it has {', '.join(sheets)}")
    header, *rows = sheets["Word_filename"] or [[]]
    columns = [str(cell).strip().upper() for cell in header]
    missing = [name for name in ("WORD", "FILE NAME") if name not in columns]
    if missing:
        raise UserError(f"{file}: sheet Word_filename has no column {missing[0]!r}; copy it again")
    word, key = columns.index("WORD"), columns.index("FILE NAME")
    words = {_text(row[key]): _text(row[word]) for row in rows if _text(row[key]) and _text(row[word])}
    return WordList(words, _speakers(sheets.get("Speaker", [])))


def severity_of(intelligibility: float) -> int:
    """Severity by the corpus's bands of intelligibility in percent: very low 4, low 3, mid 2, high 1."""
    return next(severity for most, severity in _BANDS if intelligibility <= most)


def _utterance(found: re.Match[str], path: epath.Path, text: str) -> Utterance:
    kind = _kind(found["key"])
    return Utterance(
        utt_id=found.group(),
        speaker=found["speaker"],
        audio=str(path),
        text=text,
        prompt_id=f"{found['speaker']}_{found['block']}_{found['key']}",
        source="uaspeech",
        extra={
            "block": found["block"],
            "microphone": found["microphone"],
            "word_kind": kind,
            "common": kind != "uncommon",
        },
    )


def _kind(key: str) -> str:
    return _KINDS[key.rstrip("0123456789") if key[0] != "L" else "L"]


def _key(found: re.Match[str]) -> str:
    """The key of the word list: uncommon words differ by block."""
    return f"{found['block']}_{found['key']}" if found["key"].startswith("UW") else found["key"]


def _list_file(root: epath.Path) -> epath.Path:
    places = (root / "doc" / _LIST, root / _LIST)
    return next((place for place in places if place.exists()), places[0])


def _speaker_folders(root: epath.Path, variant: str) -> list[epath.Path]:
    audio = root / "audio"
    variants = [name for name in VARIANTS if (audio / name).is_dir()]
    if variants and variant not in variants:
        raise UserError(f"{audio}: no variant {variant!r}; it has {', '.join(variants)}")
    top = audio / variant if variants else audio
    tops = (top, top / "control")
    folders = [path for one in tops for path in subfolders(one) if _SPEAKER.fullmatch(path.name)]
    if not folders:
        raise UserError(f"{top}: no folder of a speaker such as F02; give the folder that holds audio")
    return folders


def _speakers(rows: Sequence[Sequence[Any]]) -> dict[str, Speaker]:
    """Speakers of the sheet `Speaker`, where one may take several lines: the first names them."""
    cells: dict[str, list[str]] = {}
    name = ""
    for row in rows:
        texts = [_text(cell) for cell in row]
        name = texts[0] if texts and _SPEAKER.fullmatch(texts[0]) else name
        if name:
            own = cells.setdefault(name, [""] * len(texts))
            cells[name] = [f"{before} {text}".strip() for before, text in zip(own, texts, strict=False)]
    return {name: _described(name, own) for name, own in cells.items()}


def _described(name: str, cells: Sequence[str]) -> Speaker:
    percent = next((found for cell in cells if (found := _PERCENT.search(cell))), None)
    severity = severity_of(float(percent[1])) if percent and float(percent[1]) <= 100 else None
    return Speaker(name, etiology="cerebral palsy", disorder_types=("dysarthria",), severity=severity)


def _sheets(file: epath.Path) -> dict[str, list[list[Any]]]:
    try:
        import xlrd
    except ImportError as error:
        raise UserError("UASpeech's word list needs xlrd; pip install 'offsites-jax[speech]'") from error
    try:
        with xlrd.open_workbook(file_contents=file.read_bytes(), logfile=io.StringIO()) as book:
            return {
                sheet.name: [sheet.row_values(row) for row in range(sheet.nrows)] for sheet in book.sheets()
            }
    except Exception as error:  # xlrd stumbles over damage in many ways
        raise DamagedDataError(f"{file}: not a workbook of Excel 97 ({error}); copy it again") from error


def _text(cell: Any) -> str:
    """Whole numbers are digits: Excel knows no others."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()
