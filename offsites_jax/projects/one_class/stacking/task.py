"""Any task, many times side by side: parameters have a leading axis of members, split over the devices.

A row of the batch is a member with a batch of its own. Its first parameters, its random keys and its images
follow from its seed as in a run of its own; its gradient, its batch statistics and its optimizer know no
other. So a member becomes what that run would become, whoever else is there, in which order, on any mesh.

Images come with the batch instead of lying on the devices: a state holds what training changes and a
checkpoint keeps, and 50 batches of 64 images of 32 pixels are 10 MB a step, against a second of computing.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from offsites_jax.errors import UserError
from offsites_jax.parallel.members import each_member, with_gradient
from offsites_jax.train.contract import Batch, Loss, Mean, Objective, Task, Tree, Variables
from offsites_jax.train.state import TrainState, flatten, unflatten
from offsites_jax.train.step import stream, total_of, weights_of

SEED = "seed"  # entry of the batch: that of each member
STACK = "stack"  # model state: statistics of all members, and how many steps each has skipped
SKIPPED = "skipped"

_BATCH_STATS = "batch_stats"
_BESIDE = {"mean": "scale", "var": "bias"}  # the parameter that lies beside a statistic and has its shape


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """Section `task.stack`: trainings side by side; none unless told.

    Member i is of `categories[i]` and `seeds[i]`. `train.batch_size` is the number of members, rounded up so
    that each device has as many; further ones repeat the first.

    Attributes:
      categories: what is normal for each member.
      seeds: of each member.
      images: of the batch of one member.
      at_a_time: how many of its members a device takes at once; 0 for all.

    """

    categories: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    images: int = 1
    at_a_time: int = 1

    def __post_init__(self) -> None:
        if len(self.categories) != len(self.seeds):
            raise UserError(
                f"config.task.stack: has {len(self.categories)} categories and {len(self.seeds)} seeds; give "
                "each member both"
            )
        if any(not 0 <= seed < 2**32 for seed in self.seeds):
            raise UserError("config.task.stack.seeds: must be in [0, 2**32)")
        if self.images < 1 or self.at_a_time < 0:
            raise UserError("config.task.stack: images must be at least 1, at_a_time at least 0")

    def members(self, rows: int) -> tuple[tuple[str, int], ...]:
        """Category and seed of each row of the batch."""
        own = list(zip(self.categories, self.seeds, strict=True))
        return tuple(own[row % len(own)] for row in range(rows))


@dataclasses.dataclass(frozen=True)
class Stacked(Task):
    """The same task for members with seeds of their own."""

    alone: Task
    config: StackConfig

    @property
    def parameter_groups(self) -> Any:  # type: ignore[override]
        """Those of the task alone: paths are the same."""
        return self.alone.parameter_groups

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the task alone."""
        return self.alone.inputs

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        """Fresh variables of each member, from its own seed."""
        del rng
        seeds = [seed for _, seed in self.config.members(len(batch[SEED]))]
        rows = {name: entry[0] for name, entry in batch.items() if name != SEED}

        def one(seed: UInt32[Array, ""]) -> Variables:
            return self.alone.init(jax.random.key(seed), rows)

        variables = jax.vmap(one)(jnp.asarray(np.array(seeds, np.uint32)))
        skipped = jnp.zeros(len(seeds), jnp.int32)
        stack = {**beside_parameters(variables.pop(_BATCH_STATS, {})), SKIPPED: skipped}
        return {"params": variables.pop("params"), STACK: stack}

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The one objective, of all members side by side."""
        objective = self.alone.objectives[0]
        return (Objective(objective.name, self.loss, objective.trains),)

    def loss(
        self, params: Tree, model_state: Tree, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> Loss:
        """The mean over members for the log, and for every member the gradient of its own loss.

        A member whose loss or gradient is not finite skips the step; the others do not notice.
        """
        del rng
        stack = model_state[STACK]

        def one(step: Int[Array, ""], member: tuple[Tree, Tree, Batch]) -> tuple[Any, ...]:
            return self._member(step, *member)

        # What is differentiated is inside: seen from outside, the gradient comes with the value.
        members = (jax.lax.stop_gradient(params), stack_statistics(stack), batch)
        values, gradients, statistics, logged, good = each_member(one, step, members, self.config.at_a_time)
        mean = Mean.of(values, good).value
        return Loss(
            {"mean": Mean(with_gradient(mean, params, gradients), jnp.ones(()))},
            {STACK: {**beside_parameters(statistics), SKIPPED: stack[SKIPPED] + ~good}},
            {name: Mean.of(value, good) for name, value in logged.items()},
        )

    def _member(
        self, step: Int[Array, ""], params: Tree, statistics: Tree, batch: Batch
    ) -> tuple[Float[Array, ""], Tree, Tree, dict[str, Array], Bool[Array, ""]]:
        """Loss, gradient, new statistics, figures for the log of one member; whether all is finite."""
        objective = self.alone.objectives[0]
        rows = {name: entry for name, entry in batch.items() if name != SEED}
        key = own_key(batch[SEED], step, objective.name)

        def loss(params: Tree) -> tuple[Array, Loss]:
            found = objective.loss(params, {_BATCH_STATS: statistics}, rows, key, step)
            return total_of(found.terms, weights_of(found)), found

        (value, found), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        good = jnp.isfinite(value) & jnp.isfinite(optax.global_norm(gradient))
        # Without a gradient the member's optimizer leaves it as it is.
        gradient = jax.tree.map(lambda leaf: jnp.where(good, leaf, 0), gradient)
        after = jax.tree.map(
            lambda new, old: jnp.where(good, new, old), found.model_state[_BATCH_STATS], statistics
        )
        terms = found.terms if len(found.terms) > 1 else {}
        logged = {name: mean.value for name, mean in {**terms, **found.metrics}.items()}
        return value, gradient, after, logged, good

    def predict(self, variables: Variables, batch: Batch) -> dict[str, Array]:
        """What each member makes of its own batch: the members are the first axis, their rows the second."""

        def one(_: None, member: tuple[Tree, Tree, Batch]) -> dict[str, Array]:
            params, statistics, rows = member
            return self.alone.predict({"params": params, _BATCH_STATS: statistics}, rows)

        members = (variables["params"], stack_statistics(variables[STACK]), batch)
        return each_member(one, None, members, self.config.at_a_time)

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """A batch of the task alone for each member, and the member's seed."""
        spec = {
            name: jax.ShapeDtypeStruct((batch_size, *entry.shape), entry.dtype)
            for name, entry in self.alone.batch_spec(self.config.images).items()
        }
        return {**spec, SEED: jax.ShapeDtypeStruct((batch_size,), jnp.uint32)}


def own_key(seed: UInt32[Array, ""], step: Int[Array, ""], objective: str) -> PRNGKeyArray:
    """The key that the train step gives the objective in a run of its own, without micro-batches."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), stream(objective))
    return jax.random.fold_in(key, 0)


def beside_parameters(statistics: Tree) -> dict[str, Tree]:
    """Batch statistics under the paths of the parameters beside them, by which they are split up."""
    leaves = flatten(statistics)
    return {
        kind: unflatten(
            {
                path.removesuffix(kind) + parameter: leaf
                for path, leaf in leaves.items()
                if path.rpartition("/")[2] == kind
            }
        )
        for kind, parameter in _BESIDE.items()
    }


def stack_statistics(stack: Tree) -> Tree:
    """Batch statistics as the model has them; undoes `beside_parameters`."""
    return unflatten(
        {
            path.removesuffix(parameter) + kind: leaf
            for kind, parameter in _BESIDE.items()
            for path, leaf in flatten(stack[kind]).items()
        }
    )


def member_of(state: TrainState, place: Int[Array, ""]) -> TrainState:
    """The state that a run of the member's own would have."""

    def own(tree: Tree) -> Tree:
        return jax.tree.map(lambda leaf: leaf[place], tree)

    def own_model(model_state: Tree) -> Tree:
        return {_BATCH_STATS: own(stack_statistics(model_state[STACK]))}

    ema = state.ema
    if ema is not None:
        ema = {"params": own(ema["params"]), "model_state": own_model(ema["model_state"])}
    return state.replace(
        params=own(state.params),
        model_state=own_model(state.model_state),
        opt_state=own(state.opt_state),
        ema=ema,
    )
