"""Learning rates as functions of the step.

A schedule is a linear warm-up from `warmup_from` to the peak, and from then on a shape. A shape
counts its steps from `decay_start`: the end of the warm-up for cosines, linear and rsqrt; step 0 for
exponential, whose decay goes on, unseen, below the warm-up. Boundaries of piecewise are steps of
the run.
"""

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from offsites_jax.errors import UserError
from offsites_jax.train.schema import nearest

Steps = Int[Array, "*steps"]
Rates = Float[Array, "*steps"]
RateFn = Callable[[Steps | int], Rates]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Config section of a learning rate. Fields that the named shape does not use must be left out.

    Attributes:
      name: constant, cosine, half_cosine, linear, exponential, rsqrt, transformer or piecewise.
      peak: the rate that the warm-up leads to and the shape starts from.
      warmup_steps: length of the warm-up; step `warmup_steps` is the first one without it.
      warmup_from: the rate of step 0, where there is a warm-up.
      decay_start: the step from which the shape counts; before it the shape stays at its peak.
      total_steps: the step at which cosines and linear arrive at their end; left out, the run's last.
      end: where cosine and linear end; the lowest rate of exponential and rsqrt.
      every: cosines and linear move once in so many steps, such as once per epoch.
      factor: what exponential multiplies by once per `period`; what transformer is multiplied by.
      period: steps per factor of exponential; a fraction is fine (2.4 epochs of 312.78 steps).
      staircase: whether exponential moves at whole periods only.
      timescale: rsqrt is peak / sqrt(1 + t / timescale); left out, the length of the warm-up.
      model_size: the width that transformer scales by.
      boundaries: steps at which piecewise moves on; a boundary step already has the new rate.
      values: the rates of piecewise, one more than there are boundaries; or
      scales: what the rate is multiplied by at each boundary, starting from the peak.

    """

    name: str = "constant"
    peak: float | None = None
    warmup_steps: int = 0
    warmup_from: float = 0.0
    decay_start: int | None = None
    total_steps: int | None = None
    end: float | None = None
    every: int | None = None
    factor: float | None = None
    period: float | None = None
    staircase: bool | None = None
    timescale: float | None = None
    model_size: int | None = None
    boundaries: tuple[int, ...] | None = None
    values: tuple[float, ...] | None = None
    scales: tuple[float, ...] | None = None


def create_schedule(
    schedule: Schedule | float, total_steps: int, where: str = "optimizer.learning_rate"
) -> RateFn:
    """The rate as a function of the step, or of an array of steps; float32, can be jitted.

    Args:
      schedule: the config section, or a number for a constant rate.
      total_steps: updates in the run.
      where: place of the section in the config, for messages.

    Raises:
      UserError: for an unknown name, a field that is missing or unused, or an impossible value.

    Example:
      >>> rate = create_schedule(Schedule("cosine", peak=0.1, warmup_steps=10), total_steps=110)
      >>> [round(float(rate(step)), 3) for step in (0, 5, 10, 60, 110)]
      [0.0, 0.05, 0.1, 0.05, 0.0]

    """
    if not isinstance(schedule, Schedule):
        schedule = Schedule(peak=float(schedule))
    if schedule.name not in _SHAPES:
        hint = nearest(schedule.name, _SHAPES)
        raise UserError(f"config.{where}.name: no schedule {schedule.name!r}{hint}")
    shape = _SHAPES[schedule.name]
    parameters = inspect.signature(shape).parameters
    fields = _fields_for(shape, _filled(schedule, total_steps, parameters), where)
    _check(schedule, where)
    decay = shape(**fields)
    if schedule.warmup_steps == 0 or "warmup_steps" in parameters:
        return decay
    peak = schedule.values[0] if schedule.values else schedule.peak
    assert peak is not None
    return _after_warmup(decay, schedule.warmup_steps, schedule.warmup_from, peak)


def _after_warmup(decay: RateFn, warmup_steps: int, start: float, peak: float) -> RateFn:
    def rate(step: Steps | int) -> Rates:
        step = jnp.asarray(step)
        warming = start + (peak - start) * (step / warmup_steps)
        return jnp.where(step < warmup_steps, warming, decay(step))

    return rate


def _constant(*, peak: float) -> RateFn:
    return lambda step: jnp.full(jnp.shape(step), peak, jnp.float32)


def _cosine(*, peak: float, decay_start: int, total_steps: int, end: float = 0.0, every: int = 1) -> RateFn:
    def rate(step: Steps | int) -> Rates:
        share = _share(step, decay_start, total_steps, every)
        return end + (peak - end) * (0.5 * (1 + jnp.cos(math.pi * share)))

    return rate


def _half_cosine(*, peak: float, decay_start: int, total_steps: int, every: int = 1) -> RateFn:
    """Ends at cos(7 pi / 16), a fifth of the peak (FixMatch, arXiv 2001.07685, section 2.4)."""

    def rate(step: Steps | int) -> Rates:
        return peak * jnp.cos(7 / 16 * math.pi * _share(step, decay_start, total_steps, every))

    return rate


def _linear(*, peak: float, decay_start: int, total_steps: int, end: float = 0.0, every: int = 1) -> RateFn:
    def rate(step: Steps | int) -> Rates:
        return peak + (end - peak) * _share(step, decay_start, total_steps, every)

    return rate


def _exponential(
    *,
    peak: float,
    decay_start: int,
    factor: float,
    period: float,
    end: float = 0.0,
    staircase: bool = False,
) -> RateFn:
    # Dividing integers is exact, so that a jump falls on its step whatever the hardware's division.
    divisor = int(period) if float(period).is_integer() else period

    def rate(step: Steps | int) -> Rates:
        elapsed = _elapsed(step, decay_start)
        periods = elapsed // divisor if staircase else elapsed / divisor
        return jnp.maximum(peak * jnp.exp(math.log(factor) * periods), end)

    return rate


def _rsqrt(*, peak: float, decay_start: int, timescale: float, end: float = 0.0) -> RateFn:
    def rate(step: Steps | int) -> Rates:
        return jnp.maximum(peak * jax.lax.rsqrt(1 + _elapsed(step, decay_start) / timescale), end)

    return rate


def _transformer(*, model_size: int, warmup_steps: int, factor: float = 1.0) -> RateFn:
    """Vaswani et al. 2017, equation 3, with steps counted from 1 as in tensorflow/lingvo."""

    def rate(step: Steps | int) -> Rates:
        count = jnp.asarray(step, jnp.float32) + 1
        return factor * model_size**-0.5 * jnp.minimum(count * warmup_steps**-1.5, jax.lax.rsqrt(count))

    return rate


def _piecewise(
    *,
    boundaries: tuple[int, ...],
    values: tuple[float, ...] | None = None,
    peak: float | None = None,
    scales: tuple[float, ...] | None = None,
) -> RateFn:
    if values is None:
        assert peak is not None
        assert scales is not None
        values = tuple(itertools.accumulate(scales, lambda rate, scale: rate * scale, initial=peak))
    table, edges = np.asarray(values, np.float32), np.asarray(boundaries, np.int32)

    def rate(step: Steps | int) -> Rates:
        passed = (jnp.asarray(step)[..., None] >= edges).sum(-1)
        return jnp.asarray(table)[passed]

    return rate


_SHAPES: dict[str, Callable[..., RateFn]] = {
    "constant": _constant,
    "cosine": _cosine,
    "half_cosine": _half_cosine,
    "linear": _linear,
    "exponential": _exponential,
    "rsqrt": _rsqrt,
    "transformer": _transformer,
    "piecewise": _piecewise,
}


def _elapsed(step: Steps | int, start: int) -> Steps:
    """Steps since `start`, 0 before it."""
    return jnp.maximum(jnp.asarray(step) - start, 0)


def _share(step: Steps | int, start: int, total_steps: int, every: int) -> Rates:
    """How much of the way from `start` to `total_steps` is done at the last multiple of `every`."""
    # A run cut shorter than its warm-up never gets here, but must still compile.
    span = max(total_steps - start, 1)
    return jnp.minimum(_elapsed(step, start) // every * every / span, 1.0)


def _filled(schedule: Schedule, total_steps: int, parameters: Collection[str]) -> Schedule:
    """The schedule with the fields that follow from the run and from the warm-up."""
    start = 0 if schedule.name == "exponential" else schedule.warmup_steps
    follows = {
        "total_steps": total_steps,
        "decay_start": start,
        "timescale": schedule.warmup_steps or None,
    }
    missing: dict[str, Any] = {
        name: value
        for name, value in follows.items()
        if name in parameters and getattr(schedule, name) is None
    }
    return dataclasses.replace(schedule, **missing)


def _fields_for(shape: Callable[..., RateFn], schedule: Schedule, where: str) -> dict[str, Any]:
    """The fields that a shape takes, checked to be neither missing nor too many."""
    parameters = inspect.signature(shape).parameters
    common = ("name", "warmup_steps", "warmup_from")
    given = {f.name: getattr(schedule, f.name) for f in dataclasses.fields(Schedule)}
    for name, value in given.items():
        if value is not None and name not in parameters and name not in common:
            raise UserError(
                f"config.{where}.{name}: schedule {schedule.name!r} does not use it; leave it out"
            )
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and given[name] is None:
            raise UserError(f"config.{where}.{name}: missing; schedule {schedule.name!r} needs it")
    return {name: given[name] for name in parameters if given[name] is not None}


def _check(schedule: Schedule, where: str) -> None:
    """Raises UserError for a value that no schedule can have."""
    floors = {
        "peak": 0, "warmup_steps": 0, "warmup_from": 0, "decay_start": 0, "end": 0,
        "total_steps": 1, "every": 1, "model_size": 1,
    }  # fmt: skip
    for name, floor in floors.items():
        value = getattr(schedule, name)
        if value is not None and not floor <= value < math.inf:
            raise UserError(f"config.{where}.{name}: is {value}, must be at least {floor}")
    for name in ("factor", "period", "timescale"):
        value = getattr(schedule, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"config.{where}.{name}: is {value}, must be above 0")
    start = schedule.warmup_steps if schedule.decay_start is None else schedule.decay_start
    if schedule.total_steps is not None and schedule.total_steps <= start:
        raise UserError(
            f"config.{where}.total_steps: is {schedule.total_steps}, so no steps are left to decay "
            f"over after step {start}; raise it or lower warmup_steps"
        )
    if schedule.name == "transformer" and schedule.warmup_steps == 0:
        raise UserError(f"config.{where}.warmup_steps: missing; schedule 'transformer' needs it")
    if schedule.name == "piecewise":
        _check_pieces(schedule, where)


def _check_pieces(schedule: Schedule, where: str) -> None:
    """Raises UserError unless boundaries rise and there is one rate for each piece."""
    boundaries = schedule.boundaries or ()
    if any(later <= earlier for earlier, later in itertools.pairwise((0, *boundaries))):
        raise UserError(f"config.{where}.boundaries: {list(boundaries)} must rise, from above 0")
    by_value = schedule.values is not None
    if by_value == (schedule.scales is not None):
        raise UserError(f"config.{where}.values: give either values, or peak and scales")
    if by_value == (schedule.peak is not None):
        raise UserError(f"config.{where}.peak: goes with scales, and only with them")
    name = "values" if by_value else "scales"
    rates, needed = getattr(schedule, name), len(boundaries) + by_value
    if len(rates) != needed:
        raise UserError(
            f"config.{where}.{name}: has {len(rates)} entries; {len(boundaries)} boundaries need {needed}"
        )
    if not all(0 <= rate < math.inf for rate in rates):
        raise UserError(f"config.{where}.{name}: {list(rates)} must be finite and not negative")
