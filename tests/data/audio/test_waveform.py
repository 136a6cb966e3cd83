"""Augmentation of waveforms: ratios, levels, spectra, and that equal draws give equal sound."""

import dataclasses

import numpy as np
import pytest
import scipy.signal

from offsites_jax.data.audio import noise, waveform
from offsites_jax.data.audio.waveform import WaveformPolicy
from offsites_jax.errors import UserError

RATE = 16_000


def _speech(seed: int = 0, seconds: float = 1.0, level: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    envelope = np.abs(np.sin(np.arange(int(seconds * RATE)) / 1500))
    return (level * envelope * rng.standard_normal(len(envelope))).astype(np.float32)


def _power_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


@pytest.mark.parametrize("snr_db", [-5, 0, 12.5, 20])
def test_speech_and_noise_are_as_far_apart_as_asked(snr_db):
    speech, other = _speech(0, level=0.02), 0.01 * _speech(1)
    mixed = waveform.mix_at_snr(speech, other, snr_db)
    assert _power_db(speech) - _power_db(mixed - speech) == pytest.approx(snr_db, abs=1e-3)


def test_nothing_clips_and_the_ratio_stays():
    speech, other = _speech(0, level=0.2), _speech(1)
    mixed = waveform.mix_at_snr(speech, other, -10)
    assert np.max(np.abs(mixed)) == pytest.approx(1)
    factor = 10 ** ((_power_db(speech) - _power_db(other) + 10) / 20)
    expected = speech + factor * other
    np.testing.assert_allclose(mixed, expected / np.max(np.abs(expected)), atol=1e-6)
    assert np.max(np.abs(waveform.gain(speech, 40))) == pytest.approx(1)


def test_silence_is_left_alone():
    silence, speech = np.zeros(1000, np.float32), _speech(seconds=1000 / RATE)
    np.testing.assert_array_equal(waveform.mix_at_snr(silence, speech, 0), silence)
    np.testing.assert_array_equal(waveform.mix_at_snr(speech, silence, 0), speech)
    np.testing.assert_array_equal(waveform.reverberate(silence, speech), silence)
    with pytest.raises(ValueError, match="noise of shape"):
        waveform.mix_at_snr(speech, speech[:-1], 0)


def test_gain_is_in_decibels():
    speech = _speech(level=0.01)
    assert _power_db(waveform.gain(speech, 4.5)) - _power_db(speech) == pytest.approx(4.5, abs=1e-3)


def test_a_room_keeps_time_and_loudness():
    speech = _speech(level=0.02)
    echo = np.zeros(3000, np.float32)
    echo[[700, 1500]] = 1.0, 0.5  # the direct sound comes after a delay
    wet = waveform.reverberate(speech, echo)
    expected = speech.astype(np.float64)
    expected[800:] += 0.5 * speech[:-800]
    expected *= np.sqrt(np.mean(np.square(speech)) / np.mean(np.square(expected)))
    np.testing.assert_allclose(wet, expected, atol=1e-6)


def test_a_made_up_room_dies_away_as_told():
    impulse = noise.room_impulse(np.random.default_rng(0), RATE, 0.5, direct_db=3.0)
    assert np.argmax(np.abs(impulse)) == 0
    direct, tail = impulse[0] ** 2, np.square(impulse[1:])
    assert 10 * np.log10(direct / tail.sum()) == pytest.approx(3, abs=1e-3)
    remaining = 10 * np.log10(np.cumsum(tail[::-1])[::-1])  # Schroeder's backward integral
    assert remaining[800] - remaining[4800] == pytest.approx(30, abs=2)  # 60 dB in 0.5 s


def test_pink_noise_falls_by_three_decibels_an_octave():
    samples = noise.pink_noise(np.random.default_rng(0), 2**17)
    hertz, power = scipy.signal.welch(samples, RATE, nperseg=4096)
    band = (hertz > 60) & (hertz < 7000)
    slope = np.polyfit(np.log2(hertz[band]), 10 * np.log10(power[band]), 1)[0]
    assert slope == pytest.approx(-3.01, abs=0.15)
    assert np.sqrt(np.mean(np.square(samples))) == pytest.approx(0.1, rel=1e-3)
    assert len(noise.pink_noise(np.random.default_rng(0), 1237)) == 1237


def test_babble_is_made_of_its_clips():
    clips = [_speech(seed, 0.1) for seed in range(3)]
    one = noise.babble(np.random.default_rng(0), clips, 10_000, voices=1)
    turned = [np.roll(clip, -start)[:1000] for clip in clips for start in range(len(clip))]
    likeness = np.max(np.abs([np.dot(part, one[:1000]) / np.linalg.norm(part) for part in turned]))
    assert likeness / np.linalg.norm(one[:1000]) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(one[:-1600], one[1600:], atol=1e-6)  # over and over
    many = noise.babble(np.random.default_rng(0), clips, 10_000)
    assert np.sqrt(np.mean(np.square(many))) == pytest.approx(0.1, rel=1e-3)
    with pytest.raises(ValueError, match="at least one clip"):
        noise.babble(np.random.default_rng(0), [], 100)
    with pytest.raises(ValueError, match="silent clip"):
        noise.babble(np.random.default_rng(0), [np.zeros(50, np.float32)], 100)


def test_a_telephone_has_no_sound_above_its_band():
    time = np.arange(RATE) / RATE
    low, high = (0.4 * np.sin(2 * np.pi * hertz * time).astype(np.float32) for hertz in (1000, 6000))
    for line in (waveform.band_limit, waveform.telephone):
        heard = line(low + high, RATE)
        assert heard.shape == low.shape
        spectrum = np.abs(np.fft.rfft(heard))
        assert spectrum[6000] < 0.01 * spectrum[1000]
        assert spectrum[1000] == pytest.approx(np.abs(np.fft.rfft(low))[1000], rel=0.02)
    narrow = low[::2]
    levels = np.unique(np.round(waveform.telephone(narrow, 8000), 6))
    assert len(levels) <= 255  # of eight bits
    np.testing.assert_array_equal(waveform.band_limit(narrow, 8000), narrow)


def test_equal_draws_give_equal_sound():
    speech = _speech()
    policy = WaveformPolicy(reverberation=0.5, noise=0.5, telephone=0.5)

    def run(seed, policy=policy):
        return waveform.augment(speech, RATE, np.random.default_rng(seed), policy, noise.pink_noise)

    outputs = [run(seed) for seed in range(20)]
    for seed, output in enumerate(outputs):
        np.testing.assert_array_equal(run(seed), output)
        assert output.shape == speech.shape
        assert output.dtype == np.float32
        assert np.max(np.abs(output)) <= 1
    assert len({output.tobytes() for output in outputs}) == 20


def test_one_probability_does_not_move_the_other_draws():
    speech = _speech(level=0.01)
    calm = WaveformPolicy(reverberation=0, noise=0, telephone=0)
    noisy = dataclasses.replace(calm, noise=1.0, snr_db=(10, 10))
    for seed in range(5):
        only_gain, with_noise = (
            waveform.augment(speech, RATE, np.random.default_rng(seed), policy, noise.pink_noise)
            for policy in (calm, noisy)
        )
        gain_db = _power_db(only_gain) - _power_db(speech)
        assert -6 <= gain_db <= 6
        assert _power_db(only_gain) - _power_db(with_noise - only_gain) == pytest.approx(10, abs=0.01)


def test_a_given_room_is_used():
    speech = _speech(level=0.01)
    policy = WaveformPolicy(reverberation=1, noise=0, gain_db=(0, 0))
    echo = np.zeros(100, np.float32)
    echo[[0, 50]] = 1, 0.9
    heard = waveform.augment(
        speech, RATE, np.random.default_rng(0), policy, noise.pink_noise, lambda rng, rate: echo
    )
    np.testing.assert_allclose(heard, waveform.reverberate(speech, echo), atol=1e-7)


def test_policies_are_checked():
    with pytest.raises(UserError, match="noise = "):
        WaveformPolicy(noise=1.5)
    with pytest.raises(UserError, match="snr_db"):
        WaveformPolicy(snr_db=(20, 0))
