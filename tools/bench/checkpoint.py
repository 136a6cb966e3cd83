"""How long an asynchronous save holds up training, in steps; and what the whole save costs.

Steps and saves of the digits experiment alternate in one process; the save returns once the state may be
donated, and is written while training goes on.

python tools/bench/checkpoint.py
"""

import json
import pathlib
import statistics
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
ROUNDS, STEPS = 7, 10


def main() -> None:
    from offsites_jax.parallel.start import start
    from offsites_jax.train.config import load_experiment

    experiment = load_experiment(ROOT / "experiments/image_classification/digits.py")
    start(experiment.mesh.cpu_devices, cache=ROOT / ".cache" / "jax")

    import jax

    from offsites_jax.data.pipeline import global_batch
    from offsites_jax.parallel.mesh import create_mesh, put_batch
    from offsites_jax.train.checkpoint import Checkpoints
    from offsites_jax.train.program import create_program

    experiment = experiment.at_stage(1)
    mesh = create_mesh(experiment.mesh)
    program = create_program(experiment, mesh)
    update, state = program.compile(), program.initial_state()
    size = experiment.train.batch_size
    pipeline = experiment.found.create_pipeline(experiment, "train", True)
    batch = put_batch(global_batch(pipeline, batch_size=size, seed=0, step=0), mesh, size)
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    steps, blocking, whole = [], [], []
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
        for number in range(ROUNDS + 1):
            begin = time.perf_counter()
            for _ in range(STEPS):
                state, _ = update(state, batch)
            jax.block_until_ready(state)
            trained = time.perf_counter()
            checkpoints.save(number, state, {})
            returned = time.perf_counter()
            checkpoints.wait()
            if number:  # the first save makes threads and compiles the digests
                steps.append((trained - begin) / STEPS)
                blocking.append(returned - trained)
                whole.append(time.perf_counter() - trained)
    step = statistics.median(steps)
    common = {"step_ms": step * 1e3, "state_bytes": state_bytes, "rounds": ROUNDS}
    value = statistics.median(blocking)
    print(
        json.dumps(
            {
                "name": "save_blocking_steps",
                "value": value / step,
                "unit": "steps",
                "ms": value * 1e3,
                **common,
            }
        )
    )
    value = statistics.median(whole)
    print(
        json.dumps(
            {"name": "save_total_steps", "value": value / step, "unit": "steps", "ms": value * 1e3, **common}
        )
    )


if __name__ == "__main__":
    main()
