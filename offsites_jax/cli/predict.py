"""`offsites predict`: run a checkpoint, or an export, on files."""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from offsites_jax.cli.common import add_step
from offsites_jax.errors import UserError
from offsites_jax.train.steps import step_of

BATCH_SIZE = 32


class Predictor(NamedTuple):
    """What predicts, how it reads its inputs, and how many at a time."""

    experiment: Any
    predict: Callable[[dict[str, Any]], Mapping[str, Any]]
    batch_size: int = BATCH_SIZE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument(
        "inputs", nargs="+", help="files or folders; with neither option, the first is the workdir"
    )
    parser.add_argument("--workdir", help="folder of the run")
    parser.add_argument("--exported", help="folder of an export; runs without the model's code")
    parser.add_argument("--output", help="write the lines to this file instead of standard output")
    parser.add_argument("--json", action="store_true", help="one JSON object a line (the default form)")
    add_step(parser)


def run(options: argparse.Namespace) -> int:
    """Prints one JSON object per input file: its path and every output of predict."""
    from offsites_jax.cli.lines import write_lines
    from offsites_jax.parallel.start import start

    inputs = list(options.inputs)
    if not options.exported and not options.workdir:
        options.workdir = inputs.pop(0)
    if not inputs:
        raise UserError("INPUT: missing; name files or a folder to predict on")
    start()
    predictor = from_export(options) if options.exported else from_workdir(options)
    write_lines((json.dumps(row) for row in rows(predictor, inputs)), options.output)
    return 0


def from_workdir(options: argparse.Namespace) -> Predictor:
    """A checkpoint, on one device."""
    import dataclasses

    from offsites_jax.parallel.mesh import MeshSettings
    from offsites_jax.train.restore import restore
    from offsites_jax.train.workdir import read_experiment

    # One device: prediction needs neither the mesh nor the hosts that training had.
    experiment = dataclasses.replace(read_experiment(options.workdir), mesh=MeshSettings(data=1))
    model = restore(options.workdir, step=step_of(options.step), params=options.params, experiment=experiment)
    return Predictor(experiment, model.predict)


def from_export(options: argparse.Namespace) -> Predictor:
    """An export, reading its inputs as the experiment did."""
    from offsites_jax.export.load import load
    from offsites_jax.train.config import resolve

    exported = load(options.exported)
    inputs = exported.signature.inputs
    first = next(iter(inputs.values())).shape[0]
    return Predictor(
        resolve(exported.manifest["config"]).final,
        lambda batch: exported.predict({name: batch[name] for name in inputs}),
        first if isinstance(first, int) else BATCH_SIZE,
    )


def rows(predictor: Predictor, inputs: list[str]) -> Iterator[dict[str, Any]]:
    """One dict per input, in order."""
    from offsites_jax.data.pipeline import eval_batches
    from offsites_jax.data.source import describe

    experiment, predict, size = predictor
    pipeline = experiment.found.create_input_pipeline(experiment, inputs)
    names = [describe(pipeline.source, index) for index in range(len(pipeline.source))]
    batches = eval_batches(pipeline, batch_size=size, shard=(0, 1), loading=experiment.data.loading)
    for number, batch in enumerate(batches):
        mask = batch.pop("mask")
        outputs = {name: np.asarray(values) for name, values in predict(batch).items()}
        for row in np.flatnonzero(mask):
            yield {
                "input": names[number * size + row],
                **{name: values[row].tolist() for name, values in outputs.items()},
            }
