"""Writes an export, reads it back, compares it with the live model, and only then gives it its name."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from offsites_jax.errors import OffsitesError, UserError
from offsites_jax.export.compare import Predict, largest_differences, largest_values
from offsites_jax.export.formats import FORMATS
from offsites_jax.export.inference import Inference
from offsites_jax.export.manifest import CONFIG, MANIFEST, README, verify, write_json, write_manifest
from offsites_jax.export.publish import published
from offsites_jax.export.readme import write_readme
from offsites_jax.train.schema import nearest

TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Report:
    """What an export made.

    Attributes:
      folder: where it is.
      format: its format.
      step: of the checkpoint.
      max_abs_diff: largest absolute difference to the live model over all outputs.
      differences: the same by output.
      size: bytes of its files, the manifest not counted.

    """

    folder: str
    format: str
    step: int
    max_abs_diff: float
    differences: Mapping[str, float]
    size: int


def write_folder(
    inference: Inference,
    output: str | os.PathLike[str],
    *,
    format: str,
    facts: Mapping[str, Any],
    folded: bool = False,
    batches: Iterable[Mapping[str, Any]] = (),
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
) -> Report:
    """Makes the folder of one export.

    Args:
      inference: the live model.
      output: folder to make, on a disk or in a bucket (gs://...).
      format: one of `FORMATS`.
      facts: for the manifest; `project`, `config`, `step` and `params` at least.
      folded: ship the model in the form it is served in, see `models.folding`.
      batches: real batches to compare on, besides a random one; entries that are no inputs are ignored.
      tolerance: largest absolute difference to the live model that passes; of a folded one, and outputs with
        numbers above 1, as a share of the largest.
      overwrite: replace an earlier export at `output`.

    Raises:
      UserError: unknown format or one that cannot be folded, or an output that exists or cannot be written.
      OffsitesError: the export differs from the live model. In either case nothing new is at `output`.

    """
    if format not in FORMATS:
        raise UserError(f"format: no export format {format!r}{nearest(format, FORMATS)}")
    if folded and not FORMATS[format].folds:
        known = ", ".join(name for name, found in FORMATS.items() if found.folds)
        raise UserError(f"--fold: format {format} keeps the parameters as they were trained; fold {known}")
    inputs = [inference.random_batch(), *(pick_inputs(inference, batch) for batch in batches)]
    shipped = inference.folded() if folded else inference
    with published(output, overwrite=overwrite) as folder:
        signature = FORMATS[format].write(shipped, folder)
        signature.write(folder)
        write_json(folder / CONFIG, facts["config"])
        (folder / README).write_text(write_readme(signature, facts, FORMATS[format].usage(signature)))
        facts = {"format": format, "folded": folded, **facts, **dataclasses.asdict(signature)}
        manifest = write_manifest(folder, facts)
        verify(folder)
        predict = FORMATS[format].reopen(shipped, folder)
        differences = check(predict, inference, inputs, tolerance, folded)
        write_json(folder / MANIFEST, {**manifest, "differences": differences})
    return Report(
        folder=os.fspath(output),
        format=format,
        step=facts["step"],
        max_abs_diff=max(differences.values()),
        differences=differences,
        size=sum(file["size"] for file in manifest["files"].values()),
    )


def check(
    predict: Predict,
    inference: Inference,
    batches: Sequence[Mapping[str, Any]],
    tolerance: float,
    folded: bool,
) -> dict[str, float]:
    """Largest absolute difference by output between what was read back and the live model.

    Raises:
      OffsitesError: a difference above the tolerance.

    """
    live = inference.bind(inference.variables)
    differences = largest_differences(predict, live, batches)
    # Folding rounds every number anew, large ones by more.
    sizes = largest_values(live, batches) if folded else {}
    limits = {name: tolerance * max(1.0, sizes.get(name, 0.0)) for name in differences}
    for name, limit in limits.items():
        if differences[name] > limit:
            unfolded = ", or leave the model as it was trained with --no-fold" if folded else ""
            raise OffsitesError(
                f"export: output {name!r} is {differences[name]:.3g} off the live model, over {limit:.3g}; "
                "nothing was written. Train or export in float32, or allow more with --tolerance" + unfolded
            )
    return differences


def pick_inputs(inference: Inference, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a batch that predict reads, in host memory.

    Raises:
      UserError: one of them is missing.

    """
    wanted = inference.inputs()
    missing = sorted(set(wanted) - set(batch))
    if missing:
        raise UserError(f"batches: a batch to compare on lacks {', '.join(missing)}; it has {sorted(batch)}")
    return jax.device_get({name: batch[name] for name in wanted})
