"""Streaming recognition on one core of this CPU: seconds of computing for each second of sound.

    python tools/bench/streaming.py [--seconds 20] [--rounds 3] [--cases small small_beam full full_recording]

Made-up sound of 20 s comes in chunks of 100 ms. Parameters are random; the bias of the blank is raised, and
the say of the predictor lowered, until one frame in five or so emits a label, as in speech, since a label
costs a step of the predictor. (Random networks repeat themselves within a frame; greedy decoding is held to
one label a frame. The beam is not, and tries more than that of a trained network, which is surer.) Everything
counts: features, encoder, decoder, words. One JSON line a case:

`streaming_real_time_factor`: CPU seconds over the seconds of sound, below 1 keeps up with a speaker; the
median of the rounds, after one that compiles. CPU time is what a free core would take; the time that passed,
and the slowest chunk of the best round, are in the line, too, and suffer from what else the machine does.

Cases: `small` is `rnnt_small`, greedy, text after every frame of 60 ms; `small_beam` with a beam of 8;
`small_recording` takes 64 rows (1.92 s) at once, as recordings are transcribed. `full` and `full_recording`
are `rnnt_wp4096`, the published network of 122 million parameters, whose weights are read for each frame.
"""

import argparse
import json
import os
import pathlib
import statistics
import time

ROOT = pathlib.Path(__file__).parents[2]
RATE, CHUNK = 16_000, 1600
SILENT = 0.8  # share of frames without a label
CASES = {
    "small": ("rnnt_small", 2, 0),
    "small_beam": ("rnnt_small", 2, 8),
    "small_recording": ("rnnt_small", 64, 0),
    "full": ("rnnt_wp4096", 2, 0),
    "full_recording": ("rnnt_wp4096", 64, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # before JAX counts cores
    os.environ["JAX_PLATFORMS"] = "cpu"

    from offsites_jax.parallel.start import start

    start(cpu_devices=1, cache=ROOT / ".cache" / "jax")
    for case in options.cases:
        print(json.dumps(measure(case, made_up_sound(options.seconds), options.rounds)), flush=True)


def made_up_sound(seconds: float):
    """int16 samples: a voice-like tone with harmonics, in syllables, and noise."""
    import numpy as np

    rng = np.random.default_rng(0)
    moments = np.arange(round(seconds * RATE)) / RATE
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * moments)) / RATE
    voice = sum(np.sin(harmonic * pitch) / harmonic for harmonic in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * 2.1 * moments), 0, 1)
    return (4000 * voice * syllables + 50 * rng.standard_normal(len(moments))).astype(np.int16)


def measure(case: str, sound, rounds: int) -> dict:
    """The line of a case."""
    name, rows, beam = CASES[case]
    listener = make_listener(name, rows, beam, sound)
    cpus, walls, slowest = [], [], []
    for _ in range(rounds + 1):
        cpu, wall, chunks, found = run(listener, sound)
        cpus.append(cpu)
        walls.append(wall)
        slowest.append(max(chunks))
    seconds = len(sound) / RATE
    return {
        "name": "streaming_real_time_factor",
        "value": float(f"{statistics.median(cpus[1:]) / seconds:.3g}"),
        "unit": "CPU seconds / second of sound, one core",
        "case": case,
        "model": name,
        "beam": beam,
        "rows": rows,
        "wall_real_time_factor": float(f"{min(walls[1:]) / seconds:.3g}"),
        "slowest_chunk_ms": round(1e3 * min(slowest[1:]), 1),
        "labels_per_second": round(len(found.labels) / seconds, 2),
    }


def run(listener, sound):
    """CPU seconds, seconds, seconds of each chunk, and what was recognised."""
    from offsites_jax.projects.euphonia.decoding.stream import finish, start_stream, step

    begin, cpu, chunks = time.perf_counter(), time.process_time(), []
    state = start_stream(listener)
    for start in range(0, len(sound), CHUNK):
        chunk_begin = time.perf_counter()
        state, _ = step(listener, state, sound[start : start + CHUNK])
        chunks.append(time.perf_counter() - chunk_begin)
    found = finish(listener, state)
    return time.process_time() - cpu, time.perf_counter() - begin, chunks, found


def make_listener(name: str, rows: int, beam: int, sound):
    """A variant with random parameters that seldom emits a label."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from offsites_jax.data.audio import LogMelConfig, log_mel
    from offsites_jax.data.audio.frontend import features as features_of
    from offsites_jax.data.text.graphemes import GraphemeTokenizer
    from offsites_jax.projects.euphonia.decoding.beam import BeamSettings
    from offsites_jax.projects.euphonia.decoding.listener import Decoding, Listener
    from offsites_jax.projects.euphonia.model import VARIANTS, Transducer

    config = VARIANTS[name]
    model = Transducer(config)
    frontend = LogMelConfig(mels=config.features // 4)
    frames = log_mel(sound, frontend)
    mean, std = tuple(frames.mean(0).tolist()), tuple(frames.std(0).tolist())
    features = LogMelConfig(mels=config.features // 4, mean=mean, std=std)

    @jax.jit
    def initialise(key):
        one = jnp.ones(1, jnp.int32)
        rows, labels = jnp.zeros((1, 2, config.features)), jnp.zeros((1, 1), jnp.int32)
        return model.init(key, rows, 2 * one, labels, one)["params"]

    @jax.jit
    def scores(params, rows):
        """Of every frame before anything was said."""
        count = jnp.full(1, rows.shape[0])
        encoded, _, _ = model.apply({"params": params}, rows[None], count, method="encode")
        text, _ = model.apply({"params": params}, jnp.zeros(1, jnp.int32), None, method="predict_next")
        return model.apply({"params": params}, encoded[0], text, method="scores")

    params = initialise(jax.random.key(0))
    params["joint"]["text"]["kernel"] *= 0.1
    found = np.asarray(scores(params, features_of(sound[: 4 * RATE], features)))
    lead = np.quantile(found[:, 1:].max(1) - found[:, 0], SILENT)
    bias = params["joint"]["scores"]["bias"]
    params["joint"]["scores"]["bias"] = bias.at[0].set(float(lead))
    letters = "".join(chr(0x4E00 + number) for number in range(config.vocabulary - 2))
    search = BeamSettings(beam) if beam else None
    return Listener(model, params, features, GraphemeTokenizer(" " + letters), Decoding(rows, 1, search))


if __name__ == "__main__":
    main()
