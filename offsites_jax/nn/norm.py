"""Batch normalisation with a choice of whose statistics normalise an example.

Under ``jit`` a mean over the batch axis is a mean over the whole global batch, wherever its shards
live, and costs an all-reduce per layer and direction. Statistics over groups of examples, or over
what one device holds ("ghost" batch norm, Hoffer et al. 2017, arXiv 1705.08741), stay local.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from offsites_jax.errors import UserError
from offsites_jax.nn.shards import free_batch_axes, manual_batch_axes, num_shards

Statistics = Literal["global", "group", "device", "frozen"]

Affine = tuple[Array, Array]
"""Scale and bias, each [channels]."""


@dataclasses.dataclass(frozen=True)
class BatchNormSettings:
    """What a model lets an experiment choose about its batch norms.

    Attributes:
        momentum: weight of the old running statistic, ``new = momentum * old + (1 - m) * batch``.
        epsilon: added to the variance.
        statistics: ``"global"``: moments of the whole batch, whatever the mesh. ``"group"``:
            moments of each ``group_size`` neighbouring examples; the result does not depend on the
            mesh, and needs no collective when the number of groups is a multiple of the number of
            batch shards. ``"device"``: moments of the examples one device holds; equal to
            ``"global"`` where no mesh is current. ``"frozen"``: the running ones in training, too, which
            stay as they are: to fine-tune on little data.
        group_size: examples in a group; used by ``"group"`` only.

    Raises:
        UserError: if a value is outside its range.

    """

    momentum: float = 0.9
    epsilon: float = 1e-3
    statistics: Statistics = "global"
    group_size: int = 0

    def __post_init__(self) -> None:
        if self.statistics not in get_args(Statistics):
            known = ", ".join(get_args(Statistics))
            raise UserError(f"norm.statistics is {self.statistics!r}: choose one of {known}")
        if self.statistics == "group" and self.group_size < 1:
            raise UserError(
                f"norm.group_size is {self.group_size}: statistics 'group' needs the number of "
                "examples in a group, 1 or more"
            )
        if not 0 <= self.momentum < 1:
            raise UserError(f"norm.momentum is {self.momentum}: it must be in [0, 1)")
        if self.epsilon <= 0:
            raise UserError(f"norm.epsilon is {self.epsilon}: it must be above 0")


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last; parameters and statistics as flax names them.

    Parameters ``scale`` and ``bias``; ``batch_stats`` ``mean`` and ``var``; all [channels], float32.
    Moments are taken in float32 as E[x²] - E[x]², with the biased variance both in the normalisation
    and in the running statistics, which average over groups or devices where there are several.
    Initialisation always uses the whole batch, so it may run on any number of examples.

    Attributes:
        settings: momentum, epsilon and whose statistics to use.
        dtype: type of the output; ``None`` keeps the type of the input.

    """

    settings: BatchNormSettings = BatchNormSettings()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *rest channels"], use_running_average: bool
    ) -> Float[Array, "batch *rest channels"]:
        """Normalise ``x`` by its own moments, or by the running ones.

        Raises:
            UserError: if the batch does not divide into groups, or over the devices.

        """
        width, settings = x.shape[-1], self.settings
        scale = self.param("scale", nn.initializers.ones, (width,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (width,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (width,), jnp.float32)
        affine = (scale, bias)
        dtype = self.dtype or x.dtype

        if use_running_average or (settings.statistics == "frozen" and not self.is_initializing()):
            return _affine_norm(x, (mean.value, var.value), affine, settings.epsilon).astype(dtype)
        if self.is_initializing() or settings.statistics == "global":
            y, moments = _normalise_whole(x, affine, settings.epsilon, manual_batch_axes())
        elif settings.statistics == "group":
            y, moments = _normalise_groups(x, affine, settings.epsilon, settings.group_size)
        else:
            y, moments = _normalise_per_device(x, affine, settings.epsilon)
        if not self.is_initializing():
            mean.value = settings.momentum * mean.value + (1 - settings.momentum) * moments[0]
            var.value = settings.momentum * var.value + (1 - settings.momentum) * moments[1]
        return y.astype(dtype)


def _moments(x: Array, axes: Sequence[int], across: tuple[str, ...] = ()) -> tuple[Array, Array]:
    """Mean and biased variance over ``axes`` (kept, size 1) and the manual mesh axes ``across``."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, square = x.mean(axes, keepdims=True), jnp.square(x).mean(axes, keepdims=True)
    if across:
        mean, square = jax.lax.pmean((mean, square), across)
    # Rounding can bring the difference of two large numbers below zero.
    return mean, jnp.maximum(square - jnp.square(mean), 0)


def _affine_norm(x: Array, moments: tuple[Array, Array], affine: Affine, epsilon: float) -> Array:
    mean, var = moments
    return (x - mean) * (jax.lax.rsqrt(var + epsilon) * affine[0]) + affine[1]


def _normalise(
    x: Array, affine: Affine, axes: tuple[int, ...], across: tuple[str, ...], epsilon: float
) -> tuple[Array, tuple[Array, Array]]:
    """Normalise by the moments over ``axes`` and ``across``, and return those without a gradient."""
    moments = jax.lax.stop_gradient(_moments(x, axes, across))
    varying = tuple(jax.typeof(x).manual_axis_type.varying)  # as the gradients of scale and bias will be
    affine = jax.tree.map(lambda a: _vary(a, varying), affine)
    return _by_moments(x, moments, affine, axes, across, epsilon), moments


def _vary(a: Array, axes: tuple[str, ...]) -> Array:
    missing = set(axes) - jax.typeof(a).manual_axis_type.varying
    return jax.lax.pcast(a, tuple(missing), to="varying")


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _by_moments(
    x: Array,
    moments: tuple[Array, Array],
    affine: Affine,
    axes: tuple[int, ...],
    across: tuple[str, ...],
    epsilon: float,
) -> Array:
    """As `_affine_norm`; its gradient counts that the moments are those of ``x``."""
    return _affine_norm(x, moments, affine, epsilon)


def _keep_inputs(
    x: Array,
    moments: tuple[Array, Array],
    affine: Affine,
    axes: tuple[int, ...],
    across: tuple[str, ...],
    epsilon: float,
) -> tuple[Array, tuple[Array, tuple[Array, Array], Affine]]:
    return _affine_norm(x, moments, affine, epsilon), (x, moments, affine)


def _gradients(
    axes: tuple[int, ...],
    across: tuple[str, ...],
    epsilon: float,
    kept: tuple[Array, tuple[Array, Array], Affine],
    gradient: Array,
) -> tuple[Array, tuple[Array, Array], Affine]:
    """Ioffe & Szegedy 2015, arXiv 1502.03167, section 3: two sums give all three gradients."""
    x, (mean, var), (scale, _) = kept
    inverse = jax.lax.rsqrt(var + epsilon)
    count = math.prod(x.shape[axis] for axis in axes)
    to_bias = gradient.sum(axes, keepdims=True)
    to_scale = (gradient * (x - mean)).sum(axes, keepdims=True) * inverse
    shift, slope = _mean_across(to_bias / count, across), _mean_across(to_scale / count, across)
    to_x = (gradient - shift - (x - mean) * (inverse * slope)) * (inverse * scale)
    to_affine = [total.reshape(-1, x.shape[-1]).sum(0) for total in (to_scale, to_bias)]
    nothing = jnp.zeros_like(mean), jnp.zeros_like(var)
    return to_x.astype(x.dtype), nothing, (to_affine[0], to_affine[1])


_by_moments.defvjp(_keep_inputs, _gradients)


def _normalise_whole(
    x: Array, affine: Affine, epsilon: float, across: tuple[str, ...] = ()
) -> tuple[Array, Array]:
    """Normalise by the moments of all examples; return them too, as [2, channels]."""
    y, moments = _normalise(x, affine, tuple(range(x.ndim - 1)), across, epsilon)
    return y, jnp.stack(moments).reshape(2, -1)


def _normalise_groups(x: Array, affine: Affine, epsilon: float, group_size: int) -> tuple[Array, Array]:
    """Normalise each ``group_size`` neighbours by their moments; return the mean over groups."""
    if x.shape[0] % group_size:
        raise UserError(
            f"a batch of {x.shape[0]} does not divide into groups of norm.group_size={group_size}: "
            f"make train.batch_size / train.accumulate a multiple of {group_size}"
        )
    grouped = x.reshape(-1, group_size, *x.shape[1:])
    y, moments = _normalise(grouped, affine, tuple(range(1, grouped.ndim - 1)), (), epsilon)
    averaged = jnp.stack(moments).reshape(2, -1, x.shape[-1]).mean(1)
    return y.reshape(x.shape), _mean_across(averaged, manual_batch_axes())


def _normalise_per_device(x: Array, affine: Affine, epsilon: float) -> tuple[Array, Array]:
    """Normalise each device's examples by their moments; return the mean over devices."""
    axes = free_batch_axes()
    devices = num_shards(axes)
    if x.shape[0] % devices:
        raise UserError(
            f"a batch of {x.shape[0]} does not divide over {devices} devices as norm.statistics="
            f"'device' needs: make train.batch_size / train.accumulate a multiple of {devices}"
        )

    def on_one_device(x: Array, affine: Affine) -> tuple[Array, Array]:
        y, moments = _normalise_whole(x, affine, epsilon)
        return y, jax.lax.pmean(moments, axes)

    if devices == 1:
        y, moments = _normalise_whole(x, affine, epsilon)
    else:
        split, whole = PartitionSpec(axes), PartitionSpec()
        y, moments = jax.shard_map(
            on_one_device,
            in_specs=(split, whole),
            out_specs=(split, whole),
            axis_names=set(axes),
        )(x, affine)
    return y, _mean_across(moments, manual_batch_axes())


def _mean_across(x: Array, axes: tuple[str, ...]) -> Array:
    return jax.lax.pmean(x, axes) if axes else x
