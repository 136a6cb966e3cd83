"""Many speakers personalised at once: each owns the lower encoder layers, all share the rest.

Parameters are `shared`, the base model without those layers, and `personal`, the layers with a leading axis
of speakers. A row of the batch is a speaker with some utterances; its random keys follow from its name, its
gradient from its own loss alone. So what becomes of a speaker does not depend on who else is there, in which
order, or on which mesh.

A speaker stops after `patience` evaluations without a better loss on its own `dev` part; its best layers so
far are kept as their difference from the base, in bfloat16, beside the scores that say so.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from etils import epath
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from offsites_jax.parallel.members import each_member, with_gradient
from offsites_jax.projects.euphonia.cohort_data import Member, cohort_members
from offsites_jax.projects.euphonia.model import Transducer
from offsites_jax.projects.euphonia.prepared import INDEX, read_prepared
from offsites_jax.projects.euphonia.transcription import NORMALIZATION, TaskConfig, Transcribe
from offsites_jax.projects.euphonia.utterances import DataConfig
from offsites_jax.train.config import Experiment
from offsites_jax.train.contract import Batch, Loss, Mean, Objective, Tree, Variables

SHARED, PERSONAL = "shared", "personal"
COHORT = "cohort"  # model state: who is active, best scores, and the best layers less the base's
DEV = "dev"  # evaluator whose losses members stop by


@dataclasses.dataclass(frozen=True)
class Cohort(Transcribe):
    """Members side by side; `speakers` are their names, in the order of the rows, without the padding."""

    speakers: tuple[str, ...] = ()

    parameter_groups = {"main": f"^{PERSONAL}/"}  # noqa: RUF012

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        """Fresh variables: one base, and its lower layers once for each member."""
        variables = super().init(rng, batch)
        shared, personal = split_layers(variables["params"], self.config.personal_layers)
        members = self.config.members
        stacked = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], members, 0), personal)
        # The base's own layers stay beside, so that what a member learnt can be told from it.
        return {
            "params": {SHARED: shared, PERSONAL: stacked, "base": personal},
            **{name: value for name, value in variables.items() if name != "params"},
            COHORT: {
                "active": jnp.arange(members) < len(self.speakers),
                "best": jnp.full(members, jnp.inf, jnp.float32),
                "waits": jnp.zeros(members, jnp.int32),
                "skipped": jnp.zeros(members, jnp.int32),
                # By this name it is placed as the layers are.
                PERSONAL: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.bfloat16), stacked),
            },
        }

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """One: the losses of all members, side by side."""
        return (Objective("personalize", self.loss),)

    def loss(
        self, params: Tree, model_state: Tree, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> Loss:
        """Sum over members of each one's mean loss: the gradient of one does not know the others."""
        active = model_state[COHORT]["active"] & (batch["real"].sum(1) > 0)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, batch["speaker_key"])

        def one(common: Tree, member: tuple[Tree, Batch, PRNGKeyArray, Array]) -> tuple[Array, Tree, Array]:
            own, rows, key, active = member

            def loss(own: Tree) -> Array:
                return self.member_loss(join_layers(common[SHARED], own), common, rows, key)

            value, gradient = jax.value_and_grad(loss)(own)
            good = active & jnp.isfinite(value) & jnp.isfinite(optax.global_norm(gradient))
            # Without a gradient the member's optimizer leaves it as it is.
            return (
                jnp.where(good, value, 0),
                jax.tree.map(lambda leaf: jnp.where(good, leaf, 0), gradient),
                good,
            )

        utterances = {name: batch[name] for name in (*self.inputs, *self.scored)}
        common = {SHARED: params[SHARED], NORMALIZATION: model_state[NORMALIZATION]}
        own = rounded(params[PERSONAL], self.model.dtype)
        # What is differentiated is inside: seen from outside, the gradients come with the values.
        members = (jax.lax.stop_gradient(own), utterances, keys, active)
        values, gradients, good = each_member(one, common, members, self.config.at_a_time)
        total = with_gradient(values.sum(), own, gradients)
        return Loss(
            {"nll": Mean(total, jnp.ones(()))},
            model_state,
            {"member_nll": Mean.of(values, good), "active": Mean.of(active)},
        )

    def member_loss(
        self, params: Tree, model_state: Tree, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """Mean loss of one member's utterances, as that of a model alone."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(batch["real"])))
        terms = self.losses(params, model_state, batch, keys).values()
        return sum((weight * Mean.of(losses, batch["real"]).value for losses, weight in terms), jnp.zeros(()))

    def predict(self, variables: Variables, batch: Batch) -> dict[str, Array]:
        """Summed loss of each member's utterances, and how many labels and utterances they have."""

        def one(common: Tree, member: tuple[Tree, Batch]) -> Array:
            own, rows = member
            features, counts = self.rows(rows, common)
            params = join_layers(common[SHARED], own)
            labels = rows["labels"], rows["label_count"]
            found: Any = self.model.apply({"params": params}, features, counts, *labels)
            return jnp.where(rows["real"] > 0, found["nll"], 0.0).sum()

        utterances = {name: batch[name] for name in (*self.inputs, *self.scored)}
        common = {SHARED: variables["params"][SHARED], NORMALIZATION: variables[NORMALIZATION]}
        members = (variables["params"][PERSONAL], utterances)
        return {
            "nll": each_member(one, common, members, self.config.at_a_time),
            "utterances": batch["real"].sum(1),
        }

    def settle(self, before: Tree, after: Tree) -> Tree:
        """Counts the steps that a member had to skip.

        Where its loss or its gradient was not finite, its optimizer got no gradient and did not step.
        """
        cohort = after.model_state[COHORT]
        stood = _steps_taken(after.opt_state) == _steps_taken(before.opt_state)
        cohort = {**cohort, "skipped": cohort["skipped"] + (cohort["active"] & stood)}
        return after.replace(model_state={**after.model_state, COHORT: cohort})

    def heed(self, state: Tree, scores: Mapping[str, Float[Array, ""]]) -> Tree:
        """Keeps the layers of members whose dev loss fell, and stops those that have waited long enough."""
        if not any(name.startswith(f"{DEV}/nll/") for name in scores):
            return state
        cohort, params = state.model_state[COHORT], state.params
        blank = [jnp.float32(jnp.nan)] * (self.config.members - len(self.speakers))
        dev = jnp.stack([*(scores[f"{DEV}/nll/{name}"] for name in self.speakers), *blank])
        better = cohort["active"] & (dev < cohort["best"])
        waits = jnp.where(better, 0, cohort["waits"] + cohort["active"])

        def kept(delta: Array, own: Array, base: Array) -> Array:
            return jnp.where(_as_rows(better, delta), (own - base).astype(delta.dtype), delta)

        cohort = {
            **cohort,
            "active": cohort["active"] & (waits < self.config.patience),
            "best": jnp.where(better, dev, cohort["best"]),
            "waits": waits,
            PERSONAL: jax.tree.map(kept, cohort[PERSONAL], params[PERSONAL], params["base"]),
        }
        return state.replace(model_state={**state.model_state, COHORT: cohort})

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """As one model's, with an axis of utterances; which of them are real, and the member's key."""
        number = self.config.utterances
        spec = {
            name: jax.ShapeDtypeStruct((batch_size, number, *entry.shape[1:]), entry.dtype)
            for name, entry in super().batch_spec(batch_size).items()
        }
        spec["real"] = jax.ShapeDtypeStruct((batch_size, number), jnp.float32)
        spec["speaker_key"] = jax.ShapeDtypeStruct((batch_size,), jnp.uint32)
        return spec


def rounded(layers: Tree, dtype: DTypeLike) -> Tree:
    """Stacked layers with matrices in the type they are multiplied in, which their gradients then have.

    Gradients of all members at once are the largest thing that a step makes.
    """
    matrices = ("input_kernel", "recurrent_kernel", "projection")

    def cast(path: Any, leaf: Array) -> Array:
        return leaf.astype(dtype) if path[-1].key in matrices else leaf

    return jax.tree_util.tree_map_with_path(cast, layers)


def split_layers(params: Tree, count: int) -> tuple[Tree, Tree]:
    """Parameters without the lowest encoder layers, and those layers."""
    encoder = params["encoder"]
    names = {f"layers_{index}" for index in range(count)}
    shared = {**params, "encoder": {name: leaf for name, leaf in encoder.items() if name not in names}}
    return shared, {name: leaf for name, leaf in encoder.items() if name in names}


def join_layers(shared: Tree, layers: Tree) -> Tree:
    """The parameters of one model, of its two parts."""
    return {**shared, "encoder": {**shared["encoder"], **layers}}


def _steps_taken(opt_state: Tree) -> Int[Array, " members"]:
    """Of each member; all counts in a member's state are the same."""
    return optax.tree.get_all_with_path(opt_state, "count")[0][1]


def _as_rows(flags: Bool[Array, " members"], like: Array) -> Array:
    return flags.reshape(-1, *[1] * (like.ndim - 1))


def create_cohort(model: Transducer, config: TaskConfig, data: DataConfig) -> Cohort:
    """The task for the speakers of a corpus; without the corpus, as for a plan, all members are real."""
    names = tuple(member.name for member in members_of(config, data))
    return Cohort(model, config, data, names)


def members_of(config: TaskConfig, data: DataConfig) -> tuple[Member, ...]:
    """The members in the order of their rows, without the padding."""
    there = bool(data.path) and (epath.Path(data.path) / INDEX).exists()
    prepared = read_prepared(data.path) if there else None
    numbers = map(str, range(config.members))
    return cohort_members(data, prepared, config.members) or tuple(Member(name, name) for name in numbers)


def cohort_names(experiment: Experiment) -> tuple[str, ...]:
    """Members of a cohort's experiment, in the order of their rows."""
    return tuple(member.name for member in members_of(experiment.task, experiment.data))
