"""From the folder of a run to an export: the checkpoint, its task and where both come from."""

import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from etils import epath

from offsites_jax.export.formats import FORMATS
from offsites_jax.export.inference import Inference
from offsites_jax.export.write import TOLERANCE, Report, write_folder
from offsites_jax.train.config import resolve
from offsites_jax.train.program import compute_dtype
from offsites_jax.train.report import versions
from offsites_jax.train.saved import find_checkpoint, restore_variables
from offsites_jax.train.state import zero_batch
from offsites_jax.train.stored import read_body


def export(
    workdir: epath.PathLike,
    output: str | os.PathLike[str],
    *,
    format: str = "stablehlo",
    step: int | Literal["latest", "best"] = "latest",
    params: str = "ema",
    platforms: Sequence[str] = ("cpu", "tpu", "cuda"),
    batch: int | Literal["symbolic"] = "symbolic",
    batches: Iterable[Mapping[str, Any]] = (),
    fold: bool | None = None,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
) -> Report:
    """Exports a checkpoint as a folder that is complete in itself; the data set is not needed.

    Args:
      workdir: folder of the run.
      output: folder to make, on a disk or in a bucket (gs://...).
      format: one of `formats.FORMATS`.
      step: a number, "latest" or "best".
      params: "ema" for averaged parameters where they are kept, or "raw".
      platforms: where the function shall run: "cpu", "tpu", "cuda", "rocm". For StableHLO.
      batch: rows of a batch, or "symbolic" for any number.
      batches: real batches to compare on, besides a random one.
      fold: ship the model in the form it is served in, without batch norms, see `models.folding`; by default
        where the format allows it and the model computes in float32, in which that changes little.
      tolerance: largest absolute difference to the live model that passes; of a folded one, and outputs with
        numbers above 1, as a share of the largest.
      overwrite: replace an earlier export at `output`.

    Raises:
      UserError: no such checkpoint or format, or an output that exists or cannot be written.
      OffsitesError: the export differs from the live model. In either case nothing new is at `output`.

    """
    saved = read_body(find_checkpoint(workdir, step))
    raw = saved["meta"]["config"]
    experiment = resolve(raw, stage=max(0, len(raw.get("stages") or ()) - 1))
    dtype = compute_dtype(experiment.train.precision, jax.default_backend())
    task = experiment.found.create_task(experiment, dtype)
    spec = task.batch_spec(experiment.train.batch_size)
    # Without shardings, so that arrays come to host memory from whatever mesh they were saved on.
    abstract = jax.eval_shape(lambda: task.init(jax.random.key(0), zero_batch(spec)))
    restored = restore_variables(workdir, abstract, step=saved["step"], params=params)
    averaged = params == "ema" and any(name.startswith("ema/") for name in saved["leaves"])
    facts = {
        "project": experiment.project,
        "config": raw,
        "step": restored.step,
        "params": "ema" if averaged else "raw",
        "metrics": saved["metrics"],
        "compute_dtype": str(dtype),
        "trained_with": saved["meta"].get("versions", {}),
        "exported_with": versions(),
        "git_revision": git_revision(pathlib.Path(__file__)),
    }
    return write_folder(
        Inference(
            predict=task.predict,
            variables=restored.variables,
            input_spec=task.input_spec,
            batch=batch,
            platforms=tuple(platforms),
            model=getattr(task, "model", None),
            example=task.example,
        ),
        output,
        format=format,
        facts=facts,
        folded=_folds(format, dtype) if fold is None else fold,
        batches=batches,
        tolerance=tolerance,
        overwrite=overwrite,
    )


def _folds(format: str, dtype: jnp.dtype) -> bool:
    """Whether to fold where nobody said: kernels rounded to fewer digits would be off the live model."""
    return format in FORMATS and FORMATS[format].folds and dtype == jnp.float32


def git_revision(file: pathlib.Path) -> str:
    """Commit of the checkout a file is tracked in, "-dirty" if changed since; empty if in none."""
    program = shutil.which("git")
    # An installed package may lie inside somebody else's repository: only a tracked file tells its own.
    if not program or not _git(program, file.parent, "ls-files", file.name):
        return ""
    return _git(program, file.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(program: str, folder: pathlib.Path, *arguments: str) -> str:
    command = [program, "-C", str(folder), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    return run.stdout.strip() if run.returncode == 0 else ""
