"""Asterisk's prompts, from made-up packages in the layout of Debian's."""

import gzip

import numpy as np
import pytest

from offsites_jax.data.audio.asterisk import clean_transcript, read_asterisk
from offsites_jax.data.audio.utterance import Utterance
from offsites_jax.data.audio.wav import write_wav
from offsites_jax.errors import DamagedDataError, UserError

TEXT = """\ufeff; Core sounds
; activated: a comment

activated: Activated.
beep: [this is a simple beep tone]
conf-menu: conf-menu: Press 1.
digits/1f: one
hours: hours
letters/at: at [@]
missing: Not recorded.
silence/1: (1 second of silence)
"""


def _package(root, language="en", voice="en_US_f_Allison", text=TEXT, encoding="wav"):
    sounds = root / "usr/share/asterisk/sounds" / voice
    names = ("activated", "beep", "conf-menu", "digits/1F", "hours", "letters/at", "silence/1", "untold")
    for place, name in enumerate(names):
        file = sounds / f"{name}.{encoding}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if encoding == "wav":
            write_wav(file, np.zeros(8000 + 800 * place, np.float32), 8000)
        else:
            file.write_bytes(b"\0" * (8000 + 800 * place))
    notes = root / f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
    notes.parent.mkdir(parents=True, exist_ok=True)
    notes.write_bytes(gzip.compress(text.encode()))
    return root


@pytest.mark.parametrize("encoding", ["wav", "g722"])
def test_prompts_with_words_and_sound(tmp_path, encoding):
    found = read_asterisk(_package(tmp_path, encoding=encoding), "en", encoding)
    folder = tmp_path / "usr/share/asterisk/sounds/en_US_f_Allison"
    expected = [
        ("activated", "Activated.", 1.0),
        ("conf-menu", "Press 1.", 1.2),  # its line names it twice
        ("digits/1F", "one", 1.3),  # its line has another capital
        ("hours", "hours", 1.4),
        ("letters/at", "at", 1.5),
    ]
    assert list(found.utterances) == [
        Utterance(key, str(folder / f"{key}.{encoding}"), text, "en", "Allison", pytest.approx(seconds))
        for key, text, seconds in expected
    ]
    assert found.left_out == (
        ("beep", "no words"),
        ("missing", "no recording"),
        ("silence/1", "silence"),
        ("untold", "no text"),
    )


def test_languages_lie_side_by_side(tmp_path):
    _package(tmp_path)
    _package(tmp_path, "it", "it_IT_m_Carlo", TEXT.replace("Activated", "Attivato"))
    first = read_asterisk(tmp_path, "it").utterances[0]
    assert (first.key, first.text, first.language, first.speaker) == ("activated", "Attivato.", "it", "Carlo")
    assert read_asterisk(tmp_path, "en").utterances[0].text == "Activated."


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("That  agent is\u2019nt on.", "That agent is'nt on."),
        ("[this is a simple beep tone]", ""),
        ("[ tono de error ]", ""),
        ("<beep ascending>", ""),
        ("(beep)", ""),
        ("-", ""),
        ("", ""),
        ("...", ""),
        ("dash [-]", "dash"),
        ("space [ ]", "space"),
        ("[!] punto esclamativo", "punto esclamativo"),
        ('IAX (note: does not say "2")', "IAX"),
        ("Leave a message. (tone) .", "Leave a message.."),
        ("\u201cPour quitter, appuyez sur 8.\u201d", '"Pour quitter, appuyez sur 8."'),
        ('Entrez votre code."', "Entrez votre code."),
        ("\u00abqui\u00bb non.", '"qui" non.'),
    ],
)
def test_cleaning(line, words):
    assert clean_transcript(line) == words


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="no voice for en; unpack asterisk-core-sounds-en-wav"):
        read_asterisk(tmp_path, "en")
    with pytest.raises(UserError, match="'de' has no Asterisk prompts"):
        read_asterisk(tmp_path, "de")
    _package(tmp_path)
    with pytest.raises(UserError, match="no g722 files"):
        read_asterisk(tmp_path, "en", "g722")
    notes = tmp_path / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    notes.write_bytes(notes.read_bytes()[:40])
    with pytest.raises(DamagedDataError, match="unpack asterisk-core-sounds-en again"):
        read_asterisk(tmp_path, "en")
    notes.unlink()
    with pytest.raises(UserError, match="which holds the transcripts"):
        read_asterisk(tmp_path, "en")
