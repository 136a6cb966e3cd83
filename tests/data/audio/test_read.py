"""Recordings of every encoding, whole and broken."""

import io
import pathlib
import struct

import av
import numpy as np
import pytest
import soundfile

from offsites_jax.data.audio.read import decode_audio, read_audio, seconds_of
from offsites_jax.data.audio.resample import resample
from offsites_jax.data.audio.wav import write_wav
from offsites_jax.errors import DamagedDataError, UserError

RATE = 16_000


def _tone(hertz: float = 440, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def _encoded(samples: np.ndarray, container: str, subtype: str | None = None, rate: int = RATE) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=container, subtype=subtype)
    return stream.getvalue()


def _g722(samples: np.ndarray) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format="g722") as container:
        track = container.add_stream("g722", rate=RATE)
        track.layout = "mono"
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = RATE
        for packet in [*track.encode(frame), *track.encode(None)]:
            container.mux(packet)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "container", "subtype", "tolerance"),
    [
        ("a.wav", "WAV", "PCM_16", 1 / 32768),
        ("a.wav", "WAV", "PCM_24", 1e-6),
        ("a.wav", "WAV", "FLOAT", 0),
        ("a.WAV", "WAV", "ULAW", 0.02),
        ("a.flac", "FLAC", None, 1 / 32768),
        ("a.ogg", "OGG", "VORBIS", 0.05),
        ("a.sph", "NIST", "PCM_16", 1 / 32768),
        ("a.sph", "NIST", "ULAW", 0.02),
    ],
)
def test_what_libsndfile_reads(name, container, subtype, tolerance):
    tone = _tone()
    recording = decode_audio(_encoded(tone, container, subtype), name)
    assert (recording.sample_rate, recording.notes, recording.seconds) == (RATE, (), 1.0)
    assert recording.samples.dtype == np.float32
    np.testing.assert_allclose(recording.samples, tone, atol=tolerance)


def test_lossy_encodings_keep_the_tone():
    tone = _tone() + (0.02 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
    for name, data in (("a.mp3", _encoded(tone, "MP3")), ("a.g722", _g722(tone))):
        recording = decode_audio(data, name)
        assert recording.sample_rate == RATE
        assert recording.seconds == pytest.approx(1, abs=0.01)
        spectrum = np.abs(np.fft.rfft(recording.samples))
        peak = np.argmax(spectrum) * RATE / len(recording.samples)
        assert peak == pytest.approx(440, abs=2)
        assert np.std(recording.samples) == pytest.approx(np.std(tone), rel=0.05)


def test_several_channels_become_their_mean():
    left, right = _tone(440), _tone(1000)
    data = _encoded(np.stack([left, right], axis=1), "WAV", "FLOAT")
    recording = decode_audio(data, "a.wav")
    np.testing.assert_allclose(recording.samples, (left + right) / 2, atol=1e-6)
    assert recording.notes == ("mean of 2 channels",)
    second = decode_audio(data, "a.wav", channel=1)
    np.testing.assert_array_equal(second.samples, right)
    assert second.notes == ()
    with pytest.raises(UserError, match="no channel 2; take one of 0 to 1"):
        decode_audio(data, "a.wav", channel=2)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000])
def test_resampling_keeps_the_tone_in_time(rate):
    tone = _tone(440, 0.5, rate)
    changed = resample(tone, rate, RATE)
    expected = _tone(440, 0.5)
    assert len(changed) == -(-len(tone) * RATE // rate)
    inside = slice(400, 7600)
    np.testing.assert_allclose(changed[inside], expected[inside], atol=2e-3)
    assert resample(tone, rate, rate) is tone


def test_reading_at_another_rate_remembers_the_original(tmp_path):
    write_wav(tmp_path / "a.wav", _tone(440, 0.5, 8000), 8000)
    recording = read_audio(tmp_path / "a.wav", sample_rate=RATE)
    assert (recording.sample_rate, recording.original_rate, len(recording.samples)) == (RATE, 8000, 8000)
    assert seconds_of(tmp_path / "a.wav") == 0.5


def test_sixteen_bits_are_written_back_the_same(tmp_path):
    levels = np.arange(-32768, 32768, dtype=np.int16)
    source = _encoded(levels, "WAV", "PCM_16")
    write_wav(tmp_path / "a.wav", decode_audio(source, "a.wav").samples, RATE)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav", dtype="int16")[0], levels)
    write_wav(tmp_path / "a.wav", np.array([-9, 9] * 500, np.float32), RATE)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav", dtype="int16")[0][:2], [-32768, 32767])
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


def test_what_cannot_be_written_leaves_the_file_alone(tmp_path):
    file = tmp_path / "a.wav"
    write_wav(file, _tone(), RATE)
    before = file.read_bytes()
    for samples in (np.array([0, np.nan]), np.zeros((2, 10))):
        with pytest.raises(ValueError, match=r"a\.wav"):
            write_wav(file, samples, RATE)
    assert file.read_bytes() == before


def _with_length(data: bytes, length: int) -> bytes:
    place = data.index(b"data") + 4
    return data[:place] + struct.pack("<I", length) + data[place + 4 :]


def test_a_wav_file_that_lies_about_its_length():
    tone = _tone()
    whole = _encoded(tone, "WAV", "PCM_16")
    start = whole.index(b"data") + 8
    cut = decode_audio(whole[: start + 10_000], "a.wav")
    assert cut.notes == ("truncated: the header promises 32000 bytes of samples, 10000 are there",)
    np.testing.assert_allclose(cut.samples, tone[:5000], atol=1 / 32768)
    for missing in (0, 0xFFFFFFFF):
        streamed = decode_audio(_with_length(whole, missing), "a.wav")
        assert streamed.notes == ("length missing in the header, 32000 bytes of samples read",)
        np.testing.assert_allclose(streamed.samples, tone, atol=1 / 32768)
    extra = decode_audio(_with_length(whole, 20_000) + b"LIST\x04\0\0\0info", "a.wav")
    assert (len(extra.samples), extra.notes) == (10_000, ())


def test_a_flac_file_that_breaks_off_is_read_up_to_there():
    noise = (0.1 * np.random.default_rng(0).standard_normal(4 * RATE)).astype(np.float32)
    data = _encoded(noise, "FLAC")
    recording = decode_audio(data[: len(data) // 2], "a.flac")
    assert recording.notes == ("truncated: the end cannot be decoded",)
    assert 1 < recording.seconds < 2.1
    np.testing.assert_allclose(recording.samples, noise[: len(recording.samples)], atol=1 / 32768)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.wav", b"", "a.wav: is empty"),
        ("a.wav", b"\0" * 4000, "is no WAV file, it begins with"),
        ("a.wav", b"OggS" + b"\0" * 400, "begins with b'OggS'"),
        ("a.wav", b"RIFF\x24\0\0\0WAVEfmt ", "ends before its samples"),
        ("a.flac", b"\0" * 4000, "a.flac: no readable audio"),
        ("a.ogg", b"OggS" + b"\0" * 400, "a.ogg: no readable audio"),
        ("a.m4a", b"\0" * 4000, "a.m4a: no readable mov audio"),
        ("a.txt", b"hello", "a.txt: no readable audio"),
        ("a.wav", _encoded(_tone(seconds=0), "WAV"), "holds no samples"),
        ("a.wav", _encoded(_tone(seconds=0.031), "WAV"), "only 31.0 ms long"),
        ("a.wav", _encoded(_tone(rate=6000), "WAV", rate=6000), "6000 Hz is too low"),
        (
            "a.wav",
            _encoded(np.array([0, np.nan] * 500), "WAV", "FLOAT"),
            "500 of 1000 samples are not finite",
        ),
        ("a.wav", _encoded(np.array([np.inf] * 800), "WAV", "DOUBLE"), "800 of 800 samples are not finite"),
    ],
)
def test_damaged_files_are_named_in_one_line(name, data, words):
    with pytest.raises(DamagedDataError, match=words) as caught:
        decode_audio(data, name)
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def test_limits(tmp_path):
    file = tmp_path / "long.flac"
    file.write_bytes(_encoded(np.zeros(20 * RATE, np.float32), "FLAC"))
    assert read_audio(file, max_seconds=20).seconds == 20
    with pytest.raises(UserError, match=r"long\.flac: longer than 19 s"):
        read_audio(file, max_seconds=19)
    with pytest.raises(UserError, match=r"long\.flac: larger than 0 MiB"):
        read_audio(file, max_bytes=10)
    with pytest.raises(UserError, match="no such file"):
        read_audio(tmp_path / "none.wav")
    with pytest.raises(UserError, match="40 channels"):
        decode_audio(_encoded(np.zeros((1000, 40), np.float32), "WAV"), "a.wav")


def test_a_playlist_is_not_followed(tmp_path):
    secret = tmp_path / "secret.wav"
    write_wav(secret, _tone(), RATE)
    playlist = f"ffconcat version 1.0\nfile '{secret}'\n".encode()
    for name in ("a.m4a", "a.webm", "a.aac"):
        with pytest.raises(DamagedDataError):
            decode_audio(playlist, name)
    assert pathlib.Path(secret).exists()
