"""`offsites compare`: a run's figures beside the published ones."""

import argparse
import dataclasses

from offsites_jax.cli.common import add_json, add_workdir, print_json, workdir_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_workdir(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints one row per expected figure: reproduced, or off by how much."""
    from offsites_jax.train.compare import compare, render

    rows = compare(workdir_of(options))
    if options.json:
        print_json([dataclasses.asdict(row) for row in rows])
    else:
        print(render(rows))
    return 0
