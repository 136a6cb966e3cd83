"""Reading the checkpoints of a run, finished or still training, without changing anything there."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.train import digest, stored
from offsites_jax.train.steps import Step

FOLDER = "checkpoints"
"""Where a workdir keeps its checkpoints. Functions here take the workdir or this folder."""


class RestoredVariables(NamedTuple):
    """What inference needs of a checkpoint: its step, ``{"params": ..., **model_state}``, meta."""

    step: int
    variables: Any
    meta: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What `verify` found in one checkpoint.

    Attributes:
        step: which one.
        sealed: whether it has a manifest. Without one (the process was killed at the very end of
            a save) the leaves were checked, but not the files.
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


class LeafDifference(NamedTuple):
    """A leaf of two runs and its largest absolute difference, or in words what differs."""

    leaf: str
    difference: float | str


def read_meta(path: epath.PathLike, step: Step = "latest") -> dict[str, Any]:
    """What the loop noted beside a checkpoint, such as the resolved configuration.

    Args:
        path: a workdir, or its folder of checkpoints.
        step: which one.

    Raises:
        UserError: no such checkpoint.
        DamagedDataError: the note is damaged.

    """
    return stored.read_body(find_checkpoint(path, step))["meta"]


def restore_variables(
    path: epath.PathLike, abstract: Any = None, *, step: Step = "latest", params: str = "ema"
) -> RestoredVariables:
    """Restores parameters and model state alone; nothing else is read, nothing is renamed.

    Args:
        path: a workdir, or its folder of checkpoints.
        abstract: the tree ``{"params": ..., **model_state}`` of `jax.ShapeDtypeStruct` with
            shardings; None gives nested dicts of numpy arrays.
        step: which one.
        params: ``ema`` for the averages (the raw values where the run kept none), or ``raw``.

    Raises:
        UserError: no such checkpoint, or it is of another model.
        DamagedDataError: something that was read is damaged.

    """
    saved = SavedVariables(path, step, params)
    tree = traverse_util.unflatten_dict(saved.leaves, sep="/") if abstract is None else abstract
    return RestoredVariables(saved.step, saved.read_tree(tree), saved.meta)


class SavedVariables:
    """Parameters and model state of one checkpoint: listed at once, read when asked for.

    Args:
        path: a workdir, or its folder of checkpoints.
        step: which one.
        params: ``ema`` for the averages (the raw values where the run kept none), or ``raw``.

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
            raise UserError(f"params={params!r} is unknown; choose 'ema' or 'raw'")
        self._checkpoint = find_checkpoint(path, step)
        body = stored.read_body(self._checkpoint)
        averaged = params == "ema" and any(name.startswith("ema/") for name in body["leaves"])
        self._names = _variable_names(body["leaves"], "ema/" if averaged else "")
        self._listed = {name: body["leaves"][within] for name, within in self._names.items()}
        self.step: int = body["step"]
        self.meta: dict[str, Any] = body["meta"]
        self.leaves = {
            name: jax.ShapeDtypeStruct(tuple(leaf["shape"]), jnp.dtype(leaf["dtype"]))
            for name, leaf in self._listed.items()
        }

    def read_tree(self, abstract: Any) -> Any:
        """Reads all leaves, in the form of a tree ``{"params": ..., **model_state}``; see `read`."""
        wanted = digest.named_leaves(abstract)
        stored.check_same_model(self._checkpoint, self._listed, wanted)
        return jax.tree.unflatten(jax.tree.structure(abstract), list(self.read(wanted).values()))

    def read(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
        """Reads the leaves asked for, and nothing else, and checks their digests.

        Args:
            wanted: by name; a leaf without sharding becomes a numpy array.

        Raises:
            UserError: a leaf is not there, or has another shape or dtype.
            DamagedDataError: a leaf cannot be read or does not match its digest.

        """
        listed = {name: leaf for name, leaf in self._listed.items() if name in wanted}
        stored.check_same_model(self._checkpoint, listed, wanted)
        asked = {self._names[name]: leaf for name, leaf in wanted.items()}
        try:
            found = stored.read_arrays(self._checkpoint, asked)
        except stored.READ_ERRORS as error:
            raise stored.damaged(self._checkpoint, f"cannot be read ({stored.reason(error)})") from error
        arrays = {name: found[self._names[name]] for name in wanted}
        stored.check_digests(self._checkpoint, listed, arrays)
        return arrays


def verify(path: epath.PathLike) -> list[StepReport]:
    """Checks every file and every leaf of every checkpoint of a run; needs no mesh.

    Raises:
        UserError: there is no checkpoint.

    """
    folder = find_checkpoint(path).parent
    return [_verify(folder / str(step), step) for step in stored.saved_steps(folder)]


def diff(path_a: epath.PathLike, path_b: epath.PathLike, step: int | None = None) -> list[LeafDifference]:
    """Compares the states of two runs leaf by leaf.

    Args:
        path_a: a workdir, or its folder of checkpoints.
        path_b: another.
        step: which step; None for the newest that both have.

    Returns:
        The leaves that differ in at least one bit.

    Raises:
        UserError: there is no such step in both.

    """
    folders = [find_checkpoint(path).parent for path in (path_a, path_b)]
    common = set.intersection(*(set(stored.saved_steps(folder)) for folder in folders))
    step = max(common, default=None) if step is None else step
    if step not in common:
        raise UserError(
            f"{folders[0]} and {folders[1]} have no common step {'' if step is None else step}; "
            f"both have {sorted(common) or 'none'}"
        )
    a, b = (_Side(folder / str(step)) for folder in folders)
    names = dict.fromkeys([*a.leaves, *b.leaves])
    differing = [name for name in names if a.leaves.get(name) != b.leaves.get(name)]
    return [LeafDifference(name, _difference(name, a, b)) for name in differing]


def find_folder(path: epath.PathLike) -> epath.Path:
    """The folder of checkpoints, given itself or its workdir."""
    folder = epath.Path(path).expanduser().resolve()
    return folder / FOLDER if (folder / FOLDER).is_dir() else folder


def find_checkpoint(path: epath.PathLike, step: Step = "latest") -> epath.Path:
    """The folder of one checkpoint, given that of all or their workdir.

    Raises:
        UserError: there is none.

    """
    folder = find_folder(path)
    steps = stored.saved_steps(folder)
    if not steps:
        raise UserError(f"no checkpoint in {folder}; is this the workdir of a run?")
    if step == "latest":
        return folder / str(steps[-1])
    if step == "best":
        return folder / str(_best_step(folder, steps))
    if not str(step).isdecimal():
        raise UserError(f"step {step!r} is unknown; choose 'latest', 'best' or one of {steps}")
    return folder / str(stored.existing_step(folder, int(step)))


def _best_step(folder: epath.Path, steps: list[int]) -> int:
    metric, mode = stored.read_body(folder / str(steps[-1]))["best"]
    metrics = {step: stored.saved_metrics(folder / str(step)) for step in steps}
    best = stored.best_step(metrics, metric, mode)
    if best is None:
        why = f"none was saved with {metric!r}" if metric else "the run ranks them by no metric"
        raise UserError(f"no best checkpoint in {folder}: {why}; choose 'latest' or one of {steps}")
    return best


def _variable_names(leaves: Mapping[str, Any], prefix: str) -> dict[str, str]:
    """Names as in a module's variables, to names as in the state."""
    within = {name.removeprefix(prefix): name for name in leaves if name.startswith(prefix)}
    return {
        name.removeprefix("model_state/"): full
        for name, full in within.items()
        if name.startswith(("params/", "model_state/"))
    }


def _verify(checkpoint: epath.Path, step: int) -> StepReport:
    sealed = (checkpoint / digest.MANIFEST).exists()
    files = digest.damaged_files(checkpoint) if sealed else {}
    try:
        leaves = stored.read_body(checkpoint)["leaves"]
    except DamagedDataError as error:
        return StepReport(step, sealed, files or {f"{stored.META}/metadata": str(error)}, {})
    damaged = stored.damaged_leaves(checkpoint, leaves)
    return StepReport(step, sealed, files, {name: damaged.get(name, "") for name in leaves})


class _Side:
    """One of two checkpoints to compare."""

    def __init__(self, checkpoint: epath.Path):
        self.checkpoint = checkpoint
        self.leaves: dict[str, Any] = stored.read_body(checkpoint)["leaves"]

    def read(self, name: str) -> np.ndarray:
        array = stored.read_arrays(self.checkpoint, {name: None})[name]
        return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def _difference(name: str, a: _Side, b: _Side) -> float | str:
    for side in (a, b):
        if name not in side.leaves:
            return f"missing in {side.checkpoint}"
    for trait in ("shape", "dtype"):
        if a.leaves[name][trait] != b.leaves[name][trait]:
            return f"{trait} {a.leaves[name][trait]} and {b.leaves[name][trait]}"
    x, y = a.read(name), b.read(name)
    with np.errstate(invalid="ignore"):  # inf - inf
        largest = np.max(np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0, np.abs(x - y)))
    return float(largest) or "signs of zeros or kinds of NaN"
