"""`offsites selftest`: prove the framework's promises on this machine, with this experiment."""

import argparse
import dataclasses

from offsites_jax.cli.common import add_experiment, add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_experiment(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints a certificate; exit code 1 if a proof failed."""
    from offsites_jax.parallel.start import start
    from offsites_jax.train.config import load_experiment

    experiment = load_experiment(options.experiment, options.overrides)
    start(experiment.mesh.cpu_devices)

    from offsites_jax.train.selftest import certificate, selftest

    proofs = selftest(experiment)
    if options.json:
        print_json([dataclasses.asdict(proof) for proof in proofs])
    else:
        print(certificate(experiment, proofs))
    return 0 if all(proof.passed for proof in proofs) else 1
