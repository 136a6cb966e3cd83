"""Checkpoints: written in the background, restored onto any mesh, and checked bit by bit.

On disk, in the folder of a run's checkpoints::

    1200/state/...          the arrays, in Orbax's own format
    1200/meta/metadata      JSON: what the loop wants to remember, and a digest of every array
    1200/MANIFEST.sha256    checksum of every file
    1000.corrupt/           a checkpoint found damaged, put aside

A folder named by a bare step is complete: Orbax renames it when everything is written. The manifest
follows a moment later. Where a process was killed between the two, the digests inside ``meta``
alone decide whether the checkpoint is sound, and the next restore adds the manifest.

This is the only module that imports Orbax.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util
from jax.experimental import multihost_utils

from offsites_jax import errors
from offsites_jax.train import digest

FOLDER = "checkpoints"
"""Where a workdir keeps its checkpoints; functions that only read take either folder."""

_FORMAT = 1
_STATE, _META, _CORRUPT = "state", "meta", ".corrupt"
_MESSAGE_BYTES = 512
_log = logging.getLogger(__name__)

Step = int | Literal["latest", "best"] | None


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
        return max(((v, step) for step, v in values.items() if not math.isnan(v)), default=(0, None))[1]


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
        asynchronous: whether `save` returns once the arrays are copied (they may be donated then)
            and lets the writing go on in the background.

    Raises:
        UserError: the directory cannot be made.
    """

    def __init__(
        self, directory: epath.PathLike, keep: Keep | None = None, *, asynchronous: bool = True
    ):
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
                f"cannot make the checkpoint folder {self.directory} ({_reason(error)}); "
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
            state: a tree of arrays.
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
            return self._load(choose_step(self.directory, step), abstract)
        while (newest := _from_first_process(max(saved_steps(self.directory), default=-1))) >= 0:
            try:
                return self._load(newest, abstract)
            except errors.DamagedDataError as damage:
                self._put_aside(newest, damage)
        if _from_first_process(_any_put_aside(self.directory)):
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
        """Waits as `wait` does, then frees all threads."""
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
            lightweight_initialize=True,  # reads nothing inside a step, which may be damaged
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        steps = self._manager.all_steps()
        self._metrics.update({step: _saved_metrics(self.directory / str(step)) for step in steps})

    def _body(
        self, step: int, state: Any, meta: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> dict[str, Any]:
        digests = digest.leaf_digests(state)
        body = {
            "format": _FORMAT,
            "step": int(step),
            "meta": meta,
            "metrics": {name: float(value) for name, value in metrics.items()},
            "best": {"metric": self._keep.best, "mode": self._keep.best_mode},
            "leaves": {
                name: {"dtype": str(leaf.dtype), "shape": leaf.shape, "digest": digests[name]}
                for name, leaf in digest.named_leaves(state).items()
            },
        }
        return json.loads(json.dumps(body))  # as it will be read: lists, string keys

    def _finish(self, step: int) -> None:
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            digest.write_manifest(self.directory / str(step))

    def _failure(self, step: int, error: Exception) -> errors.UserError:
        """The error to raise; makes a new manager, as the old one believes the step was saved."""
        if jax.process_count() == 1:  # making one is collective, and the others may be well
            with contextlib.suppress(Exception):
                self._manager.close()
            self._open()
        newest = max(saved_steps(self.directory), default=None)
        return errors.UserError(
            f"could not write checkpoint {step} to {self.directory}: {_reason(error)}; the newest "
            f"complete one is {newest}; put this right and start the same command again"
        )

    def _load(self, step: int, abstract: Any) -> Restored:
        folder = self.directory / str(step)
        _raise_if_damaged(folder)
        body = read_body(folder)
        leaves, treedef = digest.named_leaves(abstract), jax.tree.structure(abstract)
        _check_same_model(folder, body["leaves"], leaves)
        arrays = read_arrays(folder, leaves)
        _check_digests(folder, body["leaves"], arrays)
        return Restored(step, treedef.unflatten(arrays.values()), body["meta"])

    def _put_aside(self, step: int, damage: errors.DamagedDataError) -> None:
        if jax.process_index() == 0:
            target = _unused_name(self.directory / f"{step}{_CORRUPT}")
            (self.directory / str(step)).rename(target)
            _log.warning("%s; renamed to %s, trying the one before", damage, target.name)
        multihost_utils.sync_global_devices("checkpoint put aside")
        self._manager.close()
        self._open()


class SavedVariables:
    """Parameters and model state of one checkpoint: listed at once, read when asked for.

    Args:
        directory: a workdir or its folder of checkpoints.
        step: a step, ``latest`` (the default) or ``best``.
        params: ``ema`` for the averaged parameters and model state, or the raw ones where the run
            kept no average; ``raw`` for those of the optimizer.

    Attributes:
        step: the step chosen.
        meta: what the loop noted beside it.
        leaves: shape and dtype by name, such as ``params/...`` or ``batch_stats/...``.

    Raises:
        UserError: no such checkpoint.
        DamagedDataError: its description is damaged.
    """

    def __init__(self, directory: epath.PathLike, step: Step = None, params: str = "ema"):
        if params not in ("ema", "raw"):
            raise errors.UserError(f"params={params!r} is unknown; choose 'ema' or 'raw'")
        directory = find_directory(directory)
        self.step = choose_step(directory, step)
        self._folder = directory / str(self.step)
        body = read_body(self._folder)
        self.meta: dict[str, Any] = body["meta"]
        averaged = params == "ema" and any(name.startswith("ema/") for name in body["leaves"])
        prefix = "ema/" if averaged else ""
        self._stored = {
            name.removeprefix(prefix).removeprefix("model_state/"): name
            for name in body["leaves"]
            if name.startswith((f"{prefix}params/", f"{prefix}model_state/"))
        }
        self._described = {name: body["leaves"][stored] for name, stored in self._stored.items()}
        self.leaves = {
            name: jax.ShapeDtypeStruct(tuple(leaf["shape"]), jnp.dtype(leaf["dtype"]))
            for name, leaf in self._described.items()
        }

    def read(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
        """Reads some leaves, and nothing else, and checks their digests.

        Args:
            wanted: by name; a leaf without sharding is read into host memory, as numpy.

        Raises:
            UserError: a leaf is not there, or has another shape or dtype.
            DamagedDataError: a leaf cannot be read or does not match its digest.
        """
        described = {name: leaf for name, leaf in self._described.items() if name in wanted}
        _check_same_model(self._folder, described, wanted)
        stored = {self._stored[name]: leaf for name, leaf in wanted.items()}
        try:
            arrays = read_arrays(self._folder, stored)
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise errors.DamagedDataError(
                f"checkpoint {self._folder} cannot be read: {_reason(error)}"
            ) from error
        arrays = dict(zip(wanted, arrays.values(), strict=True))
        _check_digests(self._folder, described, arrays)
        return arrays


class RestoredVariables(NamedTuple):
    """What inference needs of a checkpoint: its step, ``{"params": ..., **model_state}``, meta."""

    step: int
    variables: Any
    meta: dict[str, Any]


def restore_variables(
    directory: epath.PathLike,
    abstract: Any = None,
    *,
    step: Step = None,
    params: str = "ema",
) -> RestoredVariables:
    """Restores parameters and model state alone; optimizer state is not read.

    Args:
        directory: a workdir or its folder of checkpoints.
        abstract: the tree ``{"params": ..., **model_state}`` of `jax.ShapeDtypeStruct` with
            shardings; None gives nested dicts of numpy arrays.
        step: a step, ``latest`` (the default) or ``best``.
        params: ``ema`` (raw where the run kept no average) or ``raw``.

    Raises:
        UserError: no such checkpoint, or it is of another model.
        DamagedDataError: something that was read is damaged; nothing is renamed.
    """
    saved = SavedVariables(directory, step, params)
    if abstract is None:
        arrays = saved.read(saved.leaves)
        return RestoredVariables(saved.step, traverse_util.unflatten_dict(arrays, sep="/"), saved.meta)
    leaves, treedef = digest.named_leaves(abstract), jax.tree.structure(abstract)
    _check_same_model(find_directory(directory) / str(saved.step), saved.described, leaves)
    return RestoredVariables(saved.step, treedef.unflatten(saved.read(leaves).values()), saved.meta)
