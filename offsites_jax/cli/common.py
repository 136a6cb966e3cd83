"""Arguments that several verbs share."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from offsites_jax.errors import UserError

if TYPE_CHECKING:
    pass


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """The experiment file, with room for overrides."""
    parser.add_argument("experiment", help="experiment file, or file.py:argument")
    parser.epilog = (
        "Any key can be overridden: --config.train.steps=100 --config.optimizer.learning_rate.peak=1e-3"
    )


def add_workdir(parser: argparse.ArgumentParser) -> None:
    """The folder of a run, positional or as --workdir."""
    parser.add_argument("folder", nargs="?", help="folder of the run")
    parser.add_argument("--workdir", help="the same, as an option")


def add_step(parser: argparse.ArgumentParser) -> None:
    """Which checkpoint, and which parameters of it."""
    parser.add_argument("--step", default="latest", help="latest (default), best, or a number")
    parser.add_argument(
        "--params", default="ema", choices=("ema", "raw"), help="averaged parameters where kept, or raw"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Machine-readable output."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Multi-process start-up where the platform does not tell by itself."""
    group = parser.add_argument_group("several processes", "found by itself on TPU pods, SLURM and GKE")
    group.add_argument("--coordinator", default="", help="host:port of process 0")
    group.add_argument("--process-count", type=int, default=0)
    group.add_argument("--process-index", type=int, default=-1)


def workdir_of(options: argparse.Namespace) -> str:
    """The run's folder.

    Raises:
      UserError: neither form was given.

    """
    folder = options.workdir or options.folder
    if not folder:
        raise UserError("--workdir: missing; give the folder of a run")
    return folder


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2))


def processes_of(options: argparse.Namespace, **same: str) -> Any:
    """Multi-process settings from the flags; `same` must be equal in all processes."""
    from offsites_jax.parallel.start import Processes

    return Processes(options.coordinator, options.process_count, options.process_index, same=same)
