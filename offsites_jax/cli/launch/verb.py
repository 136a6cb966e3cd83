"""The verb itself: reads the options, checks the experiment, and hands the run to its target."""

import argparse
from typing import Any

from offsites_jax.cli.common import add_experiment
from offsites_jax.cli.launch import gke, local, slurm, tpu_vm, xpk
from offsites_jax.cli.launch.options import add_options, settings_of
from offsites_jax.cli.launch.run import Run, parse_environment
from offsites_jax.errors import UserError

TARGETS: dict[str, Any] = {"local": local, "slurm": slurm, "gke": gke, "tpu-vm": tpu_vm, "xpk": xpk}
SETTINGS: dict[str, type] = {name: target.Settings for name, target in TARGETS.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options, and those of every target."""
    add_experiment(parser)
    parser.add_argument("--on", required=True, metavar="TARGET", help=" | ".join(TARGETS))
    parser.add_argument("--workdir", required=True, help="folder of the run; on a pod a bucket, gs://...")
    parser.add_argument("--dry-run", action="store_true", help="print what would run or be submitted")
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="variable of the processes; repeatable",
    )
    parser.add_argument("--profile", default="", metavar="A:B", help="as in `offsites train`")
    parser.add_argument("--wandb", default="", metavar="PROJECT", help="as in `offsites train`")
    add_options(parser, SETTINGS)


def run(options: argparse.Namespace) -> int:
    """Launches; with --on local it also waits for the end."""
    if options.on not in TARGETS:
        from offsites_jax.train.schema import nearest

        raise UserError(f"--on: no target {options.on!r}{nearest(options.on, TARGETS)}")
    settings: Any = settings_of(options, options.on, SETTINGS)
    TARGETS[options.on].launch(requested_run(options), settings, options.dry_run)
    return 0


def requested_run(options: argparse.Namespace) -> Run:
    """The run, with the experiment read once here: a wrong key should not cost a place in a queue.

    Raises:
      UserError: the experiment or a variable is wrong.

    """
    from offsites_jax.train.config import load_experiment

    environment = parse_environment(options.env)
    experiment = load_experiment(options.experiment, options.overrides)
    flags = [f"--{key}={getattr(options, key)}" for key in ("profile", "wandb") if getattr(options, key)]
    return Run(
        experiment=options.experiment,
        workdir=options.workdir,
        overrides=options.overrides,
        mesh=experiment.mesh,
        environment=environment,
        flags=flags,
    )
