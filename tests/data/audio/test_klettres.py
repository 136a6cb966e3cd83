"""KLettres' sounds, from a made-up package in the layout of Debian's."""

import numpy as np
import pytest
import soundfile

from offsites_jax.data.audio.klettres import klettres_languages, read_klettres
from offsites_jax.data.audio.read import read_audio
from offsites_jax.data.audio.utterance import Utterance
from offsites_jax.errors import DamagedDataError, UserError

XML = """<!-- KLettres -->
<klettres>
 <language code="it">
  <menuitem><label>&amp;Italian</label></menuitem>
  <alphabet>
    <sound name="B" file="it/alpha/b.ogg" />
    <sound name="À" file="it/alpha/a.ogg" />
  </alphabet>
  <syllables>
    <sound name="BA" file="it/syllab/ba.ogg" />
    <sound name=" " file="it/alpha/space.ogg" />
    <sound name="ZU" file="it/syllab/zu.ogg" />
  </syllables>
 </language>
</klettres>
"""


def _package(root, xml=XML):
    folder = root / "usr/share/klettres"
    (folder / "it/alpha").mkdir(parents=True)
    (folder / "it/syllab").mkdir()
    (folder / "pics").mkdir()
    (folder / "it/sounds.xml").write_text(xml, "utf-8")
    time = np.arange(44_100) / 44_100
    tone = 0.3 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(folder / "it/alpha/a.ogg", np.stack([tone, tone], axis=1), 44_100)
    soundfile.write(folder / "it/alpha/b.ogg", tone[:22_050], 22_050)
    soundfile.write(folder / "it/alpha/space.ogg", tone, 44_100)
    soundfile.write(folder / "it/syllab/ba.ogg", tone[:11_025], 44_100)
    return root


def test_letters_and_syllables(tmp_path):
    found = read_klettres(_package(tmp_path), "it")
    folder = tmp_path / "usr/share/klettres"
    assert klettres_languages(tmp_path) == ("it",)
    assert found.utterances == tuple(
        Utterance(key, str(folder / key), text, "it", "klettres_it", seconds)
        for key, text, seconds in (
            ("it/alpha/a.ogg", "À", 1.0),
            ("it/alpha/b.ogg", "B", 1.0),
            ("it/syllab/ba.ogg", "BA", 0.25),
        )
    )
    assert found.left_out == (("it/alpha/space.ogg", "no text"), ("it/syllab/zu.ogg", "no recording"))


def test_odd_rates_and_channels_become_one_form(tmp_path):
    for utterance in read_klettres(_package(tmp_path), "it").utterances:
        recording = read_audio(utterance.path, sample_rate=16_000)
        assert recording.samples.ndim == 1
        assert recording.seconds == pytest.approx(utterance.seconds, abs=1e-4)
        assert ("mean of 2 channels" in recording.notes) == (utterance.key == "it/alpha/a.ogg")


def test_bad_lists_of_sounds(tmp_path):
    listing = _package(tmp_path) / "usr/share/klettres/it/sounds.xml"
    bomb = '<!DOCTYPE k [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><klettres>&b;</klettres>'
    for xml, words in (
        ("<klettres><sound", "is no XML"),
        (bomb, "defines the entity 'a'"),
        ('<klettres><sound name="A" file="../../../etc/passwd"/></klettres>', "outside the folder"),
        ('<klettres><sound name="A" file="/etc/passwd"/></klettres>', "outside the folder"),
    ):
        listing.write_text(xml)
        with pytest.raises(DamagedDataError, match=words):
            read_klettres(tmp_path, "it")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="unpack klettres-data"):
        klettres_languages(tmp_path)
    _package(tmp_path)
    with pytest.raises(UserError, match="see klettres_languages"):
        read_klettres(tmp_path, "xx")
