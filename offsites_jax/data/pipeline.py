"""From records to batches, where the position is the step.

Training reads an endless sequence of positions. Position p belongs to epoch p // N; the seed and
the epoch shuffle the N records (unless they come in an order of their own), and seed and p alone
drive the random augmentation. Batch k of size B holds positions kB ... (k+1)B - 1; of P shards,
shard s reads the s-th run of B / P of them. So batch k is the same, row for row and pixel for
pixel, for every number of processes, workers and threads, and going on from step k needs nothing
but k.

Augmentation that mixes rows (mixup, cutmix) has no place here, since a process sees only its own
rows: do it inside the jitted step on the global batch, where it is the same on any mesh.
"""

import atexit
import dataclasses
import functools
import gc
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import grain
import numpy as np
from absl import flags

from offsites_jax.data.source import RandomAccess, Record, describe
from offsites_jax.errors import DamagedDataError, UserError

Example = dict[str, np.ndarray]
Batch = dict[str, np.ndarray]
Transform = Callable[[Record, np.random.Generator | None], Example]
Item = TypeVar("Item")

_BAD_RECORD = "_bad_record"  # per row: index of the damaged record it stands in for, -1 for none
_MAX_DAMAGED_IN_A_ROW = 100

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """What a project hands the trainer: where records are and how one becomes an example.

    Attributes:
        source: Random access to the records.
        transform: Turns a record into arrays, of the same shapes and dtypes for every record. It
            gets a generator to draw augmentation from, or None at evaluation, and raises
            DamagedDataError for a record it cannot decode. With worker processes it is pickled.
        ordered: Whether training reads the records as they stand, epoch after epoch, instead of
            shuffled: for a source whose index already says what a row of a step is.

    """

    source: RandomAccess
    transform: Transform
    ordered: bool = False


@dataclasses.dataclass(frozen=True)
class Loading:
    """How records are loaded: the part of a data section that is the same for every project.

    None of them changes what a batch holds, except that "skip" replaces damaged records.

    Attributes:
        num_workers: Worker processes that decode and augment; 0 uses threads of this process, which
            is enough where decoding leaves the interpreter lock (Pillow, NumPy do).
        num_threads: Threads that load the rows of a batch, in this process or in each worker.
        prefetch: Batches kept ready ahead of use, in this process and in each worker.
        on_bad_record: "raise" stops at a damaged record and names it; "skip" logs it, counts it and
            takes the next good one (at evaluation: masks the row).

    """

    num_workers: int = 0
    num_threads: int = 8
    prefetch: int = 2
    on_bad_record: str = "raise"

    def __post_init__(self) -> None:
        least = {"num_workers": 0, "num_threads": 1, "prefetch": 1}
        for field, bound in least.items():
            if getattr(self, field) < bound:
                raise UserError(f"data loading: {field} is {getattr(self, field)}; use at least {bound}")
        if self.on_bad_record not in ("raise", "skip"):
            raise UserError(f'data loading: on_bad_record is {self.on_bad_record!r}; use "raise" or "skip"')


class Batches(Iterator[Batch]):
    """Iterator over this shard's batches; close it to end its threads and worker processes.

    It closes itself after the last batch and on an error.

    Attributes:
        skipped: Rows so far whose record was damaged and replaced or masked.

    """

    def __init__(self, blocks: "_TrainBlocks | _EvalBlocks", chosen: slice, loading: Loading) -> None:
        self.skipped = 0
        self._blocks = blocks
        self._source = blocks.loader.pipeline.source
        self._named: set[int] = set()
        self._iterator: Iterator[Batch] = _iterate(grain.MapDataset.source(blocks)[chosen], loading)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        try:
            batch = next(self._iterator)
        except BaseException:
            self.close()
            raise
        bad_records = batch.pop(_BAD_RECORD)
        self._count_skipped(bad_records[bad_records >= 0].tolist())
        return batch

    def close(self) -> None:
        """End the threads and worker processes; harmless when repeated."""
        iterator, self._iterator = self._iterator, iter(())  # its buffers are shared memory: let go
        if isinstance(iterator, grain.DatasetIterator):
            iterator.close()
        self._blocks.threads.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _count_skipped(self, indices: list[int]) -> None:
        self.skipped += len(indices)
        for index in set(indices) - self._named:
            self._named.add(index)
            logger.warning("damaged record skipped: %s", describe(self._source, index))


def train_batches(
    pipeline: Pipeline,
    *,
    batch_size: int,
    seed: int,
    step: int,
    shard: tuple[int, int],
    loading: Loading,
) -> Batches:
    """Iterate without end over one shard's rows of the batches from step `step` on.

    Args:
        pipeline: Source and transform.
        batch_size: Rows of the global batch.
        seed: Decides order and augmentation.
        step: The first batch is the one of this step, reached at once.
        shard: (index, count): this process's share of the rows, and of how many.
        loading: Threads, workers and what to do with damaged records.

    Returns:
        Batches of `batch_size / count` rows; shard s holds the s-th run of rows of each batch.

    Raises:
        UserError: The source is empty, or `count` does not divide the batch size.
        DamagedDataError: On reading, for a damaged record with `on_bad_record="raise"`.

    """
    _check_shards(batch_size, shard)
    index, count = shard
    blocks = _train_blocks(pipeline, batch_size // count, seed, loading)
    return Batches(blocks, slice(step * count + index, None, count), loading)


def eval_batches(pipeline: Pipeline, *, batch_size: int, shard: tuple[int, int], loading: Loading) -> Batches:
    """Iterate once over one shard's rows of the whole source, in order.

    Every shard yields ceil(N / batch_size) batches of equal shape. The field "mask" (float32, one
    value a row) is 1 for records and 0 for the rows that pad the last batch, which repeat a record
    so that they are harmless to compute on. Damaged records are masked with "skip".

    Args, returns and errors are those of `train_batches`; the transform gets no generator.
    """
    _check_shards(batch_size, shard)
    index, count = shard
    loader = _Loader(pipeline, loading.on_bad_record)
    steps = math.ceil(loader.num_records / batch_size)
    blocks = _EvalBlocks(loader, batch_size // count, steps * count, _Threads(loading.num_threads))
    # Until a worker has started, this process has loaded some batches itself.
    workers = min(loading.num_workers, steps // 4)
    loading = dataclasses.replace(loading, num_workers=workers)
    return Batches(blocks, slice(index, None, count), loading)


def global_batch(
    pipeline: Pipeline, *, batch_size: int, seed: int, step: int, loading: Loading | None = None
) -> Batch:
    """Return exactly the batch that training uses at step `step`, all shards together."""
    loading = loading or Loading()
    blocks = _train_blocks(pipeline, batch_size, seed, loading)
    try:
        batch = blocks[step]
    finally:
        blocks.threads.close()
    return {name: rows for name, rows in batch.items() if name != _BAD_RECORD}


@dataclasses.dataclass(frozen=True)
class _Loader:
    """Makes the example of a source index, and decides what becomes of a damaged record."""

    pipeline: Pipeline
    on_bad_record: str

    def __post_init__(self) -> None:
        if not self.num_records:
            raise UserError("the data source has no records; check its path and split")

    @property
    def num_records(self) -> int:
        return len(self.pipeline.source)

    def __call__(self, index: int, rng: np.random.Generator | None) -> Example:
        tries = min(self.num_records, _MAX_DAMAGED_IN_A_ROW) if self.on_bad_record == "skip" else 1
        for candidate in range(index, index + tries):
            try:
                example = self._example(candidate % self.num_records, rng)
            except DamagedDataError as error:
                damage = error
                continue
            stands_in_for = index if candidate > index else -1
            return {**example, _BAD_RECORD: np.asarray(stands_in_for, np.int64)}
        if self.on_bad_record == "raise":
            advice = 'repair or remove it, or load data with on_bad_record="skip"'
        else:
            advice = f"it is the last of {tries} damaged ones in a row: check the data's location"
        raise DamagedDataError(f"{damage}; {advice}") from damage

    def _example(self, index: int, rng: np.random.Generator | None) -> Example:
        source = self.pipeline.source
        try:
            return self.pipeline.transform(source[index], rng)
        except DamagedDataError as error:
            raise DamagedDataError(f"{describe(source, index)}: {error}") from error
        except Exception as error:
            error.add_note(f"while making an example of {describe(source, index)}")
            raise


class _Threads:
    """A thread pool that can be pickled: the copy starts threads of its own."""

    def __init__(self, number: int):
        self._number = number
        self._pool = ThreadPoolExecutor(number, thread_name_prefix="load-rows")

    def __reduce__(self) -> tuple[type["_Threads"], tuple[int]]:
        return _Threads, (self._number,)

    def map(self, function: Callable[[Item], Example], items: Iterable[Item]) -> list[Example]:
        """Apply `function` to every item; of several errors the first item's is raised."""
        items = list(items)
        size = -(-len(items) // self._number)  # one task a thread: handing over a task costs as much as a row
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        done = self._pool.map(lambda chunk: [function(item) for item in chunk], chunks)
        return [example for examples in done for example in examples]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True)
class _TrainBlocks:
    """Block b stacks the rows at positions `b * rows` ... `(b + 1) * rows - 1`."""

    loader: _Loader
    order: grain.MapDataset  # position -> index in the source
    seed: int
    rows: int
    threads: _Threads

    def __len__(self) -> int:
        return sys.maxsize // self.rows

    def __getitem__(self, block: int) -> Batch:
        positions = range(block * self.rows, (block + 1) * self.rows)
        numbered = [(position, int(self.order[position])) for position in positions]
        return _stack(self.threads.map(self._row, numbered))

    def _row(self, numbered: tuple[int, int]) -> Example:
        position, index = numbered
        rng = np.random.Generator(np.random.Philox(key=[self.seed, position]))
        return self.loader(index, rng)


@dataclasses.dataclass(frozen=True)
class _EvalBlocks:
    """Block b stacks records `b * rows` ... in order, padded and masked after the last one."""

    loader: _Loader
    rows: int
    blocks: int
    threads: _Threads

    def __len__(self) -> int:
        return self.blocks

    def __getitem__(self, block: int) -> Batch:
        positions = np.arange(block * self.rows, (block + 1) * self.rows)
        real = positions < self.loader.num_records
        indices = positions[real].tolist() or [0]  # an all-padding block needs a row to repeat
        examples = self.threads.map(lambda index: self.loader(index, None), indices)
        batch = _stack(examples + examples[-1:] * (self.rows - len(examples)))
        if "mask" in batch:
            raise UserError('the field name "mask" is taken at evaluation; rename the example\'s')
        batch[_BAD_RECORD] = np.where(real, batch[_BAD_RECORD], -1)
        batch["mask"] = (real & (batch[_BAD_RECORD] < 0)).astype(np.float32)
        return batch


def _train_blocks(pipeline: Pipeline, rows: int, seed: int, loading: Loading) -> _TrainBlocks:
    loader = _Loader(pipeline, loading.on_bad_record)
    records = grain.MapDataset.range(loader.num_records)
    order = records if pipeline.ordered else records.seed(seed).shuffle()
    return _TrainBlocks(loader, order.repeat(None), seed, rows, _Threads(loading.num_threads))


def _check_shards(batch_size: int, shard: tuple[int, int]) -> None:
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard {index} of {count} does not exist")
    if batch_size < 1 or batch_size % count:
        raise UserError(
            f"train.batch_size {batch_size} cannot be split over {count} data shards; "
            f"use a multiple of {count}"
        )


def _iterate(blocks: grain.MapDataset, loading: Loading) -> grain.DatasetIterator:
    # Two blocks at a time where allowed: threads have work while the last rows of a block finish.
    at_a_time = min(2, loading.prefetch)
    reading = grain.ReadOptions(num_threads=at_a_time, prefetch_buffer_size=loading.prefetch)
    dataset = blocks.to_iter_dataset(reading)
    if loading.num_workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads its debug flags when it starts a worker
        _leave_time_at_exit()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(loading.num_workers, loading.prefetch))
    return iter(dataset)


@functools.cache
def _leave_time_at_exit() -> None:
    """Grain frees what it shared with workers in a thread; Python would report the rest as leaked."""
    atexit.register(time.sleep, 0.5)
    atexit.register(gc.collect)  # the other way round: last in, first out


def _stack(examples: list[Example]) -> Batch:
    """Stack examples field by field; they must agree in fields, shapes and dtypes."""
    fields = examples[0].keys()
    for example in examples:
        if example.keys() != fields:
            raise UserError(
                f"examples of one batch have different fields: {sorted(fields)} and "
                f"{sorted(example)}; let the transform return the same for every record"
            )
    return {field: _stack_field(field, [example[field] for example in examples]) for field in fields}


def _stack_field(field: str, values: list[np.ndarray]) -> np.ndarray:
    arrays = [np.asarray(value) for value in values]
    kinds = sorted({f"{array.dtype}{list(array.shape)}" for array in arrays})
    if len(kinds) > 1:
        raise UserError(
            f"field {field!r} differs between examples of one batch ({', '.join(kinds[:3])}); "
            "let the transform crop, resize or pad to one shape and dtype"
        )
    return np.stack(arrays)
