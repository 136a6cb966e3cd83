"""Training steps of a table of models side by side over the same steps one after the other, on this CPU.

    python tools/bench/table_step.py [--members 16] [--rounds 5]

One compiled step moves all members, each on a virtual device of its own; against it runs the compiled step of
a single one, as often as there are members. Same network (a small ResNet on images of 32 pixels, rotation
prediction on batches of 8 images), augmentation and optimizer. Batches are on the devices already. Rounds
alternate; the median is reported: sequential time over stacked time, so above 1 the table is faster.
"""

import argparse
import json
import os
import pathlib
import statistics
import time

ROOT = pathlib.Path(__file__).parents[2]
IMAGES, SIDE = 8, 32
ALONE = {
    "project": "one_class",
    "model": {
        "name": "resnet_10",
        "width": 0.25,
        "head": (64, 64),
        "overrides": {"depths": (1, 1), "stem_width": 16},
    },
    "task": {"pretext": {"name": "rotation", "augmentation": {"min_crop": 0.75, "flip": True}}, "l2": 3e-4},
    "data": {"source": "digits", "category": "0", "image_size": SIDE},
    "optimizer": {"name": "momentum", "learning_rate": 0.01},
    "train": {"steps": 1000, "batch_size": IMAGES},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    from offsites_jax.parallel.start import start
    from offsites_jax.projects.one_class.stacking.experiment import stacked

    start(cpu_devices=options.members, cache=ROOT / ".cache" / "jax")
    members = [("0", seed) for seed in range(options.members)]
    table = step_of({**stacked(ALONE, members, options.members), "mesh": {"data": options.members}})
    single = step_of({**ALONE, "mesh": {"data": 1}})
    pairs = [(seconds_of(single, options.members), seconds_of(table, 1)) for _ in range(options.rounds + 1)][
        1:
    ]
    sequential, together = (statistics.median(side) for side in zip(*pairs, strict=True))
    line = {
        "name": "table_step_ratio",
        "value": round(statistics.median(a / b for a, b in pairs), 3),
        "unit": "sequential / stacked",
        "members": options.members,
        "sequential_ms": round(1e3 * sequential, 1),
        "stacked_ms": round(1e3 * together, 1),
        "cores": len(os.sched_getaffinity(0)),
        "rounds": options.rounds,
    }
    print(json.dumps(line), flush=True)


def seconds_of(step, times: int) -> float:
    """Seconds of so many steps, each waited for."""
    begin = time.perf_counter()
    for _ in range(times):
        step()
    return time.perf_counter() - begin


def step_of(raw):
    """A function that does one step and waits for it."""
    import jax
    import numpy as np

    from offsites_jax.parallel.mesh import create_mesh, put_batch
    from offsites_jax.train.config import resolve
    from offsites_jax.train.program import create_program

    experiment = resolve(raw)
    mesh, rows = create_mesh(experiment.mesh), experiment.train.batch_size
    program = create_program(experiment, mesh)
    rng = np.random.default_rng(0)
    host = {
        name: rng.integers(0, 100, entry.shape).astype(entry.dtype) for name, entry in program.batch.items()
    }
    update, states, batch = program.update(), [program.initial_state()], put_batch(host, mesh, rows)

    def step() -> None:
        states[0], metrics = update(states[0], batch)
        jax.block_until_ready(metrics)

    return step


if __name__ == "__main__":
    main()
