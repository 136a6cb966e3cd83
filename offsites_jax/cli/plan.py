"""`offsites plan`: what a run would need on real TPUs, before a chip is booked."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from offsites_jax.cli.abort import on_abort
from offsites_jax.cli.common import add_experiment, add_json, print_json
from offsites_jax.errors import UserError

# Read when JAX and the TPU compiler are loaded. With these the compiler looks for no chip and asks no
# metadata server, and may be loaded beside a program that owns the machine's chips.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "0",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_experiment(parser)
    parser.add_argument("--topology", required=True, help="one slice: v5e:16x16, v4:2x2x4, tpu7x:2x2x1 ...")
    parser.add_argument("--slices", type=int, help="slices joined by the network; default config.mesh.slices")
    parser.add_argument("--stage", default="all", help="all (default), or a stage's name or index")
    parser.add_argument("--sweep", choices=("mesh",), help="try sensible meshes and batch sizes, and compare")
    parser.add_argument("--remat", default="", help="policy of the model's option remat; several: none,full")
    parser.add_argument("--price", type=float, default=0.0, metavar="USD", help="of a chip for an hour")
    parser.add_argument("--shardings", action="store_true", help="print every parameter and how it is split")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Compiles for the topology and prints what it takes; exits with 0 also when it does not fit."""
    os.environ.update(ENVIRONMENT)

    from etils import epath

    from offsites_jax.parallel.compiler import Compiler
    from offsites_jax.parallel.start import CACHE_VARIABLE
    from offsites_jax.parallel.topology import parse_topology
    from offsites_jax.train.config import load_experiment

    experiment = load_experiment(options.experiment, options.overrides)
    slices = experiment.mesh.slices if options.slices is None else options.slices
    topology = parse_topology(options.topology, slices)
    stages = stages_of(options.stage, [stage.name for stage in experiment.stages])
    policies = options.remat.split(",") if options.remat else [""]
    cache = os.environ.get(CACHE_VARIABLE)
    kept = epath.Path(cache) / "plans" if cache else None
    compiler = Compiler(topology, kept)  # loads libtpu, which has a say in aborts, too
    with on_abort(blame_compiler):
        return compile_and_print(options, experiment, compiler, stages, policies)


def compile_and_print(
    options: argparse.Namespace, experiment: Any, compiler: Any, stages: list[int], policies: list[str]
) -> int:
    """The sweep, or the plan, as asked for."""
    if options.sweep or len(policies) > 1:
        return run_sweep(options, experiment.at_stage(stages[-1]), compiler, policies)

    from offsites_jax.train.plan import create_plan, with_remat
    from offsites_jax.train.plan_report import render, render_shardings, shardings_json, to_json

    if options.remat:
        experiment = with_remat(experiment, options.remat)
    plan = create_plan(experiment, compiler, stages, notify)
    if options.json:
        shardings = {"shardings": shardings_json(plan)} if options.shardings else {}
        print_json(to_json(plan, options.price) | shardings)
        return 0
    if options.shardings:
        print(render_shardings(plan), end="\n\n")
    print(render(plan, options.price))
    return 0


def run_sweep(options: argparse.Namespace, experiment: Any, compiler: Any, policies: list[str]) -> int:
    """Compares layouts of one stage, the last of those asked for; what is done is told on standard error."""
    from offsites_jax.train.plan_report import render_sweep, sweep_json
    from offsites_jax.train.plan_sweep import sensible_batch_sizes, sensible_meshes, sweep

    candidates = sweep(
        experiment,
        compiler,
        meshes=sensible_meshes(experiment, compiler.topology) if options.sweep else [experiment.mesh],
        batch_sizes=sensible_batch_sizes(experiment) if options.sweep else [experiment.train.batch_size],
        policies=policies,
        notify=notify,
    )
    if options.json:
        print_json(sweep_json(candidates, compiler.topology, experiment.stage_name))
    else:
        print(render_sweep(candidates, compiler.topology, experiment.stage_name))
    return 0


def blame_compiler() -> None:
    """Ends this process after the TPU compiler has aborted it."""
    os.write(
        2,
        b"offsites: the TPU compiler failed inside (see 'Check failed' above), which is no fault of the "
        b"experiment; try another batch size, mesh or version of libtpu\n",
    )
    os._exit(1)


def stages_of(text: str, names: Sequence[str]) -> list[int]:
    """Indices of the stages that `--stage` asks for.

    Raises:
      UserError: there is no such stage.

    """
    count = len(names) or 1
    if text == "all":
        return list(range(count))
    if text in names:
        return [names.index(text)]
    if text.isdigit() and int(text) < count:
        return [int(text)]
    known = ", ".join(names) or "none, so leave it out"
    raise UserError(f"--stage: there is no stage {text!r}; the experiment's stages are: {known}")


def notify(line: str) -> None:
    """A line for the one who waits; results alone go to standard output."""
    print(line, file=sys.stderr, flush=True)
