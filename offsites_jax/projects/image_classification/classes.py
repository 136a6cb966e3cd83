"""Names of the classes: from the data set, or from what a run has kept where that is not at hand."""

import contextlib
import csv
import importlib.metadata
import io
import pathlib
import re
from collections.abc import Iterator, Sequence

from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.data.table import listed_classes, open_table
from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification.data_config import DataConfig
from offsites_jax.projects.image_classification.sources import class_names
from offsites_jax.train.config import Experiment
from offsites_jax.train.writers import ARTIFACTS

CLASSES = "classes.txt"
TABLE = "classes"  # of the accuracy of each class, which an evaluation leaves among its artifacts

_IMAGENET = re.compile(r"imagenet(2012|_v2\b)")
_SYNSETS = "tensorflow_datasets/datasets/imagenet2012/labels.txt"

Names = tuple[str, ...]


def known_names(config: DataConfig, split: str, num_classes: int) -> Names | None:
    """Names that the data set has, a `classes.txt` beside its records, or, of ImageNet, the package of TFDS.

    Data that is not at hand, or that has another number of classes, has no names.
    """
    here, split = config.of_split(split)
    for lookup in (class_names, _of_table, _beside, _packaged):
        with contextlib.suppress(UserError):
            names = lookup(here, split)
            if names and len(names) == num_classes:
                return tuple(names)
    return None


def names_of_run(workdir: epath.PathLike, experiment: Experiment) -> Names | None:
    """Names that a run has kept; else those of its training data, which are then kept.

    Kept are `<workdir>/classes.txt`, one a line, which a user may also write, and the tables of evaluations.
    """
    count = experiment.model.num_classes
    kept = _kept(epath.Path(workdir), count)
    if kept:
        return kept
    names = known_names(experiment.data, experiment.data.train_split, count)
    if names:
        with contextlib.suppress(OSError):  # a run may be read by people who must not write there
            write_classes(epath.Path(workdir) / CLASSES, names)
    return names


def write_classes(file: epath.Path, names: Sequence[str]) -> None:
    """Writes names one a line."""
    write_atomically(file, "".join(f"{' '.join(name.split())}\n" for name in names).encode())


def _kept(workdir: epath.Path, count: int) -> Names | None:
    """Names in the workdir, as many as there are classes; a file with another number of them is refused."""
    file = workdir / CLASSES
    if file.exists():
        names = tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
        if len(names) != count:
            raise UserError(f"{file}: has {len(names)} names for {count} classes; write one a line")
        return names
    return next((names for names in map(_of_evaluation, _tables(workdir)) if len(names) == count), None)


def _tables(workdir: epath.Path) -> Iterator[epath.Path]:
    """Tables of evaluations: the latest of each evaluator."""
    folder = workdir / ARTIFACTS
    for evaluator in sorted(folder.iterdir()) if folder.is_dir() else ():
        tables = [file for file in evaluator.glob(f"{TABLE}_*.csv") if file.stem.rpartition("_")[2].isdigit()]
        yield from sorted(tables, key=lambda file: int(file.stem.rpartition("_")[2]))[-1:]


def _of_evaluation(table: epath.Path) -> Names:
    """Names in the table of an evaluation; nothing where it has numbers for want of names."""
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    names = tuple(row.get("name") or "" for row in rows)
    return () if names == tuple(map(str, range(len(rows)))) else names


def _of_table(config: DataConfig, split: str) -> Names | None:
    return open_table(config.path, split).classes if config.source == "table" else None


def _beside(config: DataConfig, split: str) -> Names | None:
    if config.source not in ("tfrecord", "array_record"):
        return None
    return listed_classes(epath.Path(config.path).parent)


def _packaged(config: DataConfig, split: str) -> Names | None:
    """ImageNet's synsets in order of number, from a plain file of the installed tensorflow-datasets."""
    if config.source != "tfds" or not _IMAGENET.match(config.name):
        return None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, OSError):
        file = importlib.metadata.distribution("tensorflow-datasets").locate_file(_SYNSETS)
        return tuple(pathlib.Path(str(file)).read_text().split())
    return None
