"""`offsites eval`: score a checkpoint with the evaluators of its experiment."""

import argparse

from offsites_jax.cli.common import add_json, add_step, add_workdir, print_json, workdir_of
from offsites_jax.train.steps import step_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_workdir(parser)
    add_step(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Evaluates and prints the scores; the log of the run is left alone."""
    from etils import epath

    from offsites_jax.parallel.start import start
    from offsites_jax.train.workdir import COMPILE_CACHE, read_experiment

    workdir = workdir_of(options)
    experiment = read_experiment(workdir, options.overrides)
    start(experiment.mesh.cpu_devices, cache=epath.Path(workdir) / COMPILE_CACHE)

    from offsites_jax.train.restore import evaluate

    step, scores = evaluate(experiment, workdir, step=step_of(options.step), params=options.params)
    if options.json:
        print_json({"step": step, **scores})
    else:
        print(f"step {step}")
        for name, value in scores.items():
            print(f"  {name:<32} {value:.6g}")
    return 0
