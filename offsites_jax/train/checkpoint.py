"""Checkpoints: written in the background, restored onto any mesh, and checked bit by bit.

On disk, in the folder of a run's checkpoints::

    1200/state/...          the arrays, in Orbax's own format
    1200/meta/metadata      JSON: what the loop wants to remember, and a digest of every array
    1200/MANIFEST.sha256    checksum of every file
    1000.corrupt/           a checkpoint found damaged, put aside

A folder named by a bare step is complete: Orbax renames it when everything is written. The manifest
follows a moment later. Where a process was killed between the two, the digests inside ``meta``
alone decide whether the checkpoint is sound, and the next restore adds the manifest.

This is the only module that imports Orbax; `offsites_jax.train.saved` reads what is written here.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util
from jax.experimental import multihost_utils

from offsites_jax import errors
from offsites_jax.train import digest

_FORMAT = 1
_STATE, _META, _CORRUPT = "state", "meta", ".corrupt"
_MESSAGE_BYTES = 1024  # of one process to all others
_READ_BYTES = 2**30  # host memory for arrays that are read only to be looked at
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: every one that some rule names.

    Attributes:
        last: the newest so many.
        every: those whose step is a multiple of this; 0 for none.
        best: the best one by this metric (such as ``test/accuracy``); empty for none. Checkpoints
            saved without the metric, or with NaN, take no part.
        best_mode: whether ``max`` or ``min`` is best.

    """

    last: int = 3
    every: int = 0
    best: str = ""
    best_mode: str = "max"

    def __post_init__(self) -> None:
        if self.last < 1 or self.every < 0 or self.best_mode not in ("max", "min"):
            raise errors.UserError(
                f"impossible checkpoint policy {self}: last must be at least 1, every at least 0, "
                "best_mode 'max' or 'min'"
            )

    def kept(self, metrics: Mapping[int, Mapping[str, float]]) -> set[int]:
        """Of all saved steps, given with their metrics, those that stay."""
        newest = sorted(metrics)[-self.last :]
        regular = [step for step in metrics if self.every and step % self.every == 0]
        best = self.best_step(metrics)
        return {*newest, *regular} | ({best} if best is not None else set())

    def best_step(self, metrics: Mapping[int, Mapping[str, float]]) -> int | None:
        """The step with the best metric, the newest of equals; None where none has the metric."""
        sign = 1 if self.best_mode == "max" else -1
        values = {step: sign * of.get(self.best, math.nan) for step, of in metrics.items()}
        ranked = [step for step, value in values.items() if not math.isnan(value)]
        return max(ranked, key=lambda step: (values[step], step), default=None)


class Restored(NamedTuple):
    """A restored checkpoint: its step, the state in the form asked for, what the loop noted."""

    step: int
    state: Any
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run: save, restore, keep those worth keeping.

    With several processes, every process makes one and calls the same methods in the same order.

    Args:
        directory: where they live (local or ``gs://``); made if missing.
        keep: which of them stay; by default the last three.
        asynchronous: whether `save` returns once the arrays are copied and lets the writing go on
            in the background.

    Raises:
        UserError: the directory cannot be made.

    """

    def __init__(self, directory: epath.PathLike, keep: Keep | None = None, *, asynchronous: bool = True):
        self.directory = epath.Path(directory).resolve()
        self._keep = keep or Keep()
        self._asynchronous = asynchronous
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._unfinished: tuple[int, concurrent.futures.Future[None]] | None = None
        logging.getLogger("absl").addFilter(_is_no_traceback_of_orbax)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise errors.UserError(
                f"cannot make the checkpoint folder {self.directory} ({reason(error)}); "
                "choose another workdir"
            ) from error
        self._open()

    def save(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves a state, after waiting for the save before it.

        Args:
            step: number of finished training steps; greater than that of any checkpoint here.
            state: a tree of arrays. They may be donated as soon as this returns.
            meta: what else to remember; anything JSON can hold.
            metrics: what `Keep.best` ranks.

        Raises:
            UserError: the step is not new, or this save or the one before it could not be written
                (a full disk); checkpoints that were complete stay as they are.

        """
        self.wait()
        newest = self.latest_step()
        if newest is not None and step <= newest:
            raise errors.UserError(
                f"cannot save step {step}: {self.directory} already holds step {newest}; "
                "use a new workdir, or delete the newer checkpoints"
            )
        body = self._body(step, state, meta, metrics or {})
        arrays = {name: leaf for name, leaf in digest.named_leaves(state).items() if leaf.size}
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(traverse_util.unflatten_dict(arrays, sep="/")),
            meta=ocp.args.JsonSave({"sha256": _checksum(body), "body": body}),
        )
        self._metrics[step] = body["metrics"]
        try:
            self._manager.save(step, args=items)
        except Exception as error:
            raise self._failure(step, error) from error
        self._unfinished = step, self._worker.submit(self._finish, step)
        if not self._asynchronous:
            self.wait()

    def restore(self, abstract: Any, step: int | None = None) -> Restored | None:
        """Restores the newest sound checkpoint onto the mesh of `abstract`.

        A damaged checkpoint is logged, renamed ``<step>.corrupt``, and the one before it is tried.

        Args:
            abstract: the tree of the state, of `jax.ShapeDtypeStruct` with shardings.
            step: restore this one or fail, renaming nothing.

        Returns:
            The checkpoint, or None where there never was one.

        Raises:
            DamagedDataError: there are checkpoints, but none is sound (or not the one asked for).
            UserError: the checkpoint is of another model: other leaves, shapes or dtypes.

        """
        self.wait()
        if step is not None:
            return self._load(existing_step(self.directory, step), abstract)
        while (newest := _of_first_process(max(saved_steps(self.directory), default=-1))) >= 0:
            try:
                return self._load(newest, abstract)
            except errors.DamagedDataError as damage:
                self._put_aside(newest, damage)
        if _of_first_process(any(_CORRUPT in path.name for path in self.directory.iterdir())):
            raise errors.DamagedDataError(
                f"every checkpoint in {self.directory} is damaged (see *{_CORRUPT}); put back a "
                "sound copy, or delete them to start from scratch"
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
        return self._keep.best_step({step: self._metrics[step] for step in self.all_steps()})

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
        """Waits as `wait` does, then ends the threads."""
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
        self._metrics: dict[int, dict[str, float]] = {}
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Preservation(self._keep, self._metrics),
            cleanup_tmp_directories=True,
            lightweight_initialize=True,  # reads nothing inside a step: it may be damaged
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        for step in self._manager.all_steps():
            self._metrics[step] = saved_metrics(self.directory / str(step))

    def _body(
        self, step: int, state: Any, meta: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> dict[str, Any]:
        digests = digest.leaf_digests(state)
        body = {
            "format": _FORMAT,
            "step": int(step),
            "meta": meta,
            "metrics": {name: float(value) for name, value in metrics.items()},
            "best": [self._keep.best, self._keep.best_mode],
            "leaves": {
                name: {"dtype": str(leaf.dtype), "shape": leaf.shape, "digest": digests[name]}
                for name, leaf in digest.named_leaves(state).items()
            },
        }
        return json.loads(json.dumps(body))  # as it will be read: lists, keys that are strings

    def _finish(self, step: int) -> None:
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            digest.write_manifest(self.directory / str(step))

    def _failure(self, step: int, error: Exception) -> errors.UserError:
        """The error to raise; makes a new manager, since the old one counts the step as saved."""
        if jax.process_count() == 1:  # to make one takes all processes, and others may be well
            with contextlib.suppress(Exception):
                self._manager.close()
            self._open()
        newest = max(saved_steps(self.directory), default=None)
        return errors.UserError(
            f"could not write checkpoint {step} to {self.directory}: {reason(error)}; the newest "
            f"complete one is {newest}; put this right and start the same command again"
        )

    def _load(self, step: int, abstract: Any) -> Restored:
        folder = self.directory / str(step)
        _raise_if_damaged(folder)
        body = read_body(folder)
        leaves, treedef = digest.named_leaves(abstract), jax.tree.structure(abstract)
        check_same_model(folder, body["leaves"], leaves)
        arrays = read_arrays(folder, leaves)
        check_digests(folder, body["leaves"], arrays)
        return Restored(step, treedef.unflatten(arrays.values()), body["meta"])

    def _put_aside(self, step: int, damage: errors.DamagedDataError) -> None:
        if jax.process_index() == 0:
            aside = _unused_name(self.directory / f"{step}{_CORRUPT}")
            _log.warning("%s; renaming it to %s, trying the one before it", damage, aside.name)
            (self.directory / str(step)).rename(aside)
        multihost_utils.sync_global_devices("checkpoint put aside")
        self._manager.close()
        self._open()


@dataclasses.dataclass(frozen=True)
class _Preservation:
    """`Keep` in the form Orbax asks for. The metrics are ours: Orbax would trust damaged files."""

    keep: Keep
    metrics: Mapping[int, Mapping[str, float]]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        kept = self.keep.kept({saved.step: self.metrics[saved.step] for saved in checkpoints})
        return [saved.step in kept for saved in checkpoints]


# What is inside a folder of checkpoints, and inside one of them


def saved_steps(directory: epath.Path) -> list[int]:
    """Steps of the complete checkpoints in a folder, oldest first."""
    names = ocp.path.step.standard_name_format()
    return sorted(found.step for found in names.find_all(directory))


def existing_step(directory: epath.Path, step: int) -> int:
    """The step itself, if its checkpoint is there; else a UserError that lists those that are."""
    steps = saved_steps(directory)
    if step not in steps:
        raise errors.UserError(f"no checkpoint of step {step} in {directory}; it has {steps}")
    return step


def read_body(folder: epath.Path) -> dict[str, Any]:
    """The JSON beside the arrays: step, meta, metrics, and dtype, shape and digest of each leaf.

    Raises:
        DamagedDataError: it is missing, or does not match its own checksum.
        UserError: a newer version of this package has written it.

    """
    try:
        content = json.loads((folder / _META / "metadata").read_text())
        body, checksum = content["body"], content["sha256"]
    except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
        raise _damaged(folder, f"{_META} cannot be read ({reason(error)})") from error
    if checksum != _checksum(body):
        raise _damaged(folder, f"{_META} does not match its checksum")
    if body["format"] > _FORMAT:
        raise errors.UserError(f"checkpoint {folder} was written by a newer version; update")
    return body


def saved_metrics(folder: epath.Path) -> dict[str, float]:
    """Metrics noted when the checkpoint was saved; none if it had none or cannot be read."""
    try:
        return read_body(folder)["metrics"]
    except errors.OffsitesError:
        return {}


def read_arrays(folder: epath.Path, wanted: Mapping[str, jax.ShapeDtypeStruct | None]) -> dict[str, Any]:
    """Reads the leaves asked for, and nothing else, without checking their digests.

    Args:
        folder: one checkpoint.
        wanted: leaves by name. One with a sharding becomes a `jax.Array` of that sharding, any
            other a numpy array (of a random key: its data).

    Returns:
        The arrays in the order of `wanted`.

    Raises:
        DamagedDataError: a leaf is not in the files, although the rest of them can be read.

    """
    empty = {name: leaf for name, leaf in wanted.items() if leaf and math.prod(leaf.shape) == 0}
    asked = {name: _restore_args(leaf) for name, leaf in wanted.items() if name not in empty}
    args = traverse_util.unflatten_dict(asked, sep="/")
    restored = ocp.PyTreeCheckpointHandler().restore(
        folder / _STATE,
        args=ocp.args.PyTreeRestore(jax.tree.map(lambda _: 0, args), restore_args=args, partial_restore=True),
    )
    arrays = traverse_util.flatten_dict(restored, sep="/")
    arrays |= {name: _empty(leaf) for name, leaf in empty.items()}
    for name in wanted:  # Orbax leaves what it was given where it finds nothing
        if not isinstance(arrays[name], jax.Array | np.ndarray):
            raise _damaged(folder, f"leaf {name} is not in the files")
    return {name: arrays[name] for name in wanted}


def damaged_leaves(folder: epath.Path, leaves: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Reads leaves, as `read_body` describes them, and yields those that differ, with the reason.

    Needs no mesh, and host memory for about 1 GiB of arrays at a time.
    """
    for names in _groups(leaves):
        try:
            arrays = read_arrays(folder, dict.fromkeys(names))
        except (ValueError, KeyError, FileNotFoundError, errors.DamagedDataError) as error:
            if len(names) == 1:
                yield names[0], f"cannot be read ({reason(error)})"
            else:  # which one is it?
                for name in names:
                    yield from damaged_leaves(folder, {name: leaves[name]})
            continue
        for name, found in digest.leaf_digests(arrays).items():
            if found != leaves[name]["digest"]:
                yield name, "does not match its digest"


def check_same_model(folder: epath.Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises a UserError that names the first leaves in which checkpoint and model differ."""
    ours = {name: _described(leaf.dtype, leaf.shape) for name, leaf in wanted.items()}
    theirs = {name: _described(leaf["dtype"], leaf["shape"]) for name, leaf in saved.items()}
    differing = [
        f"{name} is {theirs.get(name, 'missing')} there, {ours.get(name, 'missing')} in the model"
        for name in [*theirs, *(ours.keys() - theirs.keys())]
        if theirs.get(name) != ours.get(name)
    ]
    if differing:
        more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
        raise errors.UserError(
            f"checkpoint {folder} is of another model: {'; '.join(differing[:3])}{more}; "
            "use the configuration that wrote it, or another workdir"
        )


def check_digests(folder: epath.Path, saved: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Raises a DamagedDataError that names the first array that is not the one saved."""
    for name, found in digest.leaf_digests(arrays).items():
        if found != saved[name]["digest"]:
            raise _damaged(folder, f"leaf {name} does not match its digest")


def reason(error: BaseException) -> str:
    """The gist of an error in a few words."""
    text = " ".join(str(error).split()) or type(error).__name__
    for gist in ("No space left on device", "Disk quota exceeded", "File too large"):
        if gist in text:
            return gist
    return text[:200]


def _raise_if_damaged(folder: epath.Path) -> None:
    """Checks one checkpoint before it is loaded; the processes share the work and the verdict.

    An error while loading says nothing about the files then (but, say, of too little memory), and
    is no reason to put a checkpoint aside.
    """
    if _of_first_process((folder / digest.MANIFEST).exists()):
        part, parts = jax.process_index(), jax.process_count()
        damage = [f"file {n} {why}" for n, why in digest.damaged_files(folder, part, parts).items()]
    elif not (folder / _META).exists():
        raise errors.UserError(f"{folder} is not a checkpoint of this package; use another workdir")
    else:
        damage = _seal(folder) if jax.process_index() == 0 else []
    if verdict := _of_any_process(damage[0] if damage else ""):
        raise _damaged(folder, verdict)


def _seal(folder: epath.Path) -> list[str]:
    """Adds the manifest that a killed process did not come to write, if all leaves are sound."""
    try:
        damage = dict(damaged_leaves(folder, read_body(folder)["leaves"]))
    except errors.DamagedDataError as error:
        return [str(error)]
    if not damage:
        digest.write_manifest(folder)
    return [f"leaf {name} {why}" for name, why in damage.items()]


def _damaged(folder: epath.Path, what: str) -> errors.DamagedDataError:
    return errors.DamagedDataError(f"checkpoint {folder} is damaged: {what}")


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _described(dtype: Any, shape: Sequence[int]) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def _restore_args(leaf: jax.ShapeDtypeStruct | None) -> ocp.RestoreArgs:
    if leaf is None or leaf.sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(
        restore_type=jax.Array, sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype
    )


def _empty(leaf: jax.ShapeDtypeStruct) -> Any:
    """Orbax refuses to save arrays of no elements; the shape says all about them."""
    if leaf.sharding is None:
        return np.zeros(leaf.shape, leaf.dtype)
    return jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)


def _groups(leaves: Mapping[str, Any]) -> Iterator[list[str]]:
    """Names of leaves that have elements, in groups that fit into memory."""
    group: list[str] = []
    size = 0
    for name, leaf in leaves.items():
        elements = math.prod(leaf["shape"])
        if group and size + 8 * elements > _READ_BYTES:
            yield group
            group, size = [], 0
        if elements:
            group.append(name)
            size += 8 * elements
    if group:
        yield group


def _unused_name(path: epath.Path) -> epath.Path:
    names = [path, *(path.with_name(f"{path.name}-{n}") for n in range(2, 1000))]
    return next(name for name in names if not name.exists())


def _of_first_process(value: int) -> int:
    """The value that the first process has: folders may look different from elsewhere."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def _of_any_process(message: str) -> str:
    """The first message that is not empty, among those of all processes."""
    mine = np.frombuffer(message.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
    rows = np.reshape(multihost_utils.process_allgather(mine), (-1, _MESSAGE_BYTES))
    messages = [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]
    return next((text for text in messages if text), "")


def _is_no_traceback_of_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs an error from every thread it passes, before it raises it. Once is enough."""
    return not (record.exc_info and "orbax" in record.pathname)
