"""Made-up speech: equal for equal seeds, tested on phrases that nobody is trained on, and hard to hear."""

import hashlib

import numpy as np
import pytest

from offsites_jax.data.audio.read import read_audio
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia import synthetic
from offsites_jax.projects.euphonia.synthetic import RATE, Voice, disorder, speak, synthesize

SIZES = {"typical": 30, "typical_test": 6, "severities": (0.2, 1.0), "personal": 20, "personal_test": 4}


@pytest.fixture
def voices(monkeypatch):
    """In place of the synthesiser a tone for each text and voice; lists the voices that were asked for."""
    asked = []

    def tone(text, voice):
        asked.append(voice)
        digest = hashlib.sha256(f"{text} {voice}".encode()).digest()
        return 0.5 * np.sin(np.arange(800) * (digest[0] + 1) / 300).astype(np.float32)

    monkeypatch.setattr(synthetic, "speak", tone)
    return asked


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def speak_to(folder, **changes):
    folder.mkdir()
    return synthesize(folder, **{**SIZES, "held_out": 5, **changes})


def test_the_seed_says_everything(voices, tmp_path):
    first, second = speak_to(tmp_path / "a"), speak_to(tmp_path / "b")
    assert first == second
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    other = speak_to(tmp_path / "c", seed=1)
    assert [one.text for one in other[0]] != [one.text for one in first[0]]


def test_no_phrase_is_trained_on_and_tested(voices, tmp_path):
    utterances, parts = speak_to(tmp_path / "speech")
    of_part = {
        part: [one for one in utterances if parts[one.utt_id] == part] for part in ("train", "dev", "test")
    }
    phrases = {part: {one.text for one in own} for part, own in of_part.items()}
    assert not phrases["test"] & (phrases["train"] | phrases["dev"])
    assert len(phrases["test"]) == 5
    count = {
        (name, part): sum(one.speaker == name for one in own)
        for part, own in of_part.items()
        for name in ("typical", "speaker-1", "speaker-2")
    }
    for name in ("speaker-1", "speaker-2"):
        assert [count[name, part] for part in ("train", "dev", "test")] == [18, 2, 4]
    assert [count["typical", part] for part in ("train", "dev", "test")] == [30, 1, 6]
    for one in utterances:
        heard = read_audio(tmp_path / "speech" / one.audio, sample_rate=RATE)
        assert len(heard.samples) / RATE == pytest.approx(one.duration_s)


def test_a_hard_voice_is_one_voice_slower_and_with_longer_pauses(voices, tmp_path):
    speak_to(tmp_path / "speech")
    typical, mild, hard = voices[:36], voices[36:60], voices[60:84]
    assert len({voice.name for voice in typical}) > 10
    assert {voice.name for voice in (*mild, *hard)} == {"en-us+croak"}
    assert min(voice.rate for voice in typical) > max(voice.rate for voice in hard)
    assert {(voice.rate, voice.gap) for voice in mild} == {(153, 2)}
    assert {(voice.rate, voice.gap) for voice in hard} == {(85, 12)}


def test_without_severity_nothing_is_disordered():
    sound = 0.5 * np.random.default_rng(0).uniform(-1, 1, RATE).astype(np.float32)
    np.testing.assert_allclose(disorder(sound, 0.0, np.random.default_rng(1)), sound, atol=1e-6)


def test_consonants_are_dulled():
    """A tone of 3 kHz keeps what a third-order Butterworth filter at 1.4 kHz leaves of it, by its formula."""
    time = np.arange(4 * RATE) / RATE
    kept, expected = [], []
    for hertz in (200, 3000):
        found = disorder(0.5 * np.sin(2 * np.pi * hertz * time), 1.0, np.random.default_rng(0))
        kept.append(np.abs(np.fft.rfft(found))[4 * hertz])
        warped = np.tan(np.pi * hertz / RATE) / np.tan(np.pi * 1400 / RATE)
        expected.append(1 / np.sqrt(1 + warped**6))
    assert kept[1] / kept[0] == pytest.approx(expected[1] / expected[0], rel=0.1)


def test_it_trembles_and_breathes_as_the_severity_says():
    time = np.arange(4 * RATE) / RATE
    noise, tremor = [], []
    for severity in (0.3, 0.6, 1.0):
        found = disorder(0.5 * np.sin(2 * np.pi * 200 * time), severity, np.random.default_rng(0))
        envelope = np.abs(found).reshape(-1, RATE // 50).max(1)  # of 20 ms, four periods
        spectrum = np.abs(np.fft.rfft(envelope - envelope.mean()))
        assert np.argmax(spectrum) == 22, "5.5 Hz in four seconds"
        tremor.append(spectrum[22] / envelope.mean())
        power = np.abs(np.fft.rfft(found)) ** 2
        noise.append(power[4 * 4000 :].sum() / power.sum())
    assert noise == sorted(noise)
    assert noise[2] > 2 * noise[0] > 0
    assert tremor == sorted(tremor)


def test_the_synthesiser_speaks_and_says_what_it_lacks():
    quick = speak("turn on the light", Voice("en-us+m3", 180, 50))
    assert 0.5 * RATE < len(quick) < 3 * RATE
    assert 0.05 < np.abs(quick).max() <= 1.0
    assert len(speak("turn on the light", Voice("en-us+m3", 90, 50))) > 1.4 * len(quick)
    with pytest.raises(UserError, match="no voice 'xx-none'"):
        speak("light", Voice("xx-none", 180, 50))
