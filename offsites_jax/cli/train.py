"""`offsites train`: start an experiment, or go on with it."""

import argparse
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from offsites_jax.cli.common import add_experiment, add_json, add_processes, print_json, processes_of
from offsites_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_experiment(parser)
    parser.add_argument("--workdir", required=True, help="folder of the run, local or gs://")
    parser.add_argument(
        "--profile", default="", metavar="A:B", help="trace updates A up to B into workdir/profile"
    )
    parser.add_argument("--wandb", default="", metavar="PROJECT", help="log to Weights & Biases as well")
    parser.add_argument("--stop-at", type=int, help="save and leave at this step, as a preemption would")
    add_json(parser)
    add_processes(parser)


def run(options: argparse.Namespace) -> int:
    """Trains to the end, or until asked to leave."""
    from etils import epath

    from offsites_jax.parallel.start import start
    from offsites_jax.train.config import load_experiment
    from offsites_jax.train.workdir import COMPILE_CACHE

    if not options.workdir:
        raise UserError("--workdir: empty; name the folder of the run")
    window = parse_window(options.profile)
    experiment = load_experiment(options.experiment, options.overrides)
    start(experiment.mesh.cpu_devices, processes_of(options, experiment=digest_of(experiment.raw)))

    from offsites_jax.cli.together import ending_together, show_host
    from offsites_jax.train.curves import draw_curves
    from offsites_jax.train.loop import train

    show_host()
    with ending_together():
        result = train(
            experiment,
            options.workdir,
            profile=window,
            wandb=options.wandb,
            stop_at=options.stop_at,
            cache=epath.Path(options.workdir) / COMPILE_CACHE,
        )
    draw_curves(options.workdir)
    if options.json:
        print_json(
            {"step": int(result.state.step), "scores": dict(result.scores), "seconds": dict(result.seconds)}
        )
    return 0


def digest_of(config: Mapping[str, Any]) -> str:
    """A short name for a configuration, other for any other."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]


def parse_window(text: str) -> tuple[int, int] | None:
    """Reads "100:105" as (100, 105)."""
    if not text:
        return None
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise UserError(f"--profile: {text!r} is no window; say --profile 100:105")
    return int(first), int(last)
