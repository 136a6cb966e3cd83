"""Checkpoints: written in the background, restored onto any mesh, and checked bit by bit.

The folder of a run's checkpoints holds::

    1200/                             a complete checkpoint; see `offsites_jax.train.stored`
    1400.orbax-checkpoint-tmp/        one being written, or abandoned by a killed process
    1000.corrupt/                     one found damaged, put aside

Orbax renames a checkpoint when all of it is written, so one named by a bare step is complete. The
manifest of its files follows a moment later. Where a process was killed between the two, the
digests of the leaves alone decide whether it is sound, and the next restore adds the manifest.

Whatever only reads them is in `offsites_jax.train.saved`.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util
from jax.experimental import multihost_utils

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.train import digest, stored
from offsites_jax.train.stored import saved_metrics

CORRUPT = ".corrupt"

SLICE_BYTES = 2**20
"""A replicated array is saved in parts by its devices where each gets at least so many bytes."""

_MESSAGE_BYTES = 1024  # of one process to all others
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: every one that some rule names.

    Attributes:
        last: the newest so many.
        every: those whose step is a multiple of this; 0 for none.
        best: the best one by this metric, such as ``test/accuracy``; empty for none. Checkpoints
            saved without it take no part.
        best_mode: whether the highest or the lowest value is best.

    """

    last: int = 3
    every: int = 0
    best: str = ""
    best_mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        if self.last < 1 or self.every < 0:
            raise UserError(f"checkpoints to keep: last={self.last} must be at least 1, every={self.every} 0")

    def kept(self, metrics: Mapping[int, Mapping[str, float]]) -> set[int]:
        """Of all saved steps, given with their metrics, those that stay."""
        newest = sorted(metrics)[-self.last :]
        regular = [step for step in metrics if self.every and step % self.every == 0]
        best = stored.best_step(metrics, self.best, self.best_mode)
        return {*newest, *regular} | ({best} if best is not None else set())


class Restored(NamedTuple):
    """A restored checkpoint: its step, the state in the form asked for, what the loop noted."""

    step: int
    state: Any
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run: save, restore, keep those worth keeping.

    With several processes, every process makes one and calls the same methods in the same order.

    Args:
        folder: where they live, local or ``gs://``; made if missing.
        keep: which of them stay.
        asynchronous: whether `save` returns once the arrays are copied, and the writing goes on in
            the background.

    Raises:
        UserError: the folder cannot be made.

    """

    def __init__(self, folder: epath.PathLike, keep: Keep = Keep(), *, asynchronous: bool = True):
        self.folder = epath.Path(folder).expanduser().resolve()
        self._keep = keep
        self._asynchronous = asynchronous
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._unfinished: tuple[int, concurrent.futures.Future[None]] | None = None
        logging.getLogger("absl").addFilter(_is_no_traceback_of_orbax)
        logging.getLogger("asyncio").addFilter(_is_no_second_failure_of_orbax)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be made ({stored.reason(error)}); choose another workdir"
            ) from error
        self._open()

    def save(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves a state, once the save before it is complete.

        Args:
            step: number of finished updates; greater than that of any checkpoint here.
            state: a tree of arrays. They may be donated as soon as this returns.
            meta: what else to remember; anything JSON can hold.
            metrics: what `Keep.best` ranks by.

        Raises:
            UserError: the step is not new, or this save or the one before it could not be written
                (a full disk). Checkpoints that were complete stay as they are.

        """
        self.wait()
        step, newest = int(step), self.latest_step()
        if newest is not None and step <= newest:
            raise UserError(
                f"cannot save step {step}: {self.folder} already holds step {newest}; "
                "choose another workdir, or delete the newer checkpoints"
            )
        body = self._body(step, state, meta, metrics or {})
        arrays = {name: leaf for name, leaf in digest.named_leaves(state).items() if leaf.size}
        items = {
            stored.STATE: ocp.args.PyTreeSave(traverse_util.unflatten_dict(arrays, sep="/")),
            stored.META: ocp.args.JsonSave(stored.with_checksum(body)),
        }
        self._metrics[step] = body["metrics"]
        try:
            self._manager.save(step, args=ocp.args.Composite(**items))
        except Exception as error:
            raise self._failure(step, error) from error
        self._unfinished = step, self._worker.submit(self._finish, step)
        if not self._asynchronous:
            self.wait()

    def restore(self, abstract: Any, step: int | None = None) -> Restored | None:
        """Restores the newest sound checkpoint onto the mesh of `abstract`.

        A damaged checkpoint is logged and renamed ``<step>.corrupt``, then the one before is tried.

        Args:
            abstract: the tree of the state, of `jax.ShapeDtypeStruct` with shardings.
            step: restore this one or fail; nothing is renamed.

        Returns:
            The checkpoint, or None where there never was one.

        Raises:
            DamagedDataError: there are checkpoints, but none is sound (or not the one asked for).
            UserError: the checkpoint is of another model: other leaves, shapes or dtypes.

        """
        self.wait()
        if step is not None:
            return self._load(stored.existing_step(self.folder, step), abstract)
        while (newest := _of_first_process(max(stored.saved_steps(self.folder), default=-1))) >= 0:
            try:
                return self._load(newest, abstract)
            except DamagedDataError as damage:
                self._put_aside(newest, damage)
        if _of_first_process(any(CORRUPT in path.name for path in self.folder.iterdir())):
            raise DamagedDataError(
                f"{self.folder}: every checkpoint is damaged (see *{CORRUPT}); put back a sound copy, "
                "or delete them to start from scratch"
            )
        return None

    def all_steps(self) -> list[int]:
        """Steps of all checkpoints, oldest first, the one being written included."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest step, if any."""
        return max(self.all_steps(), default=None)

    def best_step(self) -> int | None:
        """The best step by `Keep.best`, if any has that metric."""
        metrics = {step: self._metrics.get(step, {}) for step in self.all_steps()}
        return stored.best_step(metrics, self._keep.best, self._keep.best_mode)

    def wait(self) -> None:
        """Waits until the save under way is complete.

        Raises:
            UserError: it could not be written.

        """
        if self._unfinished is None:
            return
        (step, future), self._unfinished = self._unfinished, None
        try:
            future.result()
        except Exception as error:
            raise self._failure(step, error) from error

    def close(self) -> None:
        """Waits as `wait` does, and ends the threads."""
        try:
            self.wait()
        finally:
            self._manager.close()
            self._worker.shutdown()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> None:
        self._remove_unfinished()
        self._metrics: dict[int, dict[str, float]] = {}
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Preservation(self._keep, self._metrics),
            lightweight_initialize=True,  # reads nothing inside a checkpoint: it may be damaged
        )
        handlers = {
            stored.STATE: ocp.PyTreeCheckpointHandler(type_handler_registry=_array_handlers()),
            stored.META: ocp.JsonCheckpointHandler(),
        }
        self._manager = _Manager(self.folder, options=options, item_handlers=handlers)
        if self._keep.best:
            for step in self._manager.all_steps():
                self._metrics[step] = saved_metrics(self.folder / str(step))

    def _remove_unfinished(self) -> None:
        """Removes what a save that was cut short left; Orbax would do so in a thread it may not wait for."""
        if jax.process_index() == 0:
            for unfinished in ocp.path.step.tmp_checkpoints(self.folder):
                (self.folder / unfinished).rmtree(missing_ok=True)

    def _body(
        self, step: int, state: Any, meta: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> dict[str, Any]:
        digests = digest.leaf_digests(state)
        body = {
            "format": stored.FORMAT,
            "step": step,
            "meta": meta,
            "metrics": {name: float(value) for name, value in metrics.items()},
            "best": [self._keep.best, self._keep.best_mode],
            "leaves": {
                name: {"dtype": str(leaf.dtype), "shape": leaf.shape, "digest": digests[name]}
                for name, leaf in digest.named_leaves(state).items()
            },
        }
        return json.loads(json.dumps(body))  # as it will be read: tuples are lists, keys strings

    def _finish(self, step: int) -> None:
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            digest.write_manifest(self.folder / str(step))

    def _failure(self, step: int, error: Exception) -> UserError:
        """The error to raise. Makes a new manager: the old one would count the step as saved."""
        if jax.process_count() == 1:  # with more, this process ends and all start again
            with contextlib.suppress(Exception):
                self._manager.close()
            self._open()
        newest = max(stored.saved_steps(self.folder), default=None)
        return UserError(
            f"{self.folder}: cannot write the checkpoint of step {step} ({stored.reason(error)}); the "
            f"newest complete one is of step {newest}. Put this right and run the same command again"
        )

    def _load(self, step: int, abstract: Any) -> Restored:
        checkpoint = self.folder / str(step)
        sealed = bool(_of_first_process((checkpoint / digest.MANIFEST).exists()))
        if sealed:
            _raise_if_files_are_damaged(checkpoint)
        elif not (checkpoint / stored.META).exists():
            raise UserError(f"{checkpoint}: not a checkpoint of this package; choose another workdir")
        body = stored.read_body(checkpoint)
        wanted = digest.named_leaves(abstract)
        stored.check_same_model(checkpoint, body["leaves"], wanted)
        arrays, problem = {}, ""
        try:
            arrays = stored.read_arrays(checkpoint, wanted)
        except stored.READ_ERRORS as error:
            if sealed:  # the files are as they were written: whatever this is, it is no damage
                raise
            problem = f"cannot be read ({stored.reason(error)})"
        if problem := _of_any_process(problem):
            raise stored.damaged(checkpoint, problem)
        stored.check_digests(checkpoint, body["leaves"], arrays)
        if not sealed and jax.process_index() == 0:
            with contextlib.suppress(OSError):  # a folder that can only be read will do
                digest.write_manifest(checkpoint)
        state = jax.tree.unflatten(jax.tree.structure(abstract), list(arrays.values()))
        return Restored(step, state, body["meta"])

    def _put_aside(self, step: int, damage: DamagedDataError) -> None:
        if jax.process_index() == 0:
            aside = _unused(self.folder / f"{step}{CORRUPT}")
            _log.warning("%s; renamed to %s, trying the one before", damage, aside.name)
            (self.folder / str(step)).rename(aside)
        multihost_utils.sync_global_devices("checkpoint put aside")
        self._manager.close()
        self._open()


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which saves what it is told to and leaves preemptions to the loop."""

    def reached_preemption(self, step: int) -> bool:
        """Never. Else Orbax 0.12 subtracts times with and without a zone, which fails the save."""
        del step
        return False


def _array_handlers() -> ocp.type_handlers.TypeHandlerRegistry:
    """Handlers by which only large replicated arrays are cut up, for each device to save a part.

    Orbax would cut all of them, by one computation for each array and device while training waits.
    """
    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SLICE_BYTES)
    return ocp.type_handlers.create_type_handler_registry(
        (jax.Array, arrays), (np.ndarray, ocp.type_handlers.NumpyHandler())
    )


@dataclasses.dataclass(frozen=True)
class _Preservation:
    """`Keep`, as Orbax asks for it; ranked by our metrics, since Orbax trusts damaged files."""

    keep: Keep
    metrics: Mapping[int, Mapping[str, float]]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        kept = self.keep.kept({saved.step: self.metrics.get(saved.step, {}) for saved in checkpoints})
        return [saved.step in kept for saved in checkpoints]


def _raise_if_files_are_damaged(checkpoint: epath.Path) -> None:
    """Checks the files against the manifest; the processes share the work and the verdict."""
    damaged = digest.damaged_files(checkpoint, jax.process_index(), jax.process_count())
    found = [f"file {name} {why}" for name, why in damaged.items()]
    if verdict := _of_any_process(found[0] if found else ""):
        raise stored.damaged(checkpoint, verdict)


def _unused(path: epath.Path) -> epath.Path:
    names = [path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000))]
    return next(name for name in names if not name.exists())


def _of_first_process(value: int) -> int:
    """What the first process says: a folder may look different from elsewhere."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def _of_any_process(message: str) -> str:
    """The first message that is not empty, among those of all processes."""
    mine = np.frombuffer(message.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
    rows = np.reshape(multihost_utils.process_allgather(mine), (-1, _MESSAGE_BYTES))
    messages = [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]
    return next((text for text in messages if text), "")


def _is_no_traceback_of_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs an error in every thread it passes through, and then raises it."""
    return not (record.exc_info and "orbax" in record.pathname)


def _is_no_second_failure_of_orbax(record: logging.LogRecord) -> bool:
    """Orbax raises the first failure among the arrays of a checkpoint; asyncio reports the others."""
    message = record.getMessage()
    return not ("was never retrieved" in message and "OCDBT" in message)
