"""`offsites export`: write a checkpoint in a form that needs none of this code."""

import argparse
import dataclasses

from offsites_jax.cli.common import add_json, add_step, add_workdir, print_json, workdir_of
from offsites_jax.errors import UserError
from offsites_jax.train.steps import step_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_workdir(parser)
    parser.add_argument("--output", help="new folder; default <workdir>/export")
    parser.add_argument(
        "--format",
        default="stablehlo",
        help="stablehlo (default), savedmodel, safetensors, orbax, timm, keras or automl",
    )
    parser.add_argument("--platforms", default="cpu,tpu,cuda", help="where a StableHLO export must run")
    parser.add_argument("--batch", default="symbolic", help="a fixed batch size, or symbolic for any")
    parser.add_argument(
        "--fold",
        action=argparse.BooleanOptionalAction,
        help="no batch norms, relative biases written out; default: for stablehlo and savedmodel in float32",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="largest difference from the live model"
    )
    add_step(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Exports, reloads, compares with the live model, and says how far they are apart."""
    from offsites_jax.parallel.start import start

    start()

    from offsites_jax.export.folder import export

    if options.batch != "symbolic" and not options.batch.isdigit():
        raise UserError(f"--batch: {options.batch!r} is neither a number nor symbolic")
    workdir = workdir_of(options)
    report = export(
        workdir,
        options.output or f"{workdir}/export",
        format=options.format,
        step=step_of(options.step),
        params=options.params,
        platforms=tuple(options.platforms.split(",")),
        batch=options.batch if options.batch == "symbolic" else int(options.batch),
        fold=options.fold,
        tolerance=options.tolerance,
        overwrite=options.overwrite,
    )
    if options.json:
        print_json(dataclasses.asdict(report))
    else:
        print(
            f"{report.folder}: {options.format} of step {report.step}, max abs diff {report.max_abs_diff:.3g}"
        )
    return 0
