"""Measures of recordings made up so that the answer is known."""

import numpy as np
import pytest

from offsites_jax.data.audio import LogMelConfig, log_mel, pictures
from offsites_jax.data.audio.quality import measure

RATE = 16_000


def _recording(
    snr_db: float = 30.0, start: float = 0.5, end: float = 1.5, seconds: float = 2.0, rate: int = RATE
):
    """Speech-like noise from `start` to `end`, over noise that is so much softer."""
    rng = np.random.default_rng(0)
    time = np.arange(int(seconds * rate)) / rate
    speech = 0.1 * rng.standard_normal(len(time)) * ((time >= start) & (time < end))
    noise = 0.1 * 10 ** (-snr_db / 20) * rng.standard_normal(len(time))
    return (speech + noise).astype(np.float32)


@pytest.mark.parametrize("snr_db", [12, 20, 40])
@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_signal_to_noise(snr_db, rate):
    quality = measure(_recording(snr_db, rate=rate), rate)
    # The quietest fifth is a little below the mean of the noise, by how much frames scatter.
    assert quality.snr_db == pytest.approx(snr_db, abs=1.2)
    assert quality.speech_seconds == pytest.approx(1.0, abs=0.05)
    assert (quality.seconds, quality.sample_rate) == (2.0, rate)
    assert not quality.empty
    assert not quality.starts_cut
    assert not quality.ends_cut
    assert (quality.dropouts, quality.clipping_ratio) == (0, 0)


def test_without_a_quiet_part_the_ratio_is_unknown():
    assert measure(_recording(start=0, end=2), RATE).snr_db is None
    steady = measure((0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32), RATE)
    assert steady.snr_db is None
    assert steady.empty
    short = measure(_recording(start=0.05, end=0.1, seconds=0.15), RATE)
    assert short.snr_db is None


def test_digital_silence():
    quality = measure(np.zeros(RATE, np.float32), RATE)
    assert quality.peak_dbfs == -np.inf
    assert (quality.snr_db, quality.dropouts, quality.band_hz, quality.empty) == (None, 0, 0.0, True)


def test_a_short_word_is_no_empty_recording():
    assert measure(_recording(start=0.5, end=0.75), RATE).empty
    assert not measure(_recording(start=0.5, end=0.85), RATE).empty


@pytest.mark.parametrize(("start", "end", "cut"), [(0.0, 1.0, (True, False)), (1.0, 2.0, (False, True))])
def test_cut_at_an_end(start, end, cut):
    quality = measure(_recording(start=start, end=end), RATE)
    assert (quality.starts_cut, quality.ends_cut) == cut
    near = measure(_recording(start=0.06, end=1.94), RATE)
    assert (near.starts_cut, near.ends_cut) == (False, False)


def test_clipping_counts_runs_of_three():
    samples = _recording()
    samples[1000:1002] = 1.0
    assert measure(samples, RATE).clipping_ratio == 0
    samples[2000:2003] = -1.0
    samples[3000:3010] = 0.9995
    quality = measure(samples, RATE)
    assert quality.clipping_ratio == pytest.approx(13 / len(samples))
    assert quality.peak_dbfs == 0


def test_dropouts_are_counted_inside_speech_only():
    samples = _recording()
    samples[12_000:12_400] = 0.0  # 25 ms of digital silence
    samples[16_000:16_160] = 0.07  # 10 ms of one value
    samples[20_000:20_159] = 0.0  # one sample less is none
    samples[28_000:29_000] = 0.0  # after the speech
    quality = measure(samples, RATE)
    assert quality.dropouts == 2
    assert quality.dropout_ms == pytest.approx(25 + 10)


def test_an_offset_is_found_and_does_not_count_as_noise():
    clean, shifted = _recording(30), _recording(30) + np.float32(0.2)
    quality = measure(shifted, RATE)
    assert quality.dc_offset == pytest.approx(0.2, abs=2e-3)
    assert quality.snr_db == pytest.approx(measure(clean, RATE).snr_db, abs=0.01)
    assert quality.band_hz == pytest.approx(measure(clean, RATE).band_hz, abs=50)


def test_band_limit():
    time = np.arange(RATE) / RATE
    low, high = np.sin(2 * np.pi * 500 * time), np.sin(2 * np.pi * 3000 * time)
    for share, expected in ((0.2, 500), (0.24, 3000)):  # 4 % of the energy, then 5.4 %
        assert measure((low + share * high).astype(np.float32) / 2, RATE).band_hz == pytest.approx(
            expected, abs=2
        )
    white = (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
    assert measure(white, RATE).band_hz == pytest.approx(0.95 * 8000, rel=0.01)


def test_duration_against_the_prompt():
    assert measure(_recording(), RATE, "turn on").seconds_per_character == pytest.approx(2 / 7)
    assert measure(_recording(), RATE).seconds_per_character is None
    with pytest.raises(ValueError, match="less than 20 ms"):
        measure(np.zeros(319, np.float32), RATE)


def test_picture_shows_what_is_there():
    samples, config = _recording(), LogMelConfig()
    frames = log_mel(samples, config)
    figure = pictures.waveform_and_log_mel(samples, frames, config, title="a1")
    upper, lower = figure.axes
    assert figure.get_suptitle() == "a1"
    np.testing.assert_array_equal(lower.images[0].get_array(), frames.T)
    assert lower.get_xlim() == upper.get_xlim() == (0, 2)
    assert lower.images[0].get_extent() == pytest.approx([0, (197 - 1) * 0.01 + 513 / 16_000, 0, 128])
    outline = upper.collections[0].get_paths()[0].vertices
    assert (outline[:, 1].min(), outline[:, 1].max()) == pytest.approx((samples.min(), samples.max()))
    peaks = [float(label.get_text()) for label in lower.get_yticklabels()]
    assert peaks == sorted(peaks)
    assert 125 < peaks[0] < 160
    assert 7400 < peaks[-1] < 7600
    figure.canvas.draw()
