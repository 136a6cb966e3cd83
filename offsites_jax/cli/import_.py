"""`offsites import`: bring published weights into one of our models."""

import argparse
import dataclasses

from offsites_jax.cli.common import add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("model", help="name of a model, see `offsites list models`")
    parser.add_argument("file", help="a .safetensors, .pth, .h5 or .keras file, or a TensorFlow checkpoint")
    parser.add_argument("--from", dest="source", required=True, help="its names: timm, automl, keras, maxvit")
    parser.add_argument("--output", required=True, help="new folder, for config.init_from")
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
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier import")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Imports, and says how many tensors became which model."""
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
    if options.json:
        print_json(dataclasses.asdict(report))
        return 0
    left = f", without {', '.join(report.skipped)}" if report.skipped else ""
    print(f"{report.folder}/{PARAMS}: {report.model} from {report.source}, {report.tensors} tensors{left}")
    return 0
