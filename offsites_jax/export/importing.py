"""Published weights into our models: as variables, or as a folder that `init_from` reads."""

import dataclasses
import importlib
import os
import pathlib
import posixpath
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from safetensors.numpy import save_file

from offsites_jax.errors import UserError
from offsites_jax.export.importers.files import open_tensors
from offsites_jax.export.importers.mapping import Filled, fill
from offsites_jax.export.importers.pixels import Pixels, describe, pixels_of
from offsites_jax.export.importers.settings import merged
from offsites_jax.export.load import PARAMS
from offsites_jax.export.manifest import README, fingerprint, write_manifest
from offsites_jax.export.publish import published
from offsites_jax.models.coatnet import CoAtNet, transfer_resolution
from offsites_jax.models.registry import create_model
from offsites_jax.nn.relative_tables import Resize
from offsites_jax.train.report import versions
from offsites_jax.train.schema import nearest
from offsites_jax.train.state import flatten, unflatten

FAMILIES = {
    "EfficientNet": "offsites_jax.export.importers.efficientnet",
    "CoAtNet": "offsites_jax.export.importers.coatnet",
    "ResNet": "offsites_jax.export.importers.resnet",
}
"""By class of model, the module that knows its leaves and what sources call them."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What an import made.

    Attributes:
      folder: where it is.
      model: name of the model.
      source: whose names the file used.
      tensors: number of tensors taken.
      values: number of values in them.
      skipped: leaves of a new head, which are not in the folder.
      ignored: number of other tensors of the file, such as optimizer slots.

    """

    folder: str
    model: str
    source: str
    tensors: int
    values: int
    skipped: tuple[str, ...]
    ignored: int


def load(
    model_name: str,
    path: str | os.PathLike[str],
    source: str = "timm",
    *,
    new_head: bool = False,
    params: str = "ema",
    image_size: int | tuple[int, int] | None = None,
    resize: Resize = "bilinear",
    **settings: Any,
) -> dict[str, Any]:
    """Reads a published weights file into the variables of one of our models.

    Args:
      model_name: a name of `list_models`, such as "efficientnet_v2_s".
      path: the file; see `importers.files.open_tensors` for what may be read.
      source: whose names it uses: "timm", "automl", "keras" or "maxvit".
      new_head: leave out the classifier, whatever size the file's has.
      params: "ema" for averaged copies where the file keeps them beside, or "raw".
      image_size: side, or height and width, of the images to use the weights on, for networks whose weights
        depend on it (CoAtNet); by default as in the file.
      resize: how to interpolate for that size, see `nn.relative_tables.resize_table`.
      **settings: of the model, as `create_model` takes them; `num_classes` above all.

    Returns:
      `{"params": ..., "batch_stats": ...}` of NumPy arrays, for `module.apply`.

    Raises:
      UserError: no such model, source or file; a tensor is missing, unknown or of another shape.
      DamagedDataError: the file is damaged.

    """
    model = create_model(model_name, **_settings(model_name, source, settings))
    filled, _ = read(model, path, source, new_head=new_head, params=params)
    return unflatten(at_size(model, filled.leaves, image_size, resize))


def read(
    model: nn.Module,
    path: str | os.PathLike[str],
    source: str,
    *,
    new_head: bool = False,
    params: str = "ema",
    specs: Mapping[str, jax.ShapeDtypeStruct] | None = None,
) -> tuple[Filled, tuple[pathlib.Path, ...]]:
    """What `load` does, for a model at hand: leaves with their origins, and the files they were in.

    Shapes are those for colour images unless given as `specs`; tables of relative biases are as in the file.
    """
    names = names_of(model, source)
    with open_tensors(pathlib.Path(path)) as tensors:
        wanted = names.abstract_variables(model, tensors.shapes)
        if specs is not None:
            wanted = {name: wanted[name] if is_table(name) else spec for name, spec in specs.items()}
        table = names.SOURCES[source](model, wanted, tensors.shapes, params)
        return fill(wanted, table, tensors, new_head=new_head), tensors.files


def names_of(model: nn.Module, source: str) -> ModuleType:
    """The module that knows what a source calls the leaves of a model."""
    family = FAMILIES.get(type(model).__name__)
    if family is None:
        raise UserError(f"{type(model).__name__}: no source of weights is known for models of this family")
    names = importlib.import_module(family)
    if source not in names.SOURCES:
        raise UserError(f"--from: no source {source!r}{nearest(source, names.SOURCES)}")
    return names


def is_table(name: str) -> bool:
    """Whether a leaf holds relative biases, whose number depends on the size of images."""
    return name.endswith("/relative_bias")


def _settings(model_name: str, source: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings of a model, and those in which all networks of the source differ from ours."""
    model = create_model(model_name, **given)
    return merged(names_of(model, source).settings_for(model, source), given)


def at_size(
    model: nn.Module,
    leaves: Mapping[str, np.ndarray],
    image_size: int | tuple[int, int] | None,
    resize: Resize,
) -> dict[str, np.ndarray]:
    """The leaves for images of another size, by flat name."""
    if image_size is None:
        return dict(leaves)
    if not isinstance(model, CoAtNet):
        raise UserError(
            f"--image-size: the weights of {type(model).__name__} serve images of any size; leave it out"
        )
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    moved = transfer_resolution(model, unflatten(leaves), size, resize)
    return {name: np.asarray(leaf) for name, leaf in flatten(moved).items()}


def import_weights(
    model_name: str,
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    source: str = "timm",
    *,
    new_head: bool = False,
    params: str = "ema",
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: Resize = "bilinear",
    overwrite: bool = False,
) -> Report:
    """Writes a folder with `params.safetensors`, for `init_from`, and a record of where it comes from.

    Args:
      model_name: a name of `list_models`.
      path: the weights file.
      output: folder to make, on a disk or in a bucket.
      source: whose names the file uses.
      new_head: leave out the classifier.
      params: "ema" or "raw".
      num_classes: outputs of the file's classifier, where they are not those the model is published with.
      image_size: of the images to use the weights on, as in `load`.
      resize: how to interpolate for that size.
      overwrite: replace an earlier import at `output`.

    Raises:
      UserError: as `load`; or the output exists or cannot be written.
      DamagedDataError: the file is damaged. In either case nothing new is at `output`.

    """
    given = {} if num_classes is None else {"num_classes": num_classes}
    settings = _settings(model_name, source, given)
    model = create_model(model_name, **settings)
    with published(output, overwrite=overwrite) as folder:
        filled, files = read(model, path, source, new_head=new_head, params=params)
        leaves = at_size(model, filled.leaves, image_size, resize)
        save_file(leaves, folder / PARAMS)
        report = report_of(output, model_name, source, filled, leaves)
        pixels = pixels_of(model_name, source, pathlib.Path(path))
        (folder / README).write_text(_readme(report, settings, pixels))
        facts = {
            "format": "weights",
            "model": model_name,
            "settings": settings,
            "image_size": image_size,
            "pixels": pixels and dataclasses.asdict(pixels),
            **origin_facts(source, filled, files),
            "values": report.values,
        }
        write_manifest(folder, facts)
    return report


def report_of(
    output: str | os.PathLike[str],
    model_name: str,
    source: str,
    filled: Filled,
    leaves: Mapping[str, np.ndarray],
) -> Report:
    """What to tell of an import."""
    return Report(
        folder=os.fspath(output),
        model=model_name,
        source=source,
        tensors=len(leaves),
        values=sum(leaf.size for leaf in leaves.values()),
        skipped=filled.skipped,
        ignored=len(filled.ignored),
    )


def origin_facts(source: str, filled: Filled, files: Sequence[pathlib.Path]) -> dict[str, Any]:
    """Where imported arrays come from, to keep beside them."""
    return {
        "source": source,
        "source_files": {file.name: fingerprint(file) for file in files},
        "origins": dict(filled.origins),
        "skipped": list(filled.skipped),
        "ignored": list(filled.ignored),
        "imported_with": versions(),
    }


def _readme(report: Report, settings: Mapping[str, Any], pixels: Pixels | None) -> str:
    overrides = {name: value for name, value in settings.items() if name != "num_classes"}
    change = f"config.model.overrides.update({overrides})\n" if overrides else ""
    skip = f'    "skip": ("^{posixpath.commonpath(report.skipped)}/",),\n' if report.skipped else ""
    return f"""# {report.model} from {report.source}

{report.tensors} arrays ({report.values:,} values) in the order and under the names of offsites_jax:
`params/...` and `batch_stats/...`. `manifest.json` gives the file they were read from, and for each array the
tensor it was there.

{describe(pixels)}

```python
{change}config.init_from = {{
    "path": ".../{PARAMS}",
{skip}}}
```
"""
