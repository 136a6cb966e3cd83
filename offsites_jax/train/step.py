"""The train step, written once for every project.

For each objective: part of the batch, micro-batches, gradients, update of the groups it trains; then the
moving average. The result is one pure function that the loop compiles, donates its state to, and calls.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from offsites_jax.parallel import slices
from offsites_jax.train.contract import Batch, Loss, Mean, Objective, Task, Tree
from offsites_jax.train.metrics import Metrics
from offsites_jax.train.state import TrainState, merge, select

SliceReduction = Literal["auto", "float32", "bfloat16"]
StepFn = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class Ema:
    """Moving average of parameters and model state.

    Attributes:
      decay: limit of the decay, 0 for no average.
      warmup: use min(decay, (1 + n) / (10 + n)) after n updates, as TensorFlow's average does when told the
        step; without it the average starts as a copy and decays at once.

    """

    decay: float = 0.0
    warmup: bool = True


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """How a step runs, as opposed to what it minimises.

    Attributes:
      seed: of the run.
      accumulate: micro-batches a batch is cut into.
      ema: moving average.
      skip_non_finite: leave the state as it was where loss or gradient is not finite.
      slice_reduction: how gradients cross slices: as the compiler sees fit, or scattered inside each
        slice and summed across in this dtype (see `parallel.slices`).
    """

    seed: int = 0
    accumulate: int = 1
    ema: Ema = Ema()
    skip_non_finite: bool = False
    slice_reduction: SliceReduction = "auto"


def create_step(
    task: Task,
    optimizers: Mapping[str, optax.GradientTransformation],
    groups: Mapping[str, frozenset[str]],
    settings: StepSettings,
    shard: Callable[[Tree], Tree] = lambda batch: batch,
    gather: Callable[[Tree], Tree] = lambda params: params,
    placed: Tree | None = None,
) -> StepFn:
    """The pure train step `(state, batch) -> (state, metrics)`.

    Args:
      task: gives the objectives.
      optimizers: one transformation per parameter group.
      groups: parameter paths of each group, as `state.group_paths` gives them.
      settings: seed, accumulation, average and what to do about a non-finite loss.
      shard: constrains the leading axis of a batch to the mesh; identity off the mesh.
      gather: constrains parameters inside the loss; see `parallel.rules.Sharding.gather`.
      placed: shardings of the parameters; needed where gradients cross slices other than by "auto".

    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
        metrics: dict[str, Mean] = {}
        before = state
        for objective in map(gathering, task.objectives):
            part = shard(take_part(batch, *objective.part))
            rng = jax.random.fold_in(key, stream(objective.name))
            state, logged = update(state, objective, part, rng)
            prefix = f"{objective.name}/" if len(task.objectives) > 1 else ""
            metrics |= {f"{prefix}{name}": mean for name, mean in logged.items()}
        state = task.settle(before, state.replace(step=state.step + 1))
        return average(state, settings.ema), Metrics.pack(metrics)

    def update(
        state: TrainState, objective: Objective, batch: Batch, rng: PRNGKeyArray
    ) -> tuple[TrainState, dict[str, Mean]]:
        trained = {name: select(state.params, groups[name]) for name in objective.trains}
        grads, loss = differentiate(objective, state, trained, batch, rng)
        opt_state, params, new_updates = dict(state.opt_state), state.params, {}
        for name, subtree in trained.items():
            new_updates[name], opt_state[name] = optimizers[name].update(
                grads[name], opt_state[name], subtree
            )
            params = merge(params, optax.apply_updates(subtree, new_updates[name]))
        new_state = state.replace(params=params, model_state=loss.model_state, opt_state=opt_state)
        total = total_of(loss.terms, weights_of(loss))
        grad_norm = optax.global_norm(grads)
        finite = jnp.isfinite(total) & jnp.isfinite(grad_norm)
        metrics = {
            "loss": one(total),
            **(loss.terms if len(loss.terms) > 1 else {}),
            **loss.metrics,
            "grad_norm": one(grad_norm),
            "update_norm": one(optax.global_norm(new_updates)),
            "non_finite": one(~finite),
        }
        if settings.skip_non_finite:
            new_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new_state, state)
            # A skipped step must not spoil the interval's means with its NaN.
            metrics = {
                name: mean if name == "non_finite" else jax.tree.map(lambda x: jnp.where(finite, x, 0), mean)
                for name, mean in metrics.items()
            }
        return new_state, metrics

    def gathering(objective: Objective) -> Objective:
        """The objective on parameters that are gathered before they are used."""
        return dataclasses.replace(
            objective, loss=lambda params, *rest: objective.loss(gather(params), *rest)
        )

    def differentiate(
        objective: Objective, state: TrainState, trained: Tree, batch: Batch, rng: PRNGKeyArray
    ) -> tuple[Tree, Loss]:
        mesh = jax.tree.leaves(placed)[0].mesh if placed else None
        if settings.slice_reduction == "auto" or mesh is None or mesh.shape[slices.AXIS] == 1:
            return gradients(objective, state, trained, batch, rng, settings.accumulate, shard)

        def on_slice(batch: Batch, state: TrainState, trained: Tree, rng: PRNGKeyArray) -> tuple[Tree, Loss]:
            rng = slices.own_stream(rng)
            grads, loss = gradients(
                objective, state, trained, batch, rng, settings.accumulate, shard, over_slices=slices.total
            )
            terms, metrics = slices.total((dict(loss.terms), dict(loss.metrics)))
            return grads, Loss(terms, slices.mean(loss.model_state), metrics)

        where = {name: select(placed, groups[name]) for name in trained}
        summed = slices.by_slice(on_slice, mesh, num_split=1, placed=where, dtype=settings.slice_reduction)
        grads, loss = summed(batch, state, trained, rng)
        # Gather each gradient once, where its parameter lives whole, rather than everything made from it.
        return jax.lax.with_sharding_constraint(grads, where), loss

    return step


def gradients(
    objective: Objective,
    state: TrainState,
    trained: Tree,
    batch: Batch,
    rng: PRNGKeyArray,
    count: int,
    shard: Callable[[Tree], Tree],
    over_slices: Callable[[Tree], Tree] = lambda weights: weights,
) -> tuple[Tree, Loss]:
    """Gradient of the objective over the whole batch, taken in `count` micro-batches.

    Each term is divided by its weight over the *whole* batch, so the result equals that of the undivided
    batch for losses that are means over rows. Statistics such as BatchNorm's are those of each micro-batch
    in turn. Where `batch` holds one slice's rows only, `over_slices` adds up the weights of all slices.
    """

    def run(subtrees: Tree, model_state: Tree, micro: Batch, index: Array) -> Loss:
        params = state.params
        for subtree in subtrees.values():
            params = merge(params, subtree)
        return objective.loss(params, model_state, micro, jax.random.fold_in(rng, index), state.step)

    def scalar(
        subtrees: Tree, model_state: Tree, micro: Batch, index: Array, weights: Mapping[str, Array] | None
    ) -> tuple[Array, Loss]:
        loss = run(subtrees, model_state, micro, index)
        return total_of(loss.terms, weights or over_slices(weights_of(loss))), loss

    value_and_grad = jax.value_and_grad(scalar, has_aux=True)
    if count == 1:
        (_, loss), grads = value_and_grad(trained, state.model_state, batch, jnp.int32(0), None)
        return grads, loss

    micros = (split_batch(batch, count, shard), jnp.arange(count))

    # Weights follow from the data; the compiler drops the rest of this forward pass.
    def add_weights(weights: Any, micro: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, weights, weights_of(run(trained, state.model_state, *micro))), None

    first = jax.tree.map(lambda x: x[0], micros)
    shapes = jax.eval_shape(lambda: run(trained, state.model_state, *first))
    weights, _ = jax.lax.scan(add_weights, zeros(weights_of(shapes)), micros)
    weights = over_slices(weights)

    def accumulate(carry: Any, micro: Any) -> tuple[Any, None]:
        grads, model_state, terms, metrics = carry
        (_, loss), more = value_and_grad(trained, model_state, *micro, weights)
        sums = jax.tree.map(jnp.add, (grads, terms, metrics), (more, dict(loss.terms), dict(loss.metrics)))
        return (sums[0], loss.model_state, sums[1], sums[2]), None

    start = (zeros(trained), state.model_state, zeros(dict(shapes.terms)), zeros(dict(shapes.metrics)))
    (grads, model_state, terms, metrics), _ = jax.lax.scan(accumulate, start, micros)
    return grads, Loss(terms, model_state, metrics)


def average(state: TrainState, ema: Ema) -> TrainState:
    """The state with its moving average moved on; unchanged where none is kept."""
    if state.ema is None:
        return state
    count = state.step.astype(jnp.float32)
    decay = jnp.minimum(ema.decay, (1 + count) / (10 + count)) if ema.warmup else ema.decay
    live = {"params": state.params, "model_state": state.model_state}

    def mix(old: Array, new: Array) -> Array:
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        return old + (1 - decay) * (new - old)

    return state.replace(ema=jax.tree.map(mix, state.ema, live))


def take_part(batch: Tree, index: int, count: int) -> Tree:
    """The index-th of `count` interleaved parts of every array's first axis.

    Row i goes to part i mod count, which leaves each device its own rows; contiguous parts would have
    to be gathered from other devices.
    """

    def take(x: Array) -> Array:
        return x.reshape(x.shape[0] // count, count, *x.shape[1:])[:, index]

    return batch if count == 1 else jax.tree.map(take, batch)


def split_batch(batch: Batch, count: int, shard: Callable[[Tree], Tree]) -> Batch:
    """Micro-batches stacked on a new leading axis: [batch, ...] to [count, batch / count, ...]."""

    def split(x: Array) -> Array:
        return x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)

    stacked = jax.tree.map(split, batch)
    return jax.vmap(shard)(stacked)


def stream(name: str) -> int:
    """A stable number for a named random stream, the same in every process and version."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def weights_of(loss: Loss) -> dict[str, Array]:
    """The weight of every term."""
    return {name: term.weight for name, term in loss.terms.items()}


def total_of(terms: Mapping[str, Mean], weights: Mapping[str, Array]) -> Array:
    """Sum over the terms of sum divided by weight, in float32."""
    parts = (Mean(term.total, jax.lax.stop_gradient(weights[name])).value for name, term in terms.items())
    return sum(parts, start=jnp.zeros((), jnp.float32))


def one(value: Array) -> Mean:
    """A single value as a mean of weight one."""
    return Mean(jnp.asarray(value, jnp.float32), jnp.ones((), jnp.float32))


def zeros(tree: Tree) -> Tree:
    """Zeros of the shapes of `tree`."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
