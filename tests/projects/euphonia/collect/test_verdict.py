"""What arrives is checked, and what is said about it fits what was done to the sound."""

import io
import struct
import wave

import numpy as np
import pytest

from offsites_jax.projects.euphonia.collect.audio import decode, listen

RATE = 16000
PROMPT = "Turn on the kitchen light"


def spoken(seconds=3.0, level=0.2, noise=1e-3, margin=0.4, rate=RATE):
    """A buzz with pauses between syllables, and quiet before and after."""
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * rate)) / rate
    voice = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 12))
    envelope = np.clip(np.sin(2 * np.pi * 2.5 * time), 0, 1) * (time > margin) * (time < seconds - margin)
    return level * voice * envelope + rng.normal(0, noise, time.shape)


def encode(samples, rate=RATE, channels=1, width=2):
    levels = np.clip(np.rint(np.asarray(samples) * 32767), -32768, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as stream:
        stream.setnchannels(channels)
        stream.setsampwidth(width)
        stream.setframerate(rate)
        stream.writeframes(levels.tobytes())
    return buffer.getvalue()


def heard(samples, rate=RATE):
    verdict = listen(decode(encode(samples, rate)), PROMPT).verdict
    return verdict.rating, {remark.code for remark in verdict.remarks}


def with_gap(samples):
    start = int(np.argmax(np.abs(samples)))
    return np.concatenate([samples[:start], np.zeros(RATE // 10), samples[start:]])


CASES = {
    "good": (spoken(), "good"),
    "slow": (spoken(seconds=20.0), "good"),  # slow speech is no fault
    "no voice": (spoken(level=0), "again", "empty"),
    "silence": (np.zeros(2 * RATE), "again", "empty"),
    "clipped": (np.clip(20 * spoken(), -1, 1), "again", "clipped"),
    "gap": (with_gap(spoken()), "again", "gaps"),
    "quiet": (spoken(level=0.004, noise=1e-5), "usable", "quiet"),
    "noisy": (spoken(noise=0.06), "usable", "noisy"),
    "begun late": (spoken()[round(0.45 * RATE) :], "usable", "start"),
    "stopped early": (spoken()[: round(1.3 * RATE)], "usable", "end"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_names_what_was_done(case):
    samples, rating, *codes = CASES[case]
    assert heard(samples) == (rating, set(codes))


def test_a_telephone_is_noticed():
    assert heard(spoken(rate=8000), 8000) == ("usable", {"narrow"})


def test_a_recording_too_short_for_its_prompt_is_noticed():
    recording = decode(encode(spoken(1.2, margin=0.1)))
    assert not listen(recording, "Yes").verdict.remarks
    assert [remark.code for remark in listen(recording, "a" * 100).verdict.remarks] == ["short"]


def test_measures_of_silence_are_numbers_that_json_has():
    quality = listen(decode(encode(np.zeros(RATE))), PROMPT).quality
    assert quality["peak_dbfs"] is None
    assert quality["seconds"] == 1.0


def test_samples_come_back():
    audio = decode(encode(spoken()))
    assert audio.sample_rate == RATE
    np.testing.assert_allclose(audio.samples, spoken(), atol=1e-4)


def riff(form, data, promised=None):
    """A WAV file by hand."""
    size = len(data) if promised is None else promised
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


PCM = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
FLOAT = struct.pack("<HHIIHH", 3, 1, RATE, 4 * RATE, 4, 32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no WAV file"),
        (b"OggS" + bytes(1000), "no WAV file, it begins with b'OggS'"),
        (b"RIFF\0\0\0\0WAVE", "ends before its samples"),
        (encode(spoken(), channels=2), "2 channels of 16 bits"),
        (encode(spoken(), width=1), "1 channels of 8 bits"),
        (encode(spoken(), rate=4000), "4000 Hz"),
        (encode(spoken()[:300]), "only 19 ms long"),
        (encode([]), "only 0 ms long"),
        (riff(PCM, bytes(3000), promised=9000), "promises 9000 bytes of samples, 3000 are there"),
        (riff(PCM, bytes(3000), promised=0xFFFFFFFF), "length missing"),
        (riff(FLOAT, bytes(8000)), "no PCM WAV file"),
        (riff(b"", bytes(8000)), "no PCM WAV file"),
    ],
)
def test_what_is_no_recording_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        decode(data)
