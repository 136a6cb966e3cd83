"""Loop step time over bare step time, on a small convolutional network and on a model whose step is tiny.

Both sides run the same compiled program in alternating rounds of this process. The loop side is the real
`train`, with its logging and its transfer of batches to the devices; its step time is what its own
accounting calls "step", which leaves out waiting for data, compiling, evaluating and saving. Host batches are
prepared in advance for both sides: what they cost to load is the subject of input_pipeline.py.

python tools/bench/trainer_overhead.py
"""

import itertools
import json
import os
import pathlib
import statistics
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
ROUNDS = 5


def main() -> None:
    os.environ["OFFSITES_PATH"] = str(ROOT / "tests" / "systems")
    from offsites_jax.parallel.start import start

    start(cpu_devices=8, cache=ROOT / ".cache" / "jax")
    report("digits", "experiments/image_classification/digits.py", steps=60)
    report("trivial", "tests/systems/curve_experiment.py", steps=1000)


def report(name: str, file: str, steps: int) -> None:
    """Measures one experiment and prints its line."""
    from offsites_jax.train import loop
    from offsites_jax.train.config import load_experiment

    overrides = {
        "train.steps": str(steps),
        "train.log_every": "50",
        "train.eval_every": "0",
        "train.checkpoint_every": "1000000",
        "stages": "None",
        "evaluators": "None",
        "expected": "None",
    }
    experiment = load_experiment(ROOT / file, overrides)
    bare = BareStep(experiment)
    loop.train_batches = lambda *args, **kwargs: Prepared(bare.host_batches)
    pairs = [(loop_seconds(experiment), bare.seconds(steps)) for _ in range(ROUNDS)]
    loop_step, bare_step = (statistics.median(side) for side in zip(*pairs, strict=True))
    line = {
        "name": "trainer_overhead",
        "value": statistics.median(a / b for a, b in pairs),
        "unit": "loop step / bare step",
        "model": name,
        "loop_ms": loop_step * 1e3,
        "bare_ms": bare_step * 1e3,
        "rounds": ROUNDS,
        "steps": steps,
    }
    print(json.dumps(line), flush=True)


def loop_seconds(experiment) -> float:
    """Seconds a step of the real loop."""
    from offsites_jax.train.loop import train

    with tempfile.TemporaryDirectory() as workdir:
        result = train(experiment, workdir)
    return result.seconds["step"] / experiment.train.steps


class Prepared:
    """Host batches that cost nothing, in a circle."""

    skipped = 0

    def __init__(self, batches) -> None:
        self._batches = itertools.cycle(batches)

    def __next__(self):
        return next(self._batches)

    def close(self) -> None:
        """Nothing to close."""


class BareStep:
    """The same program without a loop around it, on batches that are on the devices already."""

    def __init__(self, experiment) -> None:
        from offsites_jax.data.pipeline import global_batch
        from offsites_jax.parallel.mesh import create_mesh, put_batch
        from offsites_jax.train.program import create_program

        mesh = create_mesh(experiment.mesh)
        self.program = create_program(experiment, mesh)
        self.update = self.program.update()
        size = experiment.train.batch_size
        pipeline = experiment.found.create_pipeline(experiment, "train", True)
        self.host_batches = [global_batch(pipeline, batch_size=size, seed=0, step=step) for step in range(4)]
        self.batches = [put_batch(batch, mesh, size) for batch in self.host_batches]

    def seconds(self, steps: int) -> float:
        """Seconds a step."""
        import jax

        state = jax.block_until_ready(self.program.initial_state())
        begin = time.perf_counter()
        for step in range(steps):
            state, metrics = self.update(state, self.batches[step % len(self.batches)])
        jax.block_until_ready((state, metrics))
        return (time.perf_counter() - begin) / steps


if __name__ == "__main__":
    main()
