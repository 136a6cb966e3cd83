"""What a network costs: the time of its real train step, its parameters, its operations."""

import dataclasses
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from offsites_jax.errors import UserError
from offsites_jax.parallel.flops import count_flops
from offsites_jax.parallel.mesh import create_mesh, data_shard, put_batch
from offsites_jax.projects.image_classification.search.overrides import write_experiment
from offsites_jax.train.config import Experiment
from offsites_jax.train.program import Program, create_program
from offsites_jax.train.report import step_flops

WARM_UP = 3


@dataclasses.dataclass(frozen=True)
class Size:
    """What can be counted without running anything.

    Attributes:
      params: trained values.
      macs: multiply-adds of one prediction of one image at evaluation size, as papers print them.
      step_flops: operations of one train step of the last stage over the whole mesh.

    """

    params: int
    macs: int
    step_flops: int


def count(experiment: Experiment, mesh: Mesh) -> Size:
    """Counts the model of an experiment's last stage; allocates nothing."""
    program = create_program(experiment.final, mesh)
    rows = mesh.size  # at least one image for each device
    images = program.task.input_spec(rows)
    with jax.set_mesh(mesh):
        flops = count_flops(program.task.predict, program.abstract.variables(), images)
    params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.abstract.params))
    return Size(params, flops // (2 * rows), step_flops(program))


def step_seconds(experiment: Experiment, timed_steps: int) -> float:
    """Seconds of a train step: the median of each stage, averaged over the steps of the run.

    The step is the one the trainer runs, compiled, with its state donated; compiling and the first steps are
    left out. Batches are made up and lie on the devices already: reading data is not the network's cost.

    Args:
      experiment: gives stages, batch size and mesh.
      timed_steps: how many steps of each stage to time.

    """
    mesh, total, before = create_mesh(experiment.mesh), 0.0, 0
    for index, end in enumerate(experiment.ends):
        program = create_program(experiment.at_stage(index), mesh)
        median = statistics.median(list(step_times(program, timed_steps)))
        total, before = total + (end - before) * median, end
    return total / before


def planned_seconds(experiment: Experiment, topology: str) -> float:
    """Seconds that a train step takes at the least on TPUs that are not here; see `parallel.roofline`.

    `offsites plan` compiles it, in a process of its own: the TPU compiler reads its environment when JAX is
    loaded.

    Args:
      experiment: to plan.
      topology: as `offsites plan` takes it.

    Raises:
      UserError: it cannot be compiled for them, or does not fit.

    """
    with tempfile.TemporaryDirectory() as folder:
        file = epath.Path(folder) / "candidate.py"
        write_experiment(file, experiment.raw, "A candidate of an architecture search.")
        command = [sys.executable, "-m", "offsites_jax.cli.main", "plan", str(file), "--topology", topology]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2].removeprefix("offsites: ")
        raise UserError(last or f"offsites plan ended with code {done.returncode} and said nothing")
    return planned_average(json.loads(done.stdout))


def planned_average(plan: Mapping[str, Any]) -> float:
    """Seconds of a step of a plan, averaged over the steps of all stages.

    Raises:
      UserError: a stage does not fit.

    """
    for stage in plan["stages"]:
        if not stage["fits"]:
            raise UserError(
                f"stage {stage['name']} exceeds the memory of {plan['topology']} by "
                f"{stage['exceeds_by_bytes']:,} bytes per chip"
            )
    weighted = [stage["steps"] * stage["step_estimate_seconds"] for stage in plan["stages"]]
    return sum(weighted) / sum(stage["steps"] for stage in plan["stages"])


def step_times(program: Program, timed_steps: int) -> Iterator[float]:
    """Seconds of each of some steps after the warm-up."""
    update, state, batch = program.update(), program.initial_state(), made_up_batch(program)
    for step in range(WARM_UP + timed_steps):
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(update(state, batch))
        if step >= WARM_UP:
            yield time.perf_counter() - begin


def made_up_batch(program: Program) -> dict[str, jax.Array]:
    """A batch of the right shapes on the mesh: noise for pixels, class 0 or 1 for labels."""
    rng, size = np.random.default_rng(0), program.experiment.train.batch_size
    rows = size // data_shard(program.mesh)[1]

    def noise(spec: jax.ShapeDtypeStruct) -> np.ndarray:
        shape = (rows, *spec.shape[1:])
        if np.issubdtype(spec.dtype, np.integer):
            return rng.integers(0, 256 if spec.dtype == np.uint8 else 2, shape).astype(spec.dtype)
        return rng.random(shape).astype(spec.dtype)

    return put_batch({name: noise(spec) for name, spec in program.batch.items()}, program.mesh, size)
