"""`offsites verify`: check every leaf of every checkpoint, or compare two runs by leaf."""

import argparse
import dataclasses
import pathlib
from typing import TYPE_CHECKING

from offsites_jax.cli.common import add_json, add_workdir, print_json, workdir_of
from offsites_jax.errors import EXIT_DAMAGED_DATA

if TYPE_CHECKING:
    from offsites_jax.train.saved import StepReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_workdir(parser)
    parser.add_argument(
        "--diff", nargs=2, metavar=("A", "B"), help="compare the newest checkpoints of two workdirs"
    )
    parser.add_argument("--exported", help="compare this export with the checkpoint it was made from")
    parser.add_argument("--split", default="test", help="split that --exported is compared on")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints what was found; exit code 3 for damage, 1 for a difference."""
    if options.exported:
        return print_export(options)
    return print_diff(options) if options.diff else print_reports(options)


def print_reports(options: argparse.Namespace) -> int:
    """Checks all checkpoints of one run."""
    from offsites_jax.train.saved import verify

    reports = verify(workdir_of(options))
    if options.json:
        print_json([dataclasses.asdict(report) for report in reports])
    else:
        print("\n".join(line for report in reports for line in describe(report)))
    return 0 if all(report.sound for report in reports) else EXIT_DAMAGED_DATA


def describe(report: "StepReport") -> list[str]:
    """A line for the step, and one for each damaged file or leaf."""
    damaged = {**report.files, **{leaf: reason for leaf, reason in report.leaves.items() if reason}}
    files = "files and leaves" if report.sealed else "leaves (its files were never sealed)"
    verdict = f"{len(damaged)} damaged" if damaged else f"sound: {files} checked"
    head = f"step {report.step}: {len(report.leaves)} leaves, {verdict}"
    return [head, *(f"  {name}: {reason}" for name, reason in damaged.items())]


def print_diff(options: argparse.Namespace) -> int:
    """Compares two runs."""
    from offsites_jax.train.saved import diff

    rows = diff(*options.diff)
    if options.json:
        print_json([{"leaf": leaf, "difference": difference} for leaf, difference in rows])
    else:
        for leaf, difference in rows:
            print(f"{leaf:<60} {difference}")
        print(f"{len(rows)} leaves differ")
    return 1 if rows else 0


def print_export(options: argparse.Namespace) -> int:
    """Compares an export, loaded afresh, with the live model of its checkpoint over a whole split."""
    from offsites_jax.parallel.start import start
    from offsites_jax.train.workdir import read_experiment

    experiment = read_experiment(workdir_of(options), options.overrides)
    start(experiment.mesh.cpu_devices)

    from offsites_jax.export.compare import compare
    from offsites_jax.export.manifest import verify as verify_export
    from offsites_jax.train.restore import restore, split_batches

    manifest = verify_export(pathlib.Path(options.exported))
    model = restore(
        workdir_of(options), step=manifest["step"], params=manifest["params"], experiment=experiment
    )
    differences = compare(options.exported, model.predict, split_batches(model, options.split))
    if options.json:
        print_json({"max_abs_diff": max(differences.values()), "by_output": differences})
    else:
        for name, value in differences.items():
            print(f"{name:<32} differs by at most {value:.3g}")
    return 0
