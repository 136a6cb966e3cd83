"""Eight speakers personalised in one job, beside the same eight one after the other, on this CPU.

    python tools/bench/personalize_batch.py [--cases steps jobs] [--rounds 5] [--job-rounds 1]

`personalize_batch_ratio`: wall time of the speakers in sequence over that of one job, above 1 the one job is
faster. Both sides train the lower three layers of the same small network (8 + 2 LSTM layers of 64 cells) on
noise, four utterances of half a second a speaker and step, with the real task, masks, optimizer and clipping;
one side as layers of a cohort's own, the other by `frozen`. One JSON line a case:

`steps`: compiled train steps alone, on batches that are on the device already; medians over alternating
rounds of some steps, after one that compiles. Each side has the better of one device and two virtual ones,
over which the cohort divides its speakers and the single job its utterances; all four times are in the line.

`jobs`: whole processes on one device, from the start of Python until the checkpoint is on disk: imports,
tracing, reading the compiled program from a cache that an unmeasured run of each side has filled, 100 steps
with their data, one checkpoint; no evaluation. `single_start_seconds` is what a single job takes beside its
steps, by its own accounting. The longer the jobs, the closer is their ratio to that of `steps`.

On a CPU a step of even so small a network is bound by arithmetic: on one core an LSTM layer with its gradient
takes 7.4 times as long for eight speakers as for one, however they are batched. What one job saves there are
the starts. It says nothing of accelerators, which one speaker's step cannot fill.
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

ROOT = pathlib.Path(__file__).parents[2]
SPEAKERS, UTTERANCES, LAYERS = 8, 4, 3
SECONDS = 0.5
JOB_STEPS = 100
NETWORK = {
    "cells": 64, "projection": 32, "embedding": 16, "joint": 32, "features": 64, "residual": True,
}  # fmt: skip
FEATURES = {"sample_rate": 8000, "window": 256, "step": 80, "fft": 512, "mels": 16, "high_hz": 3800.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", default=["steps", "jobs"], choices=["steps", "jobs"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    parser.add_argument("--job-rounds", type=int, default=1)
    parser.add_argument("--run", nargs=2, metavar=("CONFIG", "WORKDIR"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if options.run:
        run(*options.run)
        return
    with tempfile.TemporaryDirectory() as folder:
        if "jobs" in options.cases:  # before JAX takes memory and threads here
            print(json.dumps(compare_jobs(pathlib.Path(folder), options.job_rounds)), flush=True)
        if "steps" in options.cases:
            line = compare_steps(pathlib.Path(folder), options.rounds, options.steps)
            print(json.dumps(line), flush=True)


def compare_steps(folder: pathlib.Path, rounds: int, steps: int) -> dict:
    """The line of train steps alone."""
    from offsites_jax.parallel.start import start

    start(cpu_devices=2, cache=ROOT / ".cache" / "jax")
    corpus = make_corpus(folder)
    jobs = {"together": one_job(corpus), "alone": one_speaker(corpus, "s0")}
    sides = {
        (side, devices): Steps(job | {"mesh": {"data": devices}})
        for side, job in jobs.items()
        for devices in (1, 2)
    }
    timed = [{key: side.seconds(steps) for key, side in sides.items()} for _ in range(rounds + 1)][1:]
    medians = {key: statistics.median(one[key] for one in timed) for key in sides}
    best = {side: min(medians[side, devices] for devices in (1, 2)) for side in jobs}
    return {
        **ratio_line("steps", SPEAKERS * best["alone"] / best["together"]),
        **{f"{side}_ms_on_{devices}": round(1e3 * one, 2) for (side, devices), one in medians.items()},
        "rounds": rounds,
    }


def compare_jobs(folder: pathlib.Path, rounds: int) -> dict:
    """The line of whole processes."""
    corpus = make_corpus(folder)
    together = write(folder / "together.json", one_job(corpus))
    alone = [write(folder / f"s{n}.json", one_speaker(corpus, f"s{n}")) for n in range(SPEAKERS)]
    for job in (together, alone[0]):
        spawn(job, folder)
    pairs, starts = [], []
    for _ in range(rounds):
        singles = [spawn(job, folder) for job in alone]
        pairs.append((spawn(together, folder)[0], sum(wall for wall, _ in singles)))
        starts += [wall - steps for wall, steps in singles]
    return {
        **ratio_line("jobs", statistics.median(b / a for a, b in pairs)),
        "together_seconds": round(statistics.median(a for a, _ in pairs), 1),
        "alone_seconds": round(statistics.median(b for _, b in pairs), 1),
        "single_start_seconds": round(statistics.median(starts), 1),
        "steps": JOB_STEPS,
        "rounds": rounds,
    }


def ratio_line(case: str, value: float) -> dict:
    return {
        "name": "personalize_batch_ratio",
        "value": float(f"{value:.3g}"),
        "unit": "wall in sequence / wall in one job",
        "case": case,
        "speakers": SPEAKERS,
    }


class Steps:
    """The compiled step of an experiment."""

    def __init__(self, experiment: dict) -> None:
        from offsites_jax.data.pipeline import global_batch
        from offsites_jax.parallel.mesh import create_mesh, put_batch
        from offsites_jax.train.config import resolve
        from offsites_jax.train.program import create_program

        found = resolve(experiment)
        mesh = create_mesh(found.mesh)
        self.program = create_program(found, mesh)
        self.update = self.program.update()
        size = found.train.batch_size
        pipeline = found.found.create_pipeline(found, "train", True)
        self.batch = put_batch(global_batch(pipeline, batch_size=size, seed=0, step=0), mesh, size)

    def seconds(self, steps: int) -> float:
        """Seconds a step."""
        import jax

        state = jax.block_until_ready(self.program.initial_state())
        begin = time.perf_counter()
        for _ in range(steps):
            state, metrics = self.update(state, self.batch)
        jax.block_until_ready((state, metrics))
        return (time.perf_counter() - begin) / steps


def spawn(job: pathlib.Path, folder: pathlib.Path) -> tuple[float, float]:
    """Wall seconds of a process that trains, and of its steps."""
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        begin = time.perf_counter()
        command = [sys.executable, __file__, "--run", str(job), workdir]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        return time.perf_counter() - begin, float(done.stdout.splitlines()[-1])


def run(config: str, workdir: str) -> None:
    """One training job, as its process runs it; prints the seconds of its steps."""
    from offsites_jax.parallel.start import start

    start(cpu_devices=1, cache=ROOT / ".cache" / "jax")
    from offsites_jax.train.config import resolve
    from offsites_jax.train.loop import train

    experiment = resolve(json.loads(pathlib.Path(config).read_text()))
    print(train(experiment, workdir).seconds["step"])


def make_corpus(folder: pathlib.Path):
    """Noise with texts: twelve utterances of each speaker; made once."""
    import numpy as np

    from offsites_jax.data.audio import LogMelConfig
    from offsites_jax.data.audio.wav import write_wav
    from offsites_jax.data.text.graphemes import train_graphemes
    from offsites_jax.projects.euphonia.manifest import Utterance
    from offsites_jax.projects.euphonia.prepared import prepare, read_prepared

    if (folder / "corpus").exists():
        return read_prepared(folder / "corpus")
    rng, utterances = np.random.default_rng(0), []
    for speaker in range(SPEAKERS):
        for number in range(12):
            name = f"s{speaker}-{number}"
            noise = 0.1 * rng.normal(size=round(SECONDS * FEATURES["sample_rate"]))
            write_wav(folder / f"{name}.wav", noise.astype(np.float32), FEATURES["sample_rate"])
            utterances.append(Utterance(name, f"s{speaker}", f"{name}.wav", "turn it off"))
    splits = {one.utt_id: "train" for one in utterances}
    features = LogMelConfig(**FEATURES)
    return prepare(
        utterances, folder, folder / "corpus", splits=splits, tokenizer=train_graphemes, features=features
    )


def one_job(corpus) -> dict:
    """All speakers side by side."""
    return experiment(
        corpus,
        task={"members": SPEAKERS, "utterances": UTTERANCES, "personal_layers": LAYERS},
        optimizer={"members": True},
        train={"batch_size": SPEAKERS},
        sharding={"rules": [["^personal/", "members"], [".*", "replicated"]]},
    )


def one_speaker(corpus, name: str) -> dict:
    """One of them alone, the other layers frozen."""
    from offsites_jax.projects.euphonia.recipes import all_but, layers

    return experiment(
        corpus,
        data={"speaker": name},
        optimizer={"frozen": [all_but(layers(0, LAYERS))]},
        train={"batch_size": UTTERANCES},
    )


def experiment(corpus, **sections: dict) -> dict:
    """What both sides have in common, and what one of them adds."""
    common = {
        "project": "euphonia",
        "model": {**NETWORK, "vocabulary": corpus.tokenizer.size},
        "task": {"spec_augment": "disordered"},
        "data": {
            "path": str(corpus.folder),
            "max_seconds": SECONDS,
            "max_labels": 12,
            "features": FEATURES,
            "loading": {"num_threads": 2},
        },
        "optimizer": {"name": "adam", "learning_rate": 1e-4, "clip_norm": 1.0},
        "train": {"steps": JOB_STEPS, "log_every": 50, "eval_every": 0, "checkpoint_every": JOB_STEPS},
        "mesh": {"data": 1},
    }
    return common | {name: common.get(name, {}) | values for name, values in sections.items()}


def write(file: pathlib.Path, content: dict) -> pathlib.Path:
    file.write_text(json.dumps(content))
    return file


if __name__ == "__main__":
    main()
