"""The commands that run a trained classifier on files: named predictions, features, maps for detectors."""

import io
import math
import os
import pathlib
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from tyro.conf import Positional

from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification.commands.shared import (
    check_all_read,
    start,
    write,
    write_rows,
)
from offsites_jax.train.steps import step_of

MOST_BYTES = 4 * 2**30  # of endpoints, which are held in memory


def predict(
    inputs: Positional[tuple[str, ...]],
    workdir: str,
    output: str = "",
    top: int = 5,
    step: str = "latest",
    params: Literal["ema", "raw"] = "ema",
) -> None:
    """Prints the most likely classes of each image by name, one JSON object a line.

    A line has path, top (a list of index, name, prob), pixels and checkpoint. A file that cannot be read gets
    a line with path and error, and the command ends with code 3. Lines come as they are made; in a file they
    are called OUTPUT.partial until all are there, which is what an interruption leaves.

    Args:
      inputs: image files, folders with all that is below them, or patterns such as 'photos/**/*.jpg'.
      workdir: folder of the run; names in its classes.txt go before those of the data set.
      output: file to write the lines to instead.
      top: how many classes.
      step: latest, best or a number.
      params: averaged parameters where kept, or raw ones.

    """
    if top < 1:
        raise UserError(f"--top: {top}; must be 1 or more")
    start()

    from offsites_jax.projects.image_classification.classes import names_of_run
    from offsites_jax.projects.image_classification.inference import open_model, predictions

    model = open_model(workdir, step_of(step), params)
    names = names_of_run(workdir, model.experiment)
    errors: dict[str, str] = {}
    count = write_rows(_noting(predictions(model, workdir, inputs, top, names), errors), output)
    check_all_read(errors, count)


def embed(
    inputs: Positional[tuple[str, ...]],
    workdir: str,
    output: str,
    step: str = "latest",
    params: Literal["ema", "raw"] = "ema",
) -> None:
    """Writes the features that the classifier sees, a row for each image, as npz or Parquet.

    An npz has `features` [files, width] and `paths`; a Parquet file columns `path` and `features`. Files that
    cannot be read are left out and named, and the command ends with code 3.

    Args:
      inputs: image files, folders with all that is below them, or patterns.
      workdir: folder of the run.
      output: the file to write, FILE.npz or FILE.parquet.
      step: latest, best or a number.
      params: averaged parameters where kept, or raw ones.

    """
    encode = _encoder(output)
    start()

    from offsites_jax.projects.image_classification.inference import embeddings, open_model

    found = embeddings(open_model(workdir, step_of(step), params), inputs)
    features = found.arrays["features"]
    write(output, encode(found.paths, features))
    print(f"{output}: {len(found.paths)} images, {features.shape[1]} features")
    check_all_read(found.errors, len(found.paths) + len(found.errors))


def endpoints(
    inputs: Positional[tuple[str, ...]],
    workdir: str,
    output: str,
    names: tuple[str, ...] = (),
    step: str = "latest",
    params: Literal["ema", "raw"] = "ema",
) -> None:
    """Writes the maps of features that a detector builds on, as an npz, and prints their shapes.

    They are reduction_1 [files, height / 2, width / 2, channels] to reduction_5, features, pooled and logits,
    all in float32, and paths. Files that cannot be read are left out, and the command ends with code 3.

    Args:
      inputs: image files, folders with all that is below them, or patterns.
      workdir: folder of the run.
      output: the npz file to write.
      names: which of them; all unless told.
      step: latest, best or a number.
      params: averaged parameters where kept, or raw ones.

    """
    if not output.endswith(".npz"):
        raise UserError(f"--output: {output}: name it FILE.npz")
    start()

    from offsites_jax.data.files import FilesSource
    from offsites_jax.projects.image_classification import inference

    model = inference.open_model(workdir, step_of(step), params)
    shapes = inference.endpoint_shapes(model)
    for name in names:
        if name not in shapes:
            raise UserError(f"--names: the network has no {name!r}; it has {', '.join(shapes)}")
    size = sum(4 * math.prod(shapes[name]) for name in names or shapes) * len(FilesSource(inputs))
    if size > MOST_BYTES:
        raise UserError(
            f"{output}: would be {size / 2**30:.1f} GiB, 4 at most; give fewer files or some --names"
        )
    found = inference.collect(model, inference.endpoints_of(model, names), inputs)
    stream = io.BytesIO()
    arrays: dict[str, Any] = {"paths": np.array(found.paths, str), **found.arrays}
    np.savez(stream, **arrays)
    write(output, stream.getvalue())
    for name, values in found.arrays.items():
        print(f"{name:<14} {' x '.join(map(str, values.shape))}")
    check_all_read(found.errors, len(found.paths) + len(found.errors))


def _noting(rows: Iterable[dict[str, Any]], errors: dict[str, str]) -> Iterable[dict[str, Any]]:
    for row in rows:
        if "error" in row:
            errors[row["path"]] = row["error"]
        yield row


def _encoder(output: str) -> Any:
    """How features become the bytes of a file with that ending."""
    ending = pathlib.PurePath(os.fspath(output)).suffix
    if ending == ".npz":
        return _as_npz
    if ending != ".parquet":
        raise UserError(f"--output: {output}: name it FILE.npz or FILE.parquet")
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError(
            f"--output: {output}: Parquet needs pyarrow; pip install pyarrow, or write FILE.npz"
        ) from None
    return _as_parquet


def _as_npz(paths: list[str], features: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, features=features, paths=np.array(paths, dtype=str))
    return stream.getvalue()


def _as_parquet(paths: list[str], features: np.ndarray) -> bytes:
    import pyarrow
    import pyarrow.parquet

    rows = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(features.reshape(-1)), features.shape[1])
    stream = io.BytesIO()
    table = pyarrow.table({"path": pyarrow.array(paths, pyarrow.string()), "features": rows})
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue()
