"""Warm start: fill a freshly initialised model from a checkpoint or a weights file, leaf by leaf."""

import dataclasses
import re
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.train.digest import named_leaves
from offsites_jax.train.saved import FOLDER, SavedVariables, Step

_WEIGHTS = "params.safetensors"
_SHOWN = 3  # names a message lists before it says how many more there are


@dataclasses.dataclass(frozen=True)
class InitFrom:
    """The `init_from` section: where initial values come from, and which leaf gets which.

    A plain string instead of the section is its path.

    Leaves go by names such as ``params/encoder/layer_0/kernel`` or ``batch_stats/encoder/norm/mean``.
    Patterns are regular expressions and may match anywhere in a name. Each must match some leaf.

    Attributes:
        path: workdir of a run, its folder of checkpoints, a ``.safetensors`` file, or a folder that holds one
            called ``params.safetensors``, as imports and exports do.
        step: of a run: a number, ``latest`` or ``best``.
        params: of a run: ``ema`` for the averages (the raw values where it kept none), or ``raw``.
        map: (pattern, replacement) pairs that turn the name of a leaf *here* into its name *there*;
            the first pattern that matches is applied. Other leaves have the same name there.
        skip: patterns of leaves here that keep their fresh values, such as a new head.
        repeat: patterns of leaves here with one more axis in front, each index of which gets what is there:
            members that start alike.

    """

    path: str
    step: Step = "latest"
    params: Literal["ema", "raw"] = "ema"
    map: tuple[tuple[str, str], ...] = ()
    skip: tuple[str, ...] = ()
    repeat: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """What a warm start did, by the names of leaves.

    Attributes:
        loaded: filled from the checkpoint.
        fresh: skipped, and kept as initialised.
        reshaped: those of the fresh ones that are also in the checkpoint, in another shape.
        unused: in the checkpoint, and not asked for.

    """

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    reshaped: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(
            f"{len(names)} {field}{f' ({_some(names)})' if names and field != 'loaded' else ''}"
            for field, names in dataclasses.asdict(self).items()
        )


class _Source(Protocol):
    """Arrays by name, with shape and dtype known before any is read."""

    @property
    def leaves(self) -> Mapping[str, Any]: ...

    def read(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]: ...


def warm_start(variables: Any, init_from: InitFrom) -> tuple[Any, Report]:
    """Replaces fresh values by those of a checkpoint.

    Args:
        variables: the tree ``{"params": ..., **model_state}`` of arrays.
        init_from: where from, and how names map.

    Returns:
        A tree of the same form, dtypes and shardings, and what was done.

    Raises:
        UserError: a leaf that is not skipped is not there, or in another shape or kind of number;
            a pattern matches nothing; there is no checkpoint.
        DamagedDataError: the checkpoint is damaged.

    """
    ours = named_leaves(variables)
    source = _open(init_from)
    names, report = match(ours, source.leaves, init_from)
    # One leaf there may fill several here; if any of them repeats it, it is read to the host.
    plain_first = sorted(names.items(), key=lambda pair: ours[pair[0]].shape != source.leaves[pair[1]].shape)
    arrays = source.read({there: _wanted(source.leaves[there], ours[name]) for name, there in plain_first})
    filled = {name: _placed(arrays[theirs], ours[name]) for name, theirs in names.items()}
    leaves = [filled.get(name, leaf) for name, leaf in ours.items()]
    return jax.tree.unflatten(jax.tree.structure(variables), leaves), report


def match(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], init_from: InitFrom
) -> tuple[dict[str, str], Report]:
    """Decides which leaf is filled from which, by name, shape and kind of number.

    Args:
        ours: leaves of the model; anything with shape and dtype.
        theirs: leaves of the checkpoint.
        init_from: the rules.

    Returns:
        Name there by name here, of the leaves to fill, and the report of it.

    Raises:
        UserError: as for `warm_start`; names a leaf, both shapes, and the pattern to skip it.

    """
    skips = _patterns("skip", init_from.skip, ours)
    repeats = _patterns("repeat", init_from.repeat, ours)
    maps = _patterns("map", [pattern for pattern, _ in init_from.map], ours)
    rules = list(zip(maps, [replacement for _, replacement in init_from.map], strict=True))
    names = {name: _renamed(name, rules) for name in ours}
    fresh = [name for name in ours if any(skip.search(name) for skip in skips)]
    filled = {name: there for name, there in names.items() if name not in fresh}
    repeated = {name for name in filled if any(repeat.search(name) for repeat in repeats)}
    problems = [
        problem
        for name, there in filled.items()
        if (problem := _problem(name, there, ours, theirs, repeated=name in repeated))
    ]
    if problems:
        more = f" (and {len(problems) - 1} more leaves)" if len(problems) > 1 else ""
        raise UserError(f"init_from {init_from.path}: {problems[0]}{more}")
    reshaped = [
        name for name in fresh if names[name] in theirs and theirs[names[name]].shape != ours[name].shape
    ]
    unused = [name for name in theirs if name not in filled.values()]
    return filled, Report(tuple(filled), tuple(fresh), tuple(reshaped), tuple(unused))


class _WeightsFile:
    """A safetensors file; one whose names lack a collection is taken to hold parameters."""

    def __init__(self, path: epath.Path):
        try:
            arrays = _load_file(path)
        except FileNotFoundError:
            raise UserError(f"init_from.path: {path} does not exist") from None
        except safetensors.SafetensorError as error:
            raise DamagedDataError(f"init_from.path: {path} is damaged ({error})") from error
        prefix = "" if any(name.startswith("params/") for name in arrays) else "params/"
        self.leaves: dict[str, np.ndarray] = {prefix + name: array for name, array in arrays.items()}

    def read(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
        return {name: self.leaves[name] for name in wanted}


def _load_file(path: epath.Path) -> dict[str, np.ndarray]:
    if "://" not in str(path):
        return safetensors.numpy.load_file(path)
    with tempfile.TemporaryDirectory() as folder:  # the library reads local files only
        return safetensors.numpy.load_file(path.copy(epath.Path(folder) / path.name))


def _open(init_from: InitFrom) -> _Source:
    path = epath.Path(init_from.path).expanduser()
    if path.suffix == ".safetensors":
        return _WeightsFile(path)
    if (path / _WEIGHTS).exists() and not (path / FOLDER).exists():
        return _WeightsFile(path / _WEIGHTS)
    return SavedVariables(path, init_from.step, init_from.params)


def _patterns(field: str, patterns: Iterable[str], names: Iterable[str]) -> list[re.Pattern[str]]:
    """Compiled patterns, each of which matches a name."""
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise UserError(f"init_from.{field}: {pattern!r} is no regular expression ({error})") from error
        if not any(compiled[-1].search(name) for name in names):
            raise UserError(
                f"init_from.{field}: {pattern!r} matches no leaf; there are {_some(tuple(names))}"
            )
    return compiled


def _renamed(name: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str:
    for rule, replacement in rules:
        if rule.search(name):
            try:
                return rule.sub(replacement, name)
            except (re.error, IndexError) as error:
                raise UserError(f"init_from.map: {replacement!r} cannot replace ({error})") from error
    return name


def _wanted(there: Any, here: jax.Array) -> jax.ShapeDtypeStruct:
    """What to read for a leaf: placed as it will be, or on the host if it is still to be repeated."""
    sharding = here.sharding if here.shape == there.shape else None
    return jax.ShapeDtypeStruct(there.shape, there.dtype, sharding=sharding)


def _problem(
    name: str, there: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], *, repeated: bool
) -> str:
    """Why a leaf cannot be filled; empty if it can."""
    remedy = f"to keep its fresh value add {re.escape(name)!r} to init_from.skip"
    if there not in theirs:
        looked = "" if there == name else f" as {there}"
        return f"{name} {list(ours[name].shape)} is not there{looked}; {remedy}, or its name to init_from.map"
    here, other = ours[name], theirs[there]
    if repeated and here.shape[1:] != other.shape:
        return (
            f"{name} is {list(here.shape)} here and {list(other.shape)} there, not what one index of it holds"
        )
    if not repeated and here.shape != other.shape:
        if name.endswith("/relative_bias"):  # trained for maps of another size, and worth keeping
            remedy = (
                "set model.overrides.table_image_size to the size of images it was trained on, or resize it "
                "with `offsites import --image-size`"
            )
        return f"{name} is {list(here.shape)} here and {list(other.shape)} there; {remedy}"
    both_real = all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in (here, other))
    if here.dtype != other.dtype and not both_real:
        return f"{name} is {here.dtype} here and {other.dtype} there; {remedy}"
    return ""


def _placed(array: Any, like: jax.Array) -> jax.Array:
    """The array in the dtype, shape and sharding of another, in memory of its own (states are donated)."""
    array = array.astype(like.dtype)
    if isinstance(array, np.ndarray):
        whole = np.broadcast_to(array, like.shape)
        return jax.make_array_from_callback(like.shape, like.sharding, lambda part: np.array(whole[part]))
    return jax.device_put(array, like.sharding, may_alias=False)


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
