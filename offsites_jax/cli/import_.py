"""`offsites import`: bring published weights into one of our models."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from offsites_jax.cli.common import add_json, print_json
from offsites_jax.errors import UserError

if TYPE_CHECKING:
    from offsites_jax.export.importing import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("model", help="name of a model, see `offsites list models`")
    parser.add_argument("file", help="a .safetensors, .pth, .h5 or .keras file, or a TensorFlow checkpoint")
    parser.add_argument(
        "--from", dest="source", required=True, help="its names: timm, timm_224, automl, keras, maxvit"
    )
    parser.add_argument("--output", help="new folder of weights alone, for config.init_from")
    parser.add_argument(
        "--experiment", help="experiment file, or file.py:argument, to make a run of, with --workdir"
    )
    parser.add_argument(
        "--workdir", help="new folder of a run at step 0, to evaluate, predict, export or train"
    )
    parser.epilog = "With --experiment any key of it can be overridden: --config.data.path=imagenet"
    parser.add_argument("--classes", type=int, help="outputs of the file's classifier; default the model's")
    parser.add_argument("--new-head", action="store_true", help="leave the classifier out")
    parser.add_argument(
        "--params", default="ema", choices=("ema", "raw"), help="averaged copies where kept, or raw"
    )
    parser.add_argument(
        "--image-size", type=int, help="side of the images to use a CoAtNet on; default as in the file"
    )
    parser.add_argument(
        "--resize",
        default="bilinear",
        choices=("bilinear", "bicubic", "geometric"),
        help="how to interpolate for another --image-size",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier --output")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Imports, and says how many tensors became which model."""
    check(options)
    report, where, remark = as_run(options) if options.experiment else as_weights(options)
    if options.json:
        print_json(dataclasses.asdict(report))
        return 0
    left = f", without {', '.join(report.skipped)}" if report.skipped else ""
    print(f"{where}: {report.model} from {report.source}, {report.tensors} tensors{left}{remark}")
    return 0


def check(options: argparse.Namespace) -> None:
    """Raises UserError where it is not clear what to make, or an option has no say in it."""
    if bool(options.experiment) != bool(options.workdir) or bool(options.workdir) == bool(options.output):
        raise UserError("import: give --output for weights alone, or --experiment and --workdir for a run")
    if options.overrides and not options.experiment:
        raise UserError(f"--config.{next(iter(options.overrides))}: overrides need an --experiment")
    if not options.experiment:
        return
    for option, remedy in (
        ("classes", "the experiment says how many there are: --config.model.num_classes"),
        ("image_size", "the experiment says which: --config.data.image_size"),
        ("overwrite", "a run is never overwritten; name another --workdir"),
    ):
        if getattr(options, option):
            raise UserError(f"--{option.replace('_', '-')}: not with --experiment; {remedy}")


def as_weights(options: argparse.Namespace) -> "tuple[Report, str, str]":
    """A folder of weights: what was made, where, and what else to say."""
    from offsites_jax.parallel.start import start

    start()

    from offsites_jax.export.importing import import_weights
    from offsites_jax.export.load import PARAMS

    report = import_weights(
        options.model,
        options.file,
        options.output,
        options.source,
        new_head=options.new_head,
        params=options.params,
        num_classes=options.classes,
        image_size=options.image_size,
        resize=options.resize,
        overwrite=options.overwrite,
    )
    return report, f"{report.folder}/{PARAMS}", ""


def as_run(options: argparse.Namespace) -> "tuple[Report, str, str]":
    """A run: what was made, where, and how its pixels are normalised, which no file of weights tells."""
    from offsites_jax.parallel.start import start
    from offsites_jax.train.config import load_experiment

    experiment = load_experiment(options.experiment, options.overrides)
    start()

    from offsites_jax.export.imported_run import import_run

    report = import_run(
        experiment,
        options.model,
        options.file,
        options.workdir,
        options.source,
        new_head=options.new_head,
        params=options.params,
        resize=options.resize,
    )
    keys = [key for key in ("mean", "std") if hasattr(experiment.data, key)]
    pixels = " and ".join(f"data.{key}={list(getattr(experiment.data, key))}" for key in keys)
    remark = f"\npixels are normalised by {pixels}; docs/export.md lists what weights expect" if keys else ""
    return report, f"{report.folder}: step 0 of a run", remark
