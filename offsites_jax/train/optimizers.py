"""Optimizers by name, with clipping, weight decay and rates per part of the parameter tree.

The chain is always: L2 gradient, clip per tensor, clip globally, core, decoupled decay, schedule,
rate of the parameter's rule. The state holds nothing but arrays (moments and int32 step counts), so
it is sharded and checkpointed like any other part of the train state.
"""

import dataclasses
import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from offsites_jax.errors import UserError
from offsites_jax.train.schedules import RateFn, Schedule, create_schedule
from offsites_jax.train.schema import nearest


@dataclasses.dataclass(frozen=True)
class ParameterRule:
    """An exception for part of the parameter tree.

    Attributes:
      match: regex searched for in the parameter path, such as "^encoder/".
      rate: multiplies the learning rate there.
      weight_decay: False takes these parameters out of weight decay and L2.

    """

    match: str
    rate: float = 1.0
    weight_decay: bool = True


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Config section of an optimizer. Hyper-parameters its core does not have must be left out.

    Attributes:
      name: sgd, momentum, adam, adamw, rmsprop_tf, lamb, adafactor, lion or sm3.
      learning_rate: a schedule, or a number for a constant rate.
      rate_with_batch: what a stage with a batch size of its own does to the rate: none; linear multiplies it
        by that size over the run's `train.batch_size`, sqrt by the root of this.
      b1: decay of the first moment (adam, adamw, lamb 0.9; lion 0.9).
      b2: decay of the second moment (adam, adamw, lamb 0.999; lion 0.99).
      eps: added to the denominator (adam, adamw 1e-8; lamb 1e-6; rmsprop_tf 1e-3, inside the root;
        adafactor 1e-30).
      amsgrad: whether adam and adamw divide by the largest second moment so far, each corrected for its step
        (Reddi et al. 2018; torch corrects the largest instead).
      moment_dtype: type of the first moment of adam, adamw and lamb, float32 or bfloat16, which takes half.
      momentum: of momentum, rmsprop_tf and sm3 (0.9), and of adafactor (none).
      nesterov: whether momentum looks ahead.
      decay: of rmsprop_tf's mean square (0.9); exponent of adafactor's second-moment decay (0.8).
      weight_decay: decoupled decay, times the learning rate.
      l2: coupled decay: adds l2 * w to the gradient, as l2 / 2 * w^2 in the loss would.
      decay_mask: regexes on paths of what decays, for both kinds. Left out: weights of two or more
        axes whose own name does not end in bias or scale.
      clip_norm: largest norm of the whole gradient, after `clip_norm_per_tensor`; 0 is off.
      clip_norm_per_tensor: largest norm of the gradient of each tensor by itself; 0 is off.
      settings: exceptions by path; the first that matches a parameter holds.
      frozen: regexes on paths of what is not trained at all and has no optimizer state.
      members: whether the leading axis of every parameter counts models that are trained side by side, such
        as one per speaker. Clipping, moments and step counts are then each member's own, and a member
        whose gradient is zero everywhere, or not finite, stays as it is, counts and moments too.

    """

    name: str = "adam"
    learning_rate: Schedule | float = 1e-3
    rate_with_batch: Literal["none", "linear", "sqrt"] = "none"
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None
    amsgrad: bool | None = None
    moment_dtype: Literal["float32", "bfloat16"] | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    decay: float | None = None
    weight_decay: float = 0.0
    l2: float = 0.0
    decay_mask: tuple[str, ...] = ()
    clip_norm: float = 0.0
    clip_norm_per_tensor: float = 0.0
    settings: tuple[ParameterRule, ...] = ()
    frozen: tuple[str, ...] = ()
    members: bool = False


class Core(NamedTuple):
    """What makes an optimizer itself: up to three transformations around decay and schedule."""

    scale: optax.GradientTransformation
    after_decay: optax.GradientTransformation = optax.identity()
    after_rate: optax.GradientTransformation = optax.identity()


def create_optimizer(
    section: Optimizer,
    params: PyTree,
    total_steps: int,
    where: str = "optimizer",
    *,
    batch_ratio: float = 1.0,
) -> optax.GradientTransformation:
    """The gradient transformation of one optimizer section.

    Args:
      section: the config section.
      params: nested dict of the trained parameters, arrays or their shapes; frozen ones left out.
      total_steps: updates in the run, where the schedule does not say otherwise.
      where: place of the section in the config, for messages.
      batch_ratio: batch size of this stage over that of the run; see `Optimizer.rate_with_batch`.

    Raises:
      UserError: for an unknown name, a hyper-parameter the optimizer does not have, an impossible
        value, or a regex that matches no trained parameter.

    Example:
      >>> params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
      >>> tx = create_optimizer(Optimizer("adamw", 1e-3, weight_decay=0.1), params, total_steps=10)
      >>> updates, state = tx.update(params, tx.init(params), params)

    """
    _check(section, where)
    if section.members:
        params = _one_member(params, where)
    core = _core(section, where)
    rate = learning_rate(section, total_steps, where, batch_ratio=batch_ratio)
    decays, rates = _coefficients(section, params, where)
    chain = [
        _add_parameters(section.l2, decays) if section.l2 else None,
        _clip_per_tensor(section.clip_norm_per_tensor) if section.clip_norm_per_tensor else None,
        optax.clip_by_global_norm(section.clip_norm) if section.clip_norm else None,
        core.scale,
        _add_parameters(section.weight_decay, decays) if section.weight_decay else None,
        core.after_decay,
        optax.scale_by_schedule(lambda count: -rate(count)),
        core.after_rate,
        _scale_each(rates) if section.settings else None,
    ]
    tx = optax.chain(*(transform for transform in chain if transform is not None))
    return _each_member(tx) if section.members else tx


def learning_rate(
    section: Optimizer, total_steps: int, where: str = "optimizer", *, batch_ratio: float = 1.0
) -> RateFn:
    """The learning rate as a function of the step, before any factor of `settings`."""
    rate = create_schedule(section.learning_rate, total_steps, f"{where}.learning_rate")
    factor = batch_ratio ** _BATCH_POWERS[section.rate_with_batch]
    return rate if factor == 1 else lambda step: factor * rate(step)


def check_patterns(patterns: Iterable[str], paths: Iterable[str], where: str) -> None:
    """Raises UserError for a pattern that is not a regex, or is found in none of the paths."""
    paths = list(paths)
    for pattern in patterns:
        try:
            regex = re.compile(pattern)
        except re.error as error:
            raise UserError(f"config.{where}: {pattern!r} is not a regex: {error}") from None
        if not any(regex.search(path) for path in paths):
            raise UserError(
                f"config.{where}: {pattern!r} matches none of {len(paths)} parameters; "
                f"there are {', '.join(_similar(pattern, paths))}"
            )


def _sgd() -> Core:
    return Core(optax.identity())


def _momentum(*, momentum: float = 0.9, nesterov: bool = False) -> Core:
    return Core(optax.trace(momentum, nesterov))


def _adam(
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    amsgrad: bool = False,
    moment_dtype: str = "float32",
) -> Core:
    scale = optax.scale_by_amsgrad if amsgrad else optax.scale_by_adam
    return Core(scale(b1, b2, eps, mu_dtype=moment_dtype))


def _rmsprop_tf(*, decay: float = 0.9, eps: float = 1e-3, momentum: float = 0.9) -> Core:
    """RMSProp as TensorFlow does it.

    The mean square starts at 1, eps is inside the root, and momentum adds up steps that already
    contain the learning rate, so a change of rate takes effect gradually.
    """
    scale = optax.scale_by_rms(decay, eps, initial_scale=1.0, eps_in_sqrt=True)
    return Core(scale, after_rate=optax.trace(momentum))


def _lamb(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6, moment_dtype: str = "float32") -> Core:
    return Core(
        optax.scale_by_adam(b1, b2, eps, mu_dtype=moment_dtype), after_decay=optax.scale_by_trust_ratio()
    )


def _adafactor(*, decay: float = 0.8, eps: float = 1e-30, momentum: float = 0.0) -> Core:
    """Adafactor with updates clipped at 1 and scaled by the parameter (Shazeer & Stern 2018)."""
    scale = optax.chain(
        optax.scale_by_factored_rms(decay_rate=decay, epsilon=eps),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
        optax.ema(momentum, debias=False) if momentum else optax.identity(),
    )
    return Core(scale)


def _lion(*, b1: float = 0.9, b2: float = 0.99) -> Core:
    return Core(optax.scale_by_lion(b1, b2))


def _sm3(*, momentum: float = 0.9) -> Core:
    return Core(optax.scale_by_sm3(momentum))


_CORES: dict[str, Callable[..., Core]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "adam": _adam,
    "adamw": _adam,
    "rmsprop_tf": _rmsprop_tf,
    "lamb": _lamb,
    "adafactor": _adafactor,
    "lion": _lion,
    "sm3": _sm3,
}
_BATCH_POWERS = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}
_HYPERPARAMETERS = ("b1", "b2", "eps", "amsgrad", "moment_dtype", "momentum", "nesterov", "decay")
_NO_WEIGHT_DECAY = {
    "adam": "use adamw for decoupled decay, or l2 for decay through the gradient",
    "rmsprop_tf": "use l2, which is what TensorFlow recipes mean",
}


def _core(section: Optimizer, where: str) -> Core:
    """The named core with the hyper-parameters that are given."""
    if section.name not in _CORES:
        hint = nearest(section.name, _CORES)
        raise UserError(f"config.{where}.name: no optimizer {section.name!r}{hint}")
    create = _CORES[section.name]
    given = {n: getattr(section, n) for n in _HYPERPARAMETERS if getattr(section, n) is not None}
    for name in given:
        if name not in inspect.signature(create).parameters:
            raise UserError(f"config.{where}.{name}: {section.name!r} has none; leave it out")
    return create(**given)


def _coefficients(section: Optimizer, params: PyTree, where: str) -> tuple[PyTree, PyTree]:
    """Whether each parameter decays, and its rate: two trees like `params`."""
    leaves = {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    check_patterns(section.decay_mask, leaves, f"{where}.decay_mask")
    for index, rule in enumerate(section.settings):
        check_patterns([rule.match], leaves, f"{where}.settings[{index}].match")

    def rule_of(path: str) -> ParameterRule:
        found = (rule for rule in section.settings if re.search(rule.match, path))
        return next(found, ParameterRule(""))

    def decays(path: Any, leaf: Any) -> bool:
        name = _path(path)
        masked = any(re.search(pattern, name) for pattern in section.decay_mask)
        # A scanned stack gives biases and scales a second axis, hence the look at the name.
        usual = len(leaf.shape) > 1 and not name.endswith(("bias", "scale"))
        return (masked if section.decay_mask else usual) and rule_of(name).weight_decay

    return (
        jax.tree_util.tree_map_with_path(decays, params),
        jax.tree_util.tree_map_with_path(lambda path, _: rule_of(_path(path)).rate, params),
    )


def _one_member(params: PyTree, where: str) -> PyTree:
    """Shapes of one member's parameters."""
    sizes = {leaf.shape[0] if leaf.shape else 0 for leaf in jax.tree.leaves(params)}
    if len(sizes) != 1 or 0 in sizes:
        raise UserError(
            f"config.{where}.members: parameters must share a leading axis, but have {sorted(sizes)}"
        )
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params)


def _each_member(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The transformation on each index of the leading axis by itself; see `Optimizer.members`."""

    def update_one(grads: PyTree, state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        updates, after = tx.update(grads, state, params)
        leaves = jax.tree.leaves(grads)
        moved = jnp.any(jnp.stack([jnp.any(leaf != 0) for leaf in leaves]))
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
        keep = moved & finite
        updates = jax.tree.map(lambda update: jnp.where(keep, update, 0), updates)
        return updates, jax.tree.map(lambda new, old: jnp.where(keep, new, old), after, state)

    def update(grads: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        return jax.vmap(update_one)(grads, state, params)

    return optax.GradientTransformation(jax.vmap(tx.init), update)


def _clip_per_tensor(limit: float) -> optax.GradientTransformation:
    """Scales each tensor whose norm is above `limit` down to it."""

    def clip(grad: Array) -> Array:
        norm = jnp.sqrt(jnp.sum(jnp.square(grad)))
        return grad * (limit / jnp.maximum(norm, limit))

    return optax.stateless(lambda grads, _: jax.tree.map(clip, grads))


def _add_parameters(factor: float, chosen: PyTree) -> optax.GradientTransformation:
    """Adds `factor` times the parameter where `chosen` is true."""

    def add(update: Array, param: Array, on: bool) -> Array:
        return update + factor * param if on else update

    return optax.stateless(lambda updates, params: jax.tree.map(add, updates, params, chosen))


def _scale_each(factors: PyTree) -> optax.GradientTransformation:
    """Multiplies each tensor by its own number."""
    return optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors))


def _check(section: Optimizer, where: str) -> None:
    """Raises UserError for a value that no optimizer can have."""
    for name in ("weight_decay", "l2", "clip_norm", "clip_norm_per_tensor", "eps"):
        value = getattr(section, name)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"config.{where}.{name}: is {value}, must be at least 0")
    for name in ("b1", "b2", "momentum", "decay"):
        value = getattr(section, name)
        if value is not None and not 0 <= value < 1:
            raise UserError(f"config.{where}.{name}: is {value}, must be at least 0 and below 1")
    for index, rule in enumerate(section.settings):
        if not 0 < rule.rate < math.inf:
            raise UserError(
                f"config.{where}.settings[{index}].rate: is {rule.rate}, must be above 0; "
                "to train nothing there, name it in frozen"
            )
    if section.weight_decay and section.name in _NO_WEIGHT_DECAY:
        advice = _NO_WEIGHT_DECAY[section.name]
        raise UserError(f"config.{where}.weight_decay: not for {section.name!r}; {advice}")


def _path(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _similar(pattern: str, paths: Sequence[str]) -> list[str]:
    """Up to three paths, or parts of paths, that look like what the pattern may have meant."""
    words = re.sub(r"[^\w/]+", "", pattern)
    parts = sorted({*paths, *(part for path in paths for part in path.split("/"))})
    return difflib.get_close_matches(words, parts, n=3, cutoff=0.5) or sorted(paths)[:3]
