"""Log-mel features: TensorFlow's, a plain float64 computation, streams, JAX."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.data.audio import TELEPHONE, LogMelConfig, device, features, frontend, log_mel, stack_frames
from offsites_jax.data.audio.mel import mel_bank
from offsites_jax.errors import DamagedDataError, UserError

device_log_mel = jax.jit(device.log_mel, static_argnums=1)
device_features = jax.jit(device.features, static_argnums=1)

GOLDEN = pathlib.Path(__file__).parent / "golden/log_mel.npz"
PLAIN = LogMelConfig(
    window=400,
    fft=512,
    mels=80,
    triangles="hertz",
    scale=1,
    preemphasis=0,
    dither=0,
    floor=1e-5,
    stack=1,
    stride=1,
)
TARGET = dataclasses.replace(
    PLAIN, sample_rate=24_000, window=1200, step=300, fft=2048, mels=128, low_hz=20, high_hz=12_000
)
CONFIGS = {
    "lingvo": LogMelConfig(),
    "telephone": TELEPHONE,
    "plain": PLAIN,
    "target": TARGET,
    "power": dataclasses.replace(LogMelConfig(), exponent=2),
    "normalised": dataclasses.replace(TELEPHONE, mean=(5.0,) * 64, std=tuple(np.linspace(1, 3, 64))),
    "wide stacks": dataclasses.replace(TELEPHONE, stack=5, stride=2),
}


def _sound(seconds: float, seed: int = 0, rate: int = 16_000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * (300 + 900 * time) * time)
    return (tone + 0.02 * rng.standard_normal(len(time))).astype(np.float32)


def _closed_form(samples: np.ndarray, config: LogMelConfig) -> np.ndarray:
    """One frame, one bin, one triangle after another, in float64."""

    def mel(hertz):
        return 1127 * np.log(1 + hertz / 700)

    x = samples.astype(np.float64) * config.scale
    size, extra = config.window, 1 if config.preemphasis else 0
    turn = np.exp(-2j * np.pi * np.outer(np.arange(config.fft // 2 + 1), np.arange(size)) / config.fft)
    hz = np.arange(config.fft // 2 + 1) * config.sample_rate / config.fft
    edges = np.linspace(mel(config.low_hz), mel(config.high_hz), config.mels + 2)
    place = mel(hz)
    if config.triangles == "hertz":
        edges, place = 700 * (np.exp(edges / 1127) - 1), hz
    rows = []
    for start in range(0, len(x) - size - extra + 1, config.step):
        frame = x[start : start + size + extra]
        if extra:
            frame = frame[1:] - config.preemphasis * frame[:-1]
        level = (
            np.abs(turn @ (frame * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size))))
            ** config.exponent
        )
        row = [np.sum(level * np.interp(place, edges[m : m + 3], [0, 1, 0])) for m in range(config.mels)]
        rows.append(np.log(np.maximum(row, config.floor)))
    result = np.array(rows)
    return (result - np.array(config.mean)) / np.array(config.std) if config.mean else result


@pytest.mark.parametrize(("name", "config"), [("wide", LogMelConfig()), ("telephone", TELEPHONE)])
def test_equals_tensorflow(name, config):
    with np.load(GOLDEN) as golden:
        samples, expected = golden[f"{name}_samples"], golden[f"{name}_log_mel"]
    np.testing.assert_allclose(log_mel(samples, config), expected, atol=1e-3)
    assert np.any(expected == 0)  # the floor was reached, as in a pause of digital silence


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_a_computation_in_float64(name):
    config = CONFIGS[name]
    samples = _sound(0.3)
    expected = _closed_form(samples, config)
    ours = log_mel(samples, config)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=5e-4)
    batch = np.stack([samples, samples[::-1]])
    on_device = device_log_mel(batch, config)
    np.testing.assert_allclose(on_device[0], expected, atol=5e-4)
    np.testing.assert_allclose(on_device[1], log_mel(samples[::-1], config), atol=5e-4)


def test_integers_and_floats_are_the_same_sound():
    levels = (_sound(0.1) * 32768).astype(np.int16)
    np.testing.assert_array_equal(log_mel(levels), log_mel(levels / np.float32(32768)))


@pytest.mark.parametrize("name", CONFIGS)
def test_any_cutting_of_a_stream_gives_the_features_of_the_whole_bit_for_bit(name):
    config = CONFIGS[name]
    samples = _sound(4.5)  # more frames than are transformed at a time
    whole = features(samples, config)
    for seed, longest in ((0, 5000), (1, 700), (2, 90_000)):
        rng = np.random.default_rng(seed)
        state, rows, place = frontend.start_stream(config), [], 0
        while place < len(samples):
            size = int(rng.integers(0, longest))
            state, new = frontend.stream(state, samples[place : place + size], config)
            rows.append(new)
            place += size
        np.testing.assert_array_equal(np.concatenate(rows), whole)
        assert len(state.samples) < config.frame


def test_a_stream_of_single_steps():
    samples = _sound(0.2)
    state, rows = frontend.start_stream(TELEPHONE), []
    for place in range(0, len(samples), TELEPHONE.step):
        state, new = frontend.stream(state, samples[place : place + TELEPHONE.step], TELEPHONE)
        rows.append(new)
    np.testing.assert_array_equal(np.concatenate(rows), features(samples, TELEPHONE))


@pytest.mark.parametrize("config", [LogMelConfig(), PLAIN], ids=["stacked", "single"])
def test_a_stream_in_jax_equals_the_whole(config):
    hop, lead = config.stride * config.step, device.lead_in(config)
    samples = np.stack([_sound((lead + 12 * hop) / 16_000, seed) for seed in range(2)])[:, : lead + 12 * hop]
    state, rows = device.start_stream(samples[:, :lead], config), []
    step = jax.jit(device.stream, static_argnums=2)
    for start in range(lead, samples.shape[1], 2 * hop):
        state, new = step(state, samples[:, start : start + 2 * hop], config)
        assert new.shape == (2, 2, config.dim)
        rows.append(new)
    np.testing.assert_allclose(np.concatenate(rows, axis=1)[0], features(samples[0], config), atol=5e-4)
    np.testing.assert_allclose(np.concatenate(rows, axis=1), device_features(samples, config), atol=1e-5)
    with pytest.raises(ValueError, match="multiples of"):
        device.stream(state, samples[:, : hop + 1], config)
    with pytest.raises(ValueError, match="starts with"):
        device.start_stream(samples, config)


def test_stacking_by_hand():
    frames = np.arange(7, dtype=np.float32)[:, None] * np.ones(2, np.float32)
    config = dataclasses.replace(LogMelConfig(), mels=2)
    expected = [[0, 0, 0, 0], [0, 1, 2, 3], [3, 4, 5, 6]]
    np.testing.assert_array_equal(stack_frames(frames, config)[:, ::2], expected)
    np.testing.assert_array_equal(device.stack_frames(frames[None], config)[0, :, ::2], expected)
    for count in range(1, 7):
        assert len(stack_frames(frames[:count], config)) == -(-count // 3)


def test_counts_agree_with_what_comes_out():
    for config in (LogMelConfig(), TELEPHONE, TARGET):
        for samples in (config.frame, config.frame + config.step - 1, config.frame + config.step, 9000):
            assert len(log_mel(np.zeros(samples, np.float32), config)) == config.frame_count(samples)
            assert len(features(np.zeros(samples, np.float32), config)) == config.row_count(samples)
            assert int(device.row_counts(jnp.array([samples]), config)[0]) == config.row_count(samples)
        short = jnp.array([0, config.frame - 1, config.frame])
        np.testing.assert_array_equal(device.frame_counts(short, config), [0, 0, 1])


def test_padding_does_not_reach_real_frames():
    samples = _sound(0.3)
    padded = np.concatenate([samples, np.ones(3000, np.float32)])
    config = LogMelConfig()
    count = config.frame_count(len(samples))
    np.testing.assert_allclose(device_log_mel(padded[None], config)[0, :count], log_mel(samples), atol=5e-4)


def test_dither_is_of_its_size_and_follows_its_key():
    silence = np.zeros(16_000, np.float32)
    config = dataclasses.replace(TELEPHONE, preemphasis=0.0, exponent=2, floor=1e-9)
    assert np.all(log_mel(silence, config) < -20)
    levels = log_mel(silence, config, np.random.default_rng(0))
    # White noise of variance 64 has the power 64 x sum of squared window at every bin.
    expected = 64 * 256 * 0.375 * mel_bank(config).sum(axis=0)
    np.testing.assert_allclose(np.exp(levels).mean(axis=0), expected, rtol=0.35)
    np.testing.assert_array_equal(levels, log_mel(silence, config, np.random.default_rng(0)))
    keys = jax.random.split(jax.random.key(0), 2)
    noisy = device_log_mel(np.zeros((2, 16_000), np.float32), config, keys)
    np.testing.assert_allclose(np.exp(noisy).mean(axis=1)[0], expected, rtol=0.35)
    assert np.any(noisy[0] != noisy[1])
    swapped = device_log_mel(np.zeros((2, 16_000), np.float32), config, keys[::-1])
    np.testing.assert_array_equal(swapped, noisy[::-1])  # an example's noise follows its own key


def test_triangles():
    for config in (LogMelConfig(), TELEPHONE, PLAIN, TARGET):
        bank = mel_bank(config)
        assert np.all(bank.sum(axis=0) > 0)  # none is empty
        assert np.all((bank > 0).sum(axis=1) <= 2)
        if config.mels * 4 < config.fft:
            # Between the first and the last peak neighbours add up to 1: no frequency is lost.
            peaks = bank.argmax(axis=0)
            np.testing.assert_allclose(bank[peaks[0] + 1 : peaks[-1] - 1].sum(axis=1), 1, atol=1e-5)
    with pytest.warns(UserWarning, match=r"mel channels 0 hold no bin of a 512-point"):
        mel_bank(dataclasses.replace(LogMelConfig(), fft=512))


def test_what_cannot_be_a_waveform():
    for samples, words in (
        (np.zeros(512, np.float32), "512 samples are shorter than one frame of 513"),
        (np.full(1000, np.nan, np.float32), "not finite"),
        (np.full(1000, 3000, np.float32), "divide by 32768"),
        (np.zeros((2, 1000), np.float32), "one channel"),
    ):
        with pytest.raises(DamagedDataError, match=words):
            log_mel(samples)
    with pytest.raises(ValueError, match="shorter than one frame"):
        device.log_mel(np.zeros((1, 512), np.float32), LogMelConfig())
    with pytest.raises(ValueError, match="more than a frame"):
        device.lead_in(dataclasses.replace(LogMelConfig(), stride=4, stack=4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step": 0}, "step = 0"),
        ({"step": 513}, "window = 512"),
        ({"fft": 256}, "fft = 256"),
        ({"high_hz": 8001.0}, "at most 8000"),
        ({"low_hz": 7600.0}, "below high_hz"),
        ({"floor": 0.0}, "floor"),
        ({"mean": (1.0,)}, "128 values"),
        ({"mean": (0.0,) * 128}, "as many values as mean"),
        ({"mean": (0.0,) * 128, "std": (0.0,) * 128}, "positive"),
        ({"stride": 0}, "at least 1"),
    ],
)
def test_impossible_configurations(change, words):
    with pytest.raises(UserError, match=words):
        LogMelConfig(**change)
