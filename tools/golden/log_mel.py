"""Log-mel features by TensorFlow's signal functions, for tests/data/audio/test_frontend.py.

Needs tensorflow-cpu 2.21.0, nothing of this project:

    python tools/golden/log_mel.py

The steps are those of tensorflow/lingvo's `MelAsrFrontend`: frames of one sample more than the window,
pre-emphasis inside them, a periodic Hann window, magnitudes, and TensorFlow's mel matrix.
"""

import pathlib

import numpy as np
import tensorflow as tf

FILE = pathlib.Path(__file__).parents[2] / "tests/data/audio/golden/log_mel.npz"
# By name: rate, window, step, transform, channels, least and highest frequency.
CASES = {
    "wide": (16_000, 512, 160, 1024, 128, 125.0, 7600.0),
    "telephone": (8000, 256, 80, 512, 64, 125.0, 3800.0),
}


def recording(rate: int) -> np.ndarray:
    """0.7 s: a rising tone of changing loudness in noise, a pause of digital silence, then a click."""
    rng = np.random.default_rng(rate)
    time = np.arange(int(0.7 * rate)) / rate
    phase = 2 * np.pi * (200 * time + 0.5 * (0.4 * rate - 200) / 0.7 * time**2)
    samples = 9000 * np.sin(phase) * (0.2 + np.sin(9 * time) ** 2) + 400 * rng.standard_normal(len(time))
    samples[(time > 0.45) & (time < 0.55)] = 0
    samples[int(0.6 * rate)] = 32767
    return samples.clip(-32768, 32767).astype(np.int16)


def log_mel(samples, rate, window, step, transform, channels, low, high):
    frames = tf.signal.frame(tf.cast(samples, tf.float32), window + 1, step)
    emphasised = frames[:, 1:] - 0.97 * frames[:, :-1]
    spectrum = tf.abs(tf.signal.rfft(emphasised * tf.signal.hann_window(window), [transform]))
    bank = tf.signal.linear_to_mel_weight_matrix(channels, transform // 2 + 1, rate, low, high)
    return tf.math.log(tf.maximum(spectrum @ bank, 1.0)).numpy()


def main():
    arrays = {}
    for name, case in CASES.items():
        arrays[f"{name}_samples"] = recording(case[0])
        arrays[f"{name}_log_mel"] = log_mel(arrays[f"{name}_samples"], *case)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
