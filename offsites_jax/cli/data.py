"""`offsites data`: show exactly the batch of a step, decoded and augmented."""

import argparse
import pathlib

from offsites_jax.cli.common import add_experiment, add_json, print_json
from offsites_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_experiment(parser)
    parser.add_argument("--step", type=int, required=True, help="update number, from 0")
    parser.add_argument("--output", default="", help="folder for pictures, sound and arrays")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints shape, range and digest of every entry; writes them to --output if given."""
    from offsites_jax.data.pipeline import global_batch
    from offsites_jax.data.show import describe_batch, write_batch
    from offsites_jax.train.config import load_experiment

    experiment = load_experiment(options.experiment, options.overrides)
    if not 0 <= options.step < experiment.train.steps:
        raise UserError(f"--step: {options.step} is outside 0..{experiment.train.steps - 1}")
    experiment = experiment.at_stage(experiment.stage_at(options.step))
    batch = global_batch(
        experiment.found.create_pipeline(experiment, experiment.data.train_split, train=True),
        batch_size=experiment.train.batch_size,
        seed=experiment.train.seed,
        step=options.step,
        loading=experiment.data.loading,
    )
    rows = describe_batch(batch)
    files = write_batch(batch, pathlib.Path(options.output)) if options.output else []
    if options.json:
        print_json({"step": options.step, "stage": experiment.stage_name, "entries": rows, "files": files})
        return 0
    print(f"step {options.step}, stage {experiment.stage_name}")
    for row in rows:
        print("  {name:<16} {dtype:<8} {shape!s:<22} {low:>10.4g} .. {high:<10.4g} {digest}".format(**row))
    for file in files:
        print(file)
    return 0
