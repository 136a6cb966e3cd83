"""One-class images: the pipelines that training, evaluation and prediction read.

An example is `image` uint8 [size, size, 3], `label` int32 (0 normal, 1 anomalous, -1 unknown) and `index`
int32, its position in the split. Splits with masks add `defect` uint8 [size, size], 1 where something is
wrong; training with `data.copies` above 1 adds `copy` int32.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from offsites_jax.data.files import FilesSource
from offsites_jax.data.pipeline import Example, Pipeline
from offsites_jax.data.source import RandomAccess, describe
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.one_class.data_config import DataConfig
from offsites_jax.projects.one_class.readers.records import Copies, PhotoSource
from offsites_jax.projects.one_class.readers.sources import create_source
from offsites_jax.projects.one_class.readers.textures import TILE
from offsites_jax.projects.one_class.stacking.data import MemberBatches, stacked_pipeline
from offsites_jax.projects.one_class.views.transforms import prepare, view_of
from offsites_jax.train.config import Experiment

__all__ = [
    "BadRecord",
    "DataConfig",
    "create_input_pipeline",
    "create_pipeline",
    "create_source",
    "read_all",
    "screen",
    "split_pipeline",
]


class BadRecord(NamedTuple):
    """A record that was left out.

    Attributes:
      name: of the file, with its folder.
      position: in the split.
      reason: why.

    """

    name: str
    position: int
    reason: str


def create_pipeline(experiment: Experiment, split: str, train: bool) -> Pipeline:
    """The pipeline of one split; nothing in it is random. Of a stack, that of all its members.

    Raises:
      UserError: there is no such split or class, or the data is not as it has to be.
    """
    config, stack = experiment.data, experiment.task.stack
    if not stack.categories:
        return split_pipeline(config, split, train)
    if not train:
        raise UserError(f"split {split!r}: a stack is only trained; each of its cells is scored by itself")
    pipelines = {
        category: split_pipeline(dataclasses.replace(config, category=category), split, train)
        for category in dict.fromkeys(stack.categories)
    }
    members = stack.members(experiment.train.batch_size)
    return stacked_pipeline(MemberBatches(pipelines, members, stack.images, experiment.train.steps))


def create_input_pipeline(experiment: Experiment, paths: Sequence[str]) -> Pipeline:
    """The pipeline of image files a user names, for `offsites predict`."""
    config: DataConfig = experiment.data
    transform = functools.partial(prepare, view=view_of(config.source), size=config.image_size)
    return Pipeline(FilesSource(paths), transform)


def split_pipeline(config: DataConfig, split: str, train: bool = False) -> Pipeline:
    """As `create_pipeline`, from the section alone.

    Photos are decoded once and kept at the model's size, unless `cache` is off.
    """
    source: RandomAccess = create_source(config, split)
    size = TILE if (config.source, split) == ("textures", "tiles") else config.image_size
    transform: Callable[..., Example] = functools.partial(prepare, view=view_of(config.source), size=size)
    if config.cache and isinstance(source, PhotoSource):
        source, transform = _Remembered(source, transform), _as_is
    if train and config.copies > 1:
        source = Copies(source, config.copies)
    return Pipeline(source, transform)


def read_all(pipeline: Pipeline, threads: int = 8) -> dict[str, np.ndarray]:
    """Every example of a split in memory, stacked by field.

    Raises:
      UserError: there are none.
      DamagedDataError: a record cannot be read; the message names it.

    """
    if not len(pipeline.source):
        raise UserError("the split has no images; check config.data.path and category")
    with ThreadPoolExecutor(threads) as pool:
        examples = list(pool.map(functools.partial(_example, pipeline), range(len(pipeline.source))))
    return {field: np.stack([example[field] for example in examples]) for field in examples[0]}


def screen(pipeline: Pipeline, threads: int = 8) -> tuple[Pipeline, tuple[BadRecord, ...]]:
    """Reads every record once, and leaves out those that cannot be read.

    Returns:
      A pipeline of the others, whose `index` still is the position in the split; and what was left out.

    Raises:
      UserError: none is left.

    """
    number = len(pipeline.source)
    with ThreadPoolExecutor(threads) as pool:
        found = [bad for bad in pool.map(functools.partial(_bad, pipeline), range(number)) if bad]
    left_out = {bad.position for bad in found}
    kept = [index for index in range(number) if index not in left_out]
    if not kept:
        raise UserError(f"none of {number} images can be read; the first: {found[0].name}: {found[0].reason}")
    return dataclasses.replace(pipeline, source=_Some(pipeline.source, kept)), tuple(found)


class _Remembered:
    """The examples of a source, each made when first asked for."""

    def __init__(self, source: RandomAccess, transform: Callable[..., Example]) -> None:
        self._source, self._transform = source, transform
        self._examples: list[Example | None] = [None] * len(source)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Remembered, (self._source, self._transform)  # a worker process remembers its own

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        example = self._examples[index]
        if example is None:
            example = self._examples[index] = self._transform(self._source[index])
        return example

    def describe(self, index: int) -> str:
        return describe(self._source, index)

    def fingerprint(self) -> str:
        return self._source.fingerprint()


class _Some:
    """Some of the records of a source."""

    def __init__(self, source: RandomAccess, kept: Sequence[int]) -> None:
        self._source, self._kept = source, kept

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Any:
        return self._source[self._kept[index]]

    def describe(self, index: int) -> str:
        return describe(self._source, self._kept[index])

    def fingerprint(self) -> str:
        left_out = sorted(set(range(len(self._source))) - set(self._kept))
        return f"{self._source.fingerprint()} without {left_out}"


def _as_is(record: Example, rng: np.random.Generator | None = None) -> Example:
    return record


def _example(pipeline: Pipeline, index: int) -> Example:
    try:
        return pipeline.transform(pipeline.source[index], None)
    except DamagedDataError as error:
        raise DamagedDataError(f"{describe(pipeline.source, index)}: {error}") from error


def _bad(pipeline: Pipeline, index: int) -> BadRecord | None:
    try:
        pipeline.transform(pipeline.source[index], None)
    except DamagedDataError as error:
        return BadRecord(describe(pipeline.source, index), index, str(error))
    return None
