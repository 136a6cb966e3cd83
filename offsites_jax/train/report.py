"""What a run says about itself once: its parameters, its versions, its cost per step."""

import dataclasses
import importlib.metadata

import jax
from absl import logging

from offsites_jax.parallel.flops import count_flops
from offsites_jax.train.overview import render
from offsites_jax.train.program import Program, create_program
from offsites_jax.train.state import TrainState
from offsites_jax.train.writers import MetricsWriter

PACKAGES = ("offsites-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def describe_run(program: Program, state: TrainState, writer: MetricsWriter, step: int) -> None:
    """Writes the parameter table, with each parameter's sharding, mean and deviation, to the artifacts."""
    table = render(state.params)
    writer.artifacts("run", step).text("parameters", table)
    logging.info("%s\n%s", program.experiment.project, table)


def step_flops(program: Program) -> int:
    """Floating-point operations of one train step over the whole mesh, counted from its jaxpr.

    Micro-batches do the same work in parts; they are counted as one batch, since tracing them shows a forward
    pass more (for the weights of the loss) than the compiler keeps.
    """
    settings = program.experiment.train
    if settings.accumulate > 1:
        whole = dataclasses.replace(settings, accumulate=1)
        program = create_program(dataclasses.replace(program.experiment, train=whole), program.mesh)
    with jax.set_mesh(program.mesh):
        return count_flops(program.step, program.abstract, program.batch)


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}
