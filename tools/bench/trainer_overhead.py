"""Loop step time over bare step time, on a small convolutional network and on a model whose step is tiny.

Both sides run the same compiled program, on the same batches, in alternating rounds of this process. The
loop side is the real `train`, with its logging; its step time is what its own accounting calls "step", which
leaves out waiting for data, compiling, evaluating and saving. Rows are prepared in advance, so that both
sides have both cores to themselves.

python tools/bench/trainer_overhead.py
"""

import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
ROUNDS, STEPS = 5, 100

CACHED = '''
"""The project of the experiment, with rows prepared in advance."""
from offsites_jax.data.pipeline import Pipeline, global_batch
from offsites_jax.data.source import ArraySource
{imports}

def create_pipeline(experiment, split, train):
    """Rows of the first batches, as they are."""
    source = real.create_pipeline(experiment, split, train)
    rows = global_batch(source, batch_size=4 * experiment.train.batch_size, seed=0, step=0)
    return Pipeline(ArraySource(rows), lambda record, rng: record)

create_input_pipeline = real.create_input_pipeline
'''


def main() -> None:
    sys.path.insert(0, str(ROOT / "tests" / "systems"))
    with tempfile.TemporaryDirectory() as folder:
        cached = pathlib.Path(folder)
        write_project(cached / "cached_images", "offsites_jax.projects.image_classification")
        write_project(cached / "cached_curve", "curve")
        os.environ["OFFSITES_PATH"] = f"{folder}{os.pathsep}{ROOT / 'tests' / 'systems'}"
        from offsites_jax.parallel.start import start

        start(cpu_devices=8, cache=ROOT / ".cache" / "jax")
        report("digits", "experiments/image_classification/digits.py", "cached_images", steps=30)
        report("trivial", "tests/systems/curve_experiment.py", "cached_curve", steps=1000)


def write_project(folder: pathlib.Path, package: str) -> None:
    """A project whose parts are those of another, but for the pipeline."""
    folder.mkdir(parents=True)
    for part in ("model", "task", "evaluate"):
        (folder / f"{part}.py").write_text(
            f'"""As in {package}."""\nfrom {package}.{part} import *  # noqa: F403\n'
        )
    imports = f"import {package}.data as real\nfrom {package}.data import DataConfig"
    (folder / "data.py").write_text(CACHED.format(imports=imports))


def report(name: str, file: str, project: str, steps: int) -> None:
    """Measures one experiment and prints its line."""
    from offsites_jax.train.config import load_experiment

    overrides = {
        "project": project,
        "train.steps": str(steps),
        "stages": "None",
        "train.eval_every": "0",
        "train.checkpoint_every": "1000000",
        "evaluators": "None",
        "expected": "None",
    }
    experiment = load_experiment(ROOT / file, overrides)
    bare = BareStep(experiment)
    pairs = [(loop_seconds(experiment), bare.seconds(steps)) for _ in range(ROUNDS)]
    loop, plain = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    line = {"name": "trainer_overhead", "value": ratio, "unit": "loop step / bare step", "model": name}
    print(
        json.dumps({**line, "loop_ms": loop * 1e3, "bare_ms": plain * 1e3, "rounds": ROUNDS, "steps": steps}),
        flush=True,
    )


def loop_seconds(experiment) -> float:
    """Seconds a step of the real loop."""
    from offsites_jax.train.loop import train

    with tempfile.TemporaryDirectory() as workdir:
        result = train(experiment, workdir)
    return result.seconds["step"] / experiment.train.steps


class BareStep:
    """The same program without a loop around it."""

    def __init__(self, experiment) -> None:
        from offsites_jax.data.pipeline import global_batch
        from offsites_jax.parallel.mesh import create_mesh, put_batch
        from offsites_jax.train.program import create_program

        mesh = create_mesh(experiment.mesh)
        self.program = create_program(experiment, mesh)
        self.update = self.program.update()
        size = experiment.train.batch_size
        pipeline = experiment.found.create_pipeline(experiment, "train", True)
        self.batches = [
            put_batch(global_batch(pipeline, batch_size=size, seed=0, step=step), mesh, size)
            for step in range(4)
        ]

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
