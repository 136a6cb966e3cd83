"""Speed of log-mel features, beside librosa and torch.

    python tools/bench/frontend.py [--reference-python /path/to/venv/bin/python] [--rounds 5]

32 clips of 10 s at 16 kHz become 128 log-mel channels: pre-emphasis, windows of 512 every 160 samples, a
1024-point spectrum, triangles, logarithm. librosa's `melspectrogram` gets the same parameters, clip by clip
as ours in NumPy; it makes its triangles anew for each clip, which is part of its time. torch runs
`torch.stft` and a matrix product, as torchaudio does, in batches of 16 as ours in JAX, in a process of the
other interpreter. Every side is charged the CPU seconds it uses over all threads, which other programs on the
machine disturb little; sides alternate and medians are reported. Features of all sides are compared first:
the bench fails if they differ by more than 1e-2.

`frontend_hours_per_minute` is hours of sound per minute of one core, `frontend_ratio` ours over theirs: above
1 we are faster.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402 - after the threads are counted

CLIPS, SECONDS, BATCH = 32, 10, 16
RATE, WINDOW, STEP, FFT, MELS, LOW, HIGH = 16_000, 512, 160, 1024, 128, 125.0, 7600.0
TOLERANCE = 1e-2
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference-python", help="interpreter with torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_torch(pathlib.Path(options.serve))
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(pathlib.Path(folder), options)


def sounds() -> np.ndarray:
    """Clips in steps of 16-bit samples, scaled to -1..1."""
    rng = np.random.default_rng(0)
    time_ = np.arange(SECONDS * RATE) / RATE
    tones = np.sin(2 * np.pi * rng.uniform(100, 800, (CLIPS, 1)) * time_ * (1 + 0.3 * time_))
    return (0.2 * tones + 0.05 * rng.standard_normal(tones.shape)).astype(np.float32)


def compare(folder: pathlib.Path, options) -> None:
    clips = sounds()
    sides = {"numpy": numpy_side(clips), "jax": jax_side(clips), "librosa": librosa_side(clips)}
    reference = None
    if options.reference_python:
        reference = Torch(options.reference_python, folder, clips)
        sides["torch"] = reference.features
    expected = np.asarray(sides["numpy"]())
    for name, run in sides.items():
        difference = np.max(np.abs(np.asarray(run()) - expected))
        if difference > TOLERANCE:
            raise SystemExit(f"{name}: features differ by {difference:.1e}")
    seconds = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, run in sides.items():
            seconds[name].append(reference.seconds() if name == "torch" else cpu_seconds(run))
    if reference:
        reference.close()
    rates = {name: CLIPS * SECONDS / 60 / statistics.median(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        report("frontend_hours_per_minute", rate, "hours of sound / minute of one core", {"side": name})
    for ours in ("numpy", "jax"):
        for theirs in ("librosa", "torch"):
            if theirs in rates:
                about = {"ours": ours, "theirs": theirs}
                report("frontend_ratio", rates[ours] / rates[theirs], "ours / theirs", about)


def cpu_seconds(run) -> float:
    """Of one run: the least of a few, over all threads."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def report(name: str, value: float, unit: str, about: dict) -> None:
    print(json.dumps({"name": name, "value": round(value, 2), "unit": unit} | about), flush=True)


def config():
    """Triangles over hertz are the ones that librosa and torchaudio have."""
    from offsites_jax.data.audio import LogMelConfig

    return LogMelConfig(triangles="hertz")


def numpy_side(clips):
    from offsites_jax.data.audio import log_mel

    return lambda: [log_mel(clip, config()) for clip in clips]


def jax_side(clips):
    import jax

    from offsites_jax.data.audio import device

    run = jax.jit(device.log_mel, static_argnums=1)
    batches = [jax.device_put(clips[start : start + BATCH]) for start in range(0, CLIPS, BATCH)]
    return lambda: np.concatenate(jax.block_until_ready([run(batch, config()) for batch in batches]))


def librosa_side(clips):
    import librosa

    def log_mel(clip):
        return np.log(
            np.maximum(
                librosa.feature.melspectrogram(
                    y=emphasised(clip), sr=RATE, n_fft=FFT, win_length=WINDOW, hop_length=STEP, center=False,
                    power=1.0, n_mels=MELS, fmin=LOW, fmax=HIGH, htk=True, norm=None,
                ),
                1.0,
            )
        ).T  # fmt: skip

    return lambda: [log_mel(clip) for clip in clips]


def emphasised(clip):
    """With zeros around: the others put a short window into the middle of a long transform."""
    samples = clip * np.float32(32768)
    return np.pad(samples[1:] - np.float32(0.97) * samples[:-1], (FFT - WINDOW) // 2)


def serve_torch(folder: pathlib.Path) -> None:
    """Answers "features" with a file of them, "seconds" with the time of one run."""
    import torch

    torch.set_num_threads(1)
    clips = torch.from_numpy(np.load(folder / "clips.npy"))
    bank = torch.from_numpy(np.load(folder / "bank.npy"))
    window = torch.hann_window(WINDOW)
    batches = clips.split(BATCH)

    @torch.inference_mode()
    def log_mel(batch):
        samples = batch * 32768
        samples = torch.nn.functional.pad(samples[:, 1:] - 0.97 * samples[:, :-1], [(FFT - WINDOW) // 2] * 2)
        spectrum = torch.stft(
            samples, FFT, STEP, WINDOW, window, center=False, onesided=True, return_complex=True
        )
        mel = torch.matmul(spectrum.abs().transpose(-1, -2), bank)
        return mel.clamp_min(1.0).log()

    def run():
        return torch.cat([log_mel(batch) for batch in batches])

    for line in sys.stdin:
        if line.strip() == "features":
            np.save(folder / "torch.npy", run().numpy())
            print(json.dumps(True), flush=True)
        else:
            print(json.dumps(cpu_seconds(run)), flush=True)


class Torch:
    """The reference in a process of its own, alive for all rounds."""

    def __init__(self, python: str, folder: pathlib.Path, clips):
        from offsites_jax.data.audio.mel import mel_bank

        self.folder = folder
        np.save(folder / "clips.npy", clips)
        np.save(folder / "bank.npy", mel_bank(config()))
        command = [python, __file__, "--serve", str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, question: str):
        """The answer to a question."""
        print(question, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def features(self):
        """Of all clips."""
        self.ask("features")
        return np.load(self.folder / "torch.npy")

    def seconds(self) -> float:
        """CPU seconds of one run."""
        return self.ask("seconds")

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


if __name__ == "__main__":
    main()
