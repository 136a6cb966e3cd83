"""Reading the checkpoints of a run, finished or still training, without changing anything there."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util

from offsites_jax import errors
from offsites_jax.train import checkpoint, digest

FOLDER = "checkpoints"
"""Where a workdir keeps its checkpoints. Functions here take the workdir or this folder."""

Step = int | Literal["latest", "best"]


def find_folder(path: epath.PathLike) -> epath.Path:
    """The folder of checkpoints, given itself or its workdir."""
    folder = epath.Path(path).expanduser().resolve()
    return folder / FOLDER if (folder / FOLDER).is_dir() else folder


def choose_step(path: epath.PathLike, step: Step = "latest") -> int:
    """The step meant by ``latest`` or ``best``, or the step itself if it is there.

    ``best`` is by the metric the run itself keeps its best checkpoint by.

    Raises:
        UserError: there is none.

    """
    folder = find_folder(path)
    steps = checkpoint.saved_steps(folder)
    if not steps:
        raise errors.UserError(f"no checkpoint in {folder}; is this the workdir of a run?")
    if step == "latest":
        return steps[-1]
    return _best_step(folder, steps) if step == "best" else checkpoint.existing_step(folder, step)


def read_meta(path: epath.PathLike, step: Step = "latest") -> dict[str, Any]:
    """What the loop noted beside a checkpoint, such as the resolved configuration.

    Raises:
        UserError: no such checkpoint.
        DamagedDataError: the note is damaged.

    """
    return checkpoint.read_body(find_folder(path) / str(choose_step(path, step)))["meta"]


class SavedVariables:
    """Parameters and model state of one checkpoint: listed at once, read when asked for.

    Args:
        path: a workdir, or its folder of checkpoints.
        step: a step, ``latest`` or ``best``.
        params: ``ema`` for the averaged parameters and model state (the raw ones where the run
            kept no average), or ``raw``.

    Attributes:
        step: the step chosen.
        meta: what the loop noted beside it.
        leaves: shape and dtype by name, such as ``params/...`` or ``batch_stats/...``.

    Raises:
        UserError: no such checkpoint.
        DamagedDataError: its list of leaves is damaged.

    """

    def __init__(self, path: epath.PathLike, step: Step = "latest", params: str = "ema"):
        if params not in ("ema", "raw"):
            raise errors.UserError(f"params={params!r} is unknown; choose 'ema' or 'raw'")
        self.step = choose_step(path, step)
        self._folder = find_folder(path) / str(self.step)
        body = checkpoint.read_body(self._folder)
        self.meta: dict[str, Any] = body["meta"]
        averaged = params == "ema" and any(name.startswith("ema/") for name in body["leaves"])
        self._stored = _variable_names(body["leaves"], "ema/" if averaged else "")
        self._described = {name: body["leaves"][stored] for name, stored in self._stored.items()}
        self.leaves = {
            name: jax.ShapeDtypeStruct(tuple(leaf["shape"]), jnp.dtype(leaf["dtype"]))
            for name, leaf in self._described.items()
        }

    def read(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
        """Reads the leaves asked for, and nothing else, and checks their digests.

        Args:
            wanted: by name; a leaf without sharding becomes a numpy array in host memory.

        Raises:
            UserError: a leaf is not there, or has another shape or dtype.
            DamagedDataError: a leaf cannot be read or does not match its digest.

        """
        described = {name: leaf for name, leaf in self._described.items() if name in wanted}
        checkpoint.check_same_model(self._folder, described, wanted)
        stored = {self._stored[name]: leaf for name, leaf in wanted.items()}
        try:
            values = checkpoint.read_arrays(self._folder, stored).values()
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise errors.DamagedDataError(
                f"checkpoint {self._folder} cannot be read: {checkpoint.reason(error)}"
            ) from error
        arrays = dict(zip(wanted, values, strict=True))
        checkpoint.check_digests(self._folder, described, arrays)
        return arrays

    def read_tree(self, abstract: Any) -> Any:
        """Reads all leaves into a tree of the same form; see `read`."""
        wanted = digest.named_leaves(abstract)
        checkpoint.check_same_model(self._folder, self._described, wanted)
        return jax.tree.structure(abstract).unflatten(self.read(wanted).values())


class RestoredVariables(NamedTuple):
    """What inference needs of a checkpoint: its step, ``{"params": ..., **model_state}``, meta."""

    step: int
    variables: Any
    meta: dict[str, Any]


def restore_variables(
    path: epath.PathLike, abstract: Any = None, *, step: Step = "latest", params: str = "ema"
) -> RestoredVariables:
    """Restores parameters and model state alone; nothing else is read, nothing is renamed.

    Args:
        path: a workdir, or its folder of checkpoints.
        abstract: the tree ``{"params": ..., **model_state}`` of `jax.ShapeDtypeStruct` with
            shardings; None gives nested dicts of numpy arrays.
        step: a step, ``latest`` or ``best``.
        params: ``ema`` (the raw ones where the run kept no average) or ``raw``.

    Raises:
        UserError: no such checkpoint, or it is of another model.
        DamagedDataError: something that was read is damaged.

    """
    saved = SavedVariables(path, step, params)
    tree = traverse_util.unflatten_dict(saved.leaves, sep="/") if abstract is None else abstract
    return RestoredVariables(saved.step, saved.read_tree(tree), saved.meta)


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What `verify` found in one checkpoint.

    Attributes:
        step: which one.
        sealed: whether it has a manifest of its files. Without one (the process was killed at the
            very end of a save) the files were not checked, only the leaves.
        files: damaged files, with the reason.
        leaves: every leaf, with the reason if it is damaged and an empty string if it is sound.

    """

    step: int
    sealed: bool
    files: dict[str, str]
    leaves: dict[str, str]

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.files and not any(self.leaves.values())


def verify(path: epath.PathLike) -> list[StepReport]:
    """Checks every file and every leaf of every checkpoint of a run; needs no mesh.

    Raises:
        UserError: there is no checkpoint.

    """
    choose_step(path)
    folder = find_folder(path)
    return [_verify_step(folder / str(step), step) for step in checkpoint.saved_steps(folder)]


class LeafDifference(NamedTuple):
    """A leaf that differs: its name and the largest absolute difference, or what differs."""

    leaf: str
    difference: float | str


def diff(path_a: epath.PathLike, path_b: epath.PathLike, step: int | None = None) -> list[LeafDifference]:
    """Compares the states of two runs leaf by leaf.

    Args:
        path_a: a workdir, or its folder of checkpoints.
        path_b: another.
        step: which step; None for the newest one that both have.

    Returns:
        The leaves that differ in at least one bit; none for equal states. Arrays that differ only
        in signs of zeros or kinds of NaN have the difference 0.

    Raises:
        UserError: there is no such step in both.

    """
    folders = [find_folder(path_a), find_folder(path_b)]
    common = set.intersection(*(set(checkpoint.saved_steps(folder)) for folder in folders))
    step = max(common, default=None) if step is None else step
    if step not in common:
        raise errors.UserError(
            f"{folders[0]} and {folders[1]} do not both have {'a' if step is None else 'the'} "
            f"same step to compare; steps of both: {sorted(common)}"
        )
    folder_a, folder_b = (folder / str(step) for folder in folders)
    a, b = (checkpoint.read_body(folder)["leaves"] for folder in (folder_a, folder_b))
    names = [*a, *(name for name in b if name not in a)]
    differing = [name for name in names if a.get(name) != b.get(name)]
    return [LeafDifference(name, _difference(name, folder_a, a, folder_b, b)) for name in differing]


def _best_step(folder: epath.Path, steps: list[int]) -> int:
    metric, mode = checkpoint.read_body(folder / str(steps[-1]))["best"]
    metrics = {step: checkpoint.saved_metrics(folder / str(step)) for step in steps}
    best = checkpoint.Keep(best=metric, best_mode=mode).best_step(metrics)
    if best is None:
        raise errors.UserError(
            f"no best checkpoint in {folder}: none was saved with a metric to rank by "
            f"({metric or 'the run names none'}); name a step, one of {steps}"
        )
    return best


def _variable_names(stored: Mapping[str, Any], prefix: str) -> dict[str, str]:
    """Names of parameters and model state as a module's variables have them, to stored names."""
    own = {name: name.removeprefix(prefix) for name in stored if name.startswith(prefix)}
    return {
        short.removeprefix("model_state/"): name
        for name, short in own.items()
        if short.startswith(("params/", "model_state/"))
    }


def _verify_step(folder: epath.Path, step: int) -> StepReport:
    sealed = (folder / digest.MANIFEST).exists()
    files = digest.damaged_files(folder) if sealed else {}
    try:
        leaves = checkpoint.read_body(folder)["leaves"]
    except errors.DamagedDataError as error:
        return StepReport(step, sealed, files | {"meta/metadata": str(error)}, {})
    damaged = dict(checkpoint.damaged_leaves(folder, leaves))
    return StepReport(step, sealed, files, {name: damaged.get(name, "") for name in leaves})


def _difference(
    name: str,
    folder_a: epath.Path,
    a: Mapping[str, Any],
    folder_b: epath.Path,
    b: Mapping[str, Any],
) -> float | str:
    if name not in a or name not in b:
        return f"missing in {(folder_a if name not in a else folder_b).parent}"
    if a[name]["shape"] != b[name]["shape"]:
        return f"shape {a[name]['shape']} and {b[name]['shape']}"
    if a[name]["dtype"] != b[name]["dtype"]:
        return f"dtype {a[name]['dtype']} and {b[name]['dtype']}"
    x, y = (checkpoint.read_arrays(folder, {name: None})[name] for folder in (folder_a, folder_b))
    x, y = (v.astype(np.complex128 if np.iscomplexobj(v) else np.float64) for v in (x, y))
    return float(np.max(np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0, np.abs(x - y))))
