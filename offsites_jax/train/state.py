"""The train state, and the split of a parameter tree into trained and untrained leaves."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jaxtyping import Array, Int, PRNGKeyArray

from offsites_jax.train.contract import Batch, Task, Tree, Variables


class TrainState(flax.struct.PyTreeNode):
    """Everything a step reads and writes. Data position and random keys follow from (seed, step).

    Attributes:
      step: updates done so far.
      params: the parameter tree.
      model_state: mutable collections by name (batch_stats ...).
      opt_state: optimizer state by parameter group; frozen parameters have none.
      ema: averaged {"params", "model_state"}, or None when no average is kept.

    """

    step: Int[Array, ""]
    params: Tree
    model_state: Tree
    opt_state: dict[str, Any]
    ema: dict[str, Tree] | None

    def variables(self, *, ema: bool = True) -> Variables:
        """Variables for `Task.predict`: averaged ones if kept and wanted."""
        if ema and self.ema is not None:
            return {"params": self.ema["params"], **self.ema["model_state"]}
        return {"params": self.params, **self.model_state}

    def with_variables(self, variables: Variables) -> "TrainState":
        """The state with other parameters and model state; the average, if kept, starts from them too."""
        model_state = dict(variables)
        params = model_state.pop("params")
        # A copy: the step donates its state, and one buffer cannot be donated twice.
        copy = {"params": params, "model_state": model_state}
        ema = None if self.ema is None else jax.tree.map(jnp.copy, copy)
        return self.replace(params=params, model_state=model_state, ema=ema)


def flatten(params: Tree) -> dict[str, Any]:
    """Leaves of a nested dict by path: {"encoder/kernel": ...}."""
    return traverse_util.flatten_dict(params, sep="/")


def unflatten(leaves: Mapping[str, Any]) -> Tree:
    """The nested dict of `flatten`."""
    return traverse_util.unflatten_dict(dict(leaves), sep="/")


def select(params: Tree, paths: Sequence[str] | frozenset[str]) -> Tree:
    """The sub-tree of the leaves in `paths`; empty branches vanish."""
    wanted = frozenset(paths)
    return unflatten({path: leaf for path, leaf in flatten(params).items() if path in wanted})


def merge(params: Tree, part: Tree) -> Tree:
    """`params` with the leaves of the sub-tree `part` put in."""
    return unflatten({**flatten(params), **flatten(part)})


def group_paths(
    params: Tree, groups: Mapping[str, str], frozen: Mapping[str, Sequence[str]]
) -> dict[str, frozenset[str]]:
    """Parameter paths each group trains: its regex (first match wins) less its frozen patterns."""
    members: dict[str, set[str]] = {name: set() for name in groups}
    for path in flatten(params):
        name = next((name for name, regex in groups.items() if re.search(regex, path)), None)
        if name and not any(re.search(regex, path) for regex in frozen.get(name, ())):
            members[name].add(path)
    return {name: frozenset(paths) for name, paths in members.items()}


def create_state(
    task: Task,
    optimizers: Mapping[str, optax.GradientTransformation],
    groups: Mapping[str, frozenset[str]],
    rng: PRNGKeyArray,
    batch: Batch,
    *,
    ema: bool,
) -> TrainState:
    """Initial state. Meant to run under jit, so that each device makes only its own part."""
    variables = dict(task.init(rng, batch))
    params = variables.pop("params")
    opt_state = {name: tx.init(select(params, groups[name])) for name, tx in optimizers.items()}
    copy = {"params": params, "model_state": variables} if ema else None
    state = TrainState(jnp.zeros((), jnp.int32), params, variables, opt_state, copy)
    # A weakly typed leaf (a Python number in an initialiser) would make the second step compile again.
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)


def zero_batch(spec: Mapping[str, jax.ShapeDtypeStruct]) -> Batch:
    """A batch of zeros of the given shapes: enough to initialise a model."""
    return {name: jnp.zeros(entry.shape, entry.dtype) for name, entry in spec.items()}
