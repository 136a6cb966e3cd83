"""Sharding of parameters and training state, by rules on the parameters' names.

A rule is a regular expression on a parameter's name ("encoder/block_3/kernel") and how to split
the parameters it matches:

- `"fsdp"`: split the largest dimension that divides over the `fsdp` axis, if the parameter is big;
- `"replicated"`: every device keeps the whole;
- `"members"`: split the first dimension like the batch, a row of which trains one index of it (models side by
  side, such as one per speaker), and never gather it;
- a list with one entry per dimension, each `None`, a mesh axis, or a list of axes:
  `["fsdp", "tensor"]` splits the rows of a kernel over `fsdp` and its columns over `tensor`.

The first rule that matches wins; parameters that none matches are treated as `"fsdp"`.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import BATCH_AXES, PARAMETER_AXES, constrain

STRATEGIES = ("fsdp", "replicated", "members")


@dataclasses.dataclass(frozen=True)
class Sharding:
    """The `sharding` section of an experiment.

    Attributes:
        rules: Ordered (regular expression, strategy or list of axes) pairs; see the module.
        fsdp_min_size: Elements below which `"fsdp"` leaves an array whole: gathering many small
            arrays costs more than holding them.
        gather: Whether parameters split over `fsdp` are gathered before the loss uses them ("ahead"), or
            wherever the compiler sees fit, which may gather activations of the whole batch instead.
            "compiler" is for deep scanned stacks, whose layers are better gathered one at a time.

    """

    rules: tuple[tuple[str, Any], ...] = ((".*", "fsdp"),)
    fsdp_min_size: int = 2**18
    gather: Literal["ahead", "compiler"] = "ahead"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the sharding table: an array and what each device holds of it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    spec: PartitionSpec
    bytes_per_device: int


@dataclasses.dataclass(frozen=True)
class _Rule:
    pattern: re.Pattern[str]
    spec: str | tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        return f"sharding rule '{self.pattern.pattern}'"


def leaf_names(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree with their path as a name, such as ("encoder/kernel", array)."""
    return [(_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def shardings(params: Any, mesh: Mesh, settings: Sharding) -> Any:
    """The sharding of every parameter, as a tree like `params`.

    Args:
        params: Tree of arrays or `jax.ShapeDtypeStruct`s.
        mesh: The mesh.
        settings: The rules.

    Raises:
        UserError: A rule is malformed, matches no parameter, can never apply because earlier rules
            take all its parameters, or does not divide a parameter it applies to.

    """
    specs = _parameter_specs(params, mesh, settings)
    return jax.tree_util.tree_map_with_path(lambda path, _: NamedSharding(mesh, specs[_name(path)]), params)


def state_shardings(state: Any, mesh: Mesh, settings: Sharding) -> Any:
    """The sharding of every leaf of a training state, as a tree like `state`.

    A leaf outside `state.params` follows a parameter when its path ends in that parameter's path
    and the shapes agree: moments of the optimizer, moving averages. Everything else (counters,
    factored second moments, batch statistics) is split like `"fsdp"` when it is big enough, else
    replicated.

    Args:
        state: Tree with an attribute `params`; leaves are arrays or `jax.ShapeDtypeStruct`s.
        mesh: The mesh.
        settings: The rules; they are matched against names inside `state.params`.

    Raises:
        UserError: As for `shardings`.

    """
    specs = _parameter_specs(state.params, mesh, settings)
    shapes = {name: leaf.shape for name, leaf in leaf_names(state.params)}

    def place(path: Any, leaf: Any) -> NamedSharding:
        followed = _longest_suffix(_name(path), specs)
        if followed is not None and shapes[followed] == leaf.shape:
            return NamedSharding(mesh, specs[followed])
        return NamedSharding(mesh, _auto_fsdp(leaf.shape, mesh, settings.fsdp_min_size))

    return jax.tree_util.tree_map_with_path(place, state)


def gather_ahead(param_shardings: Any, settings: Sharding) -> Callable[[Any], Any]:
    """A function that asks, inside `jit`, for parameters whole over `fsdp` and still split over `tensor`.

    Changes nothing where nothing is split over `fsdp`, or where `settings` leave it to the compiler.
    """

    def whole(sharding: NamedSharding) -> PartitionSpec:
        if _of_members(sharding):
            return sharding.spec
        entries = [tuple(a for a in _axes(entry) if a != "fsdp") for entry in sharding.spec]
        return PartitionSpec(*(axes or None for axes in entries))

    specs = [whole(sharding) for sharding in jax.tree.leaves(param_shardings)]
    gathered = [s for s in jax.tree.leaves(param_shardings) if not _of_members(s)]
    split = any("fsdp" in _axes(entry) for sharding in gathered for entry in sharding.spec)

    def gather(params: Any) -> Any:
        leaves, tree = jax.tree.flatten(params)
        placed = [constrain(leaf, spec) for leaf, spec in zip(leaves, specs, strict=True)]
        return jax.tree.unflatten(tree, placed)

    return gather if split and settings.gather == "ahead" else lambda params: params


def _of_members(sharding: NamedSharding) -> bool:
    """Whether a parameter is split like the batch."""
    return any("data" in _axes(entry) for entry in sharding.spec)


def table(tree: Any, tree_shardings: Any) -> list[Row]:
    """One `Row` per leaf of `tree`, with the bytes each device holds of it."""
    leaves = zip(leaf_names(tree), jax.tree.leaves(tree_shardings), strict=True)
    return [_row(name, leaf, sharding) for (name, leaf), sharding in leaves]


def _row(name: str, leaf: Any, sharding: NamedSharding) -> Row:
    held = math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return Row(name, leaf.shape, str(leaf.dtype), sharding.spec, held)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _longest_suffix(name: str, names: Any) -> str | None:
    """The longest of `names` that `name` ends in, cut at a slash."""
    parts = name.split("/")
    suffixes = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((suffix for suffix in suffixes if suffix in names), None)


def _parameter_specs(params: Any, mesh: Mesh, settings: Sharding) -> dict[str, PartitionSpec]:
    named = leaf_names(params)
    rules = [_parse(rule) for rule in settings.rules]
    chosen = {name: _first_match(rules, name) for name, _ in named}
    _check_used(rules, chosen)
    return {name: _spec(chosen[name], name, leaf.shape, mesh, settings.fsdp_min_size) for name, leaf in named}


def _first_match(rules: list[_Rule], name: str) -> _Rule | None:
    return next((rule for rule in rules if rule.pattern.search(name)), None)


def _check_used(rules: list[_Rule], chosen: dict[str, _Rule | None]) -> None:
    """A rule without effect is a mistake, save a catch-all that has nothing left to catch."""
    for rule in rules:
        matched = [name for name in chosen if rule.pattern.search(name)]
        if not matched:
            raise UserError(f"{rule} matches no parameter: {_nearest(rule, list(chosen))}")
        taker = chosen[matched[0]]
        if len(matched) < len(chosen) and not any(chosen[name] is rule for name in matched):
            raise UserError(
                f"{rule} has no effect: all it matches, such as '{matched[0]}', is taken by rules "
                f"before it ({taker}); put it earlier"
            )


def _nearest(rule: _Rule, names: list[str]) -> str:
    words = re.sub(r"[^\w/]+", "", rule.pattern.pattern)
    # Compare with every tail of a name too, since a pattern usually names only its last parts.
    tails = {"/".join(name.split("/")[i:]): name for name in names for i in range(name.count("/") + 1)}
    close = difflib.get_close_matches(words, list(tails), n=3, cutoff=0.4)
    found = list(dict.fromkeys(tails[tail] for tail in close)) or names[:3]
    return f"nearest names are {', '.join(found)}" if found else "there are no parameters"


def _parse(written: Any) -> _Rule:
    """Checks a rule as written and brings its list of axes into one form."""
    if isinstance(written, str) or not isinstance(written, Sequence) or len(written) != 2:
        raise UserError(
            f"sharding rule {written!r} must be a pair of a regular expression and a strategy or list of axes"
        )
    pattern, spec = written
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UserError(f"sharding rule '{pattern}' is no regular expression: {error}") from error
    if isinstance(spec, str):
        if spec not in STRATEGIES:
            raise UserError(
                f"sharding rule '{pattern}': unknown strategy '{spec}'; give 'fsdp', 'replicated', "
                "'members' or a list with one mesh axis or None per dimension"
            )
        return _Rule(compiled, spec)
    if not isinstance(spec, Sequence):
        raise UserError(f"sharding rule '{pattern}': {spec!r} is neither a strategy nor a list of axes")
    rule = _Rule(compiled, tuple(_axes(entry) for entry in spec))
    names = [axis for axes in rule.spec for axis in axes]
    for axis in names:
        if axis not in PARAMETER_AXES:
            raise UserError(
                f"{rule}: parameters cannot be split over '{axis}'; "
                f"give {' or '.join(repr(known) for known in PARAMETER_AXES)}"
            )
    if len(set(names)) < len(names):
        raise UserError(f"{rule} uses a mesh axis twice: {names}")
    return rule


def _axes(entry: Any) -> tuple[str, ...]:
    if entry is None:
        return ()
    listed = isinstance(entry, Sequence) and not isinstance(entry, str)
    return tuple(entry) if listed else (entry,)


def _spec(rule: _Rule | None, name: str, shape: tuple[int, ...], mesh: Mesh, min_size: int) -> PartitionSpec:
    if rule is None or rule.spec == "fsdp":
        return _auto_fsdp(shape, mesh, min_size)
    if rule.spec == "replicated":
        return PartitionSpec()
    if rule.spec == "members":
        return _members(rule, name, shape, mesh)
    return _explicit(rule, name, shape, mesh)


def _members(rule: _Rule, name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if not shape or shape[0] % parts:
        raise UserError(
            f"{rule}: the first dimension of '{name}' with shape {shape} cannot be split in {parts} like the "
            "batch; pad the members, or change the rule or the mesh"
        )
    return PartitionSpec(BATCH_AXES)


def _explicit(rule: _Rule, name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    if len(rule.spec) > len(shape):
        raise UserError(
            f"{rule} lists {len(rule.spec)} dimensions but '{name}' has shape {shape}: "
            "make the pattern narrower or the list shorter"
        )
    for dimension, axes in enumerate(rule.spec):
        parts = math.prod(mesh.shape[axis] for axis in axes)
        if shape[dimension] % parts:
            raise UserError(
                f"{rule}: dimension {dimension} of '{name}' with shape {shape} cannot be split "
                f"over {' x '.join(f'{axis}={mesh.shape[axis]}' for axis in axes)}; "
                "change the rule or the mesh"
            )
    return PartitionSpec(*(axes[0] if len(axes) == 1 else tuple(axes) or None for axes in rule.spec))


def _auto_fsdp(shape: tuple[int, ...], mesh: Mesh, min_size: int) -> PartitionSpec:
    """Splits the largest dimension that divides over `fsdp`; of equal ones, the last."""
    parts = mesh.shape["fsdp"]
    if parts == 1 or math.prod(shape) < min_size:
        return PartitionSpec()
    divisible = [i for i, size in enumerate(shape) if size and size % parts == 0]
    if not divisible:
        return PartitionSpec()
    best = max(divisible, key=lambda i: (shape[i], i))
    return PartitionSpec(*[None] * best, "fsdp")
