"""The lattice of a transducer: every way to emit a label sequence while walking through the frames.

A cell (t, u) has seen ``t`` frames and emitted ``u`` labels. A blank leads from it to (t + 1, u), the label
``u + 1`` to (t, u + 1), and the walk ends with the blank of the last cell (Graves 2012, arXiv 1211.3711).
This module knows log-probabilities of those two arcs only, not the vocabulary. Sums run over anti-diagonals
``t + u``, whose cells do not depend on each other (Bagby et al. 2018), as T + U steps of vector operations.

Lengths: an utterance uses cells t < T_b, u <= U_b of a batch [T, U + 1]. What lies outside is never looked
at, may be infinite or NaN, and gets a gradient of exactly 0. U_b = 0, T_b = 1 and U_b > T_b are legal.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

NEVER = -1e30
"""Log-probability of what cannot happen: finite, for the difference of two infinities is NaN."""


def inside_box(
    logit_lengths: Int[Array, " batch"], label_lengths: Int[Array, " batch"], frames: int, labels: int
) -> Bool[Array, "batch {frames} {labels}+1"]:
    """Which cells of [frames, labels + 1] each utterance uses."""
    t, u = jnp.arange(frames), jnp.arange(labels + 1)
    in_time = t < logit_lengths[:, None]
    in_labels = u <= label_lengths[:, None]
    return in_time[:, :, None] & in_labels[:, None, :]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def lattice_loss(
    blank: Float[Array, "batch frames labels+1"],
    label: Float[Array, "batch frames labels+1"],
    logit_lengths: Int[Array, " batch"],
    label_lengths: Int[Array, " batch"],
    fastemit_lambda: float = 0.0,
) -> Float[Array, " batch"]:
    """Negative log-likelihood of each utterance, in nats, with its exact gradient.

    Args:
        blank: log-probability of the blank in each cell, float32.
        label: log-probability of the next label in each cell; the last column is not used.
        logit_lengths: frames of each utterance, at least 1.
        label_lengths: labels of each utterance.
        fastemit_lambda: gradients of labels, not of blanks, are scaled by one more than this (FastEmit,
            Yu et al. 2021, arXiv 2010.11148, equations 9 and 10). The value stays as it is.

    """
    return _alphas_and_loss(blank, label, logit_lengths, label_lengths)[1]


def occupancies(
    blank: Float[Array, "batch frames labels+1"],
    label: Float[Array, "batch frames labels+1"],
    logit_lengths: Int[Array, " batch"],
    label_lengths: Int[Array, " batch"],
) -> tuple[Float[Array, "batch frames labels+1"], Float[Array, "batch frames labels+1"]]:
    """Probabilities that an alignment drawn from the posterior leaves a cell by its blank and by its label.

    Summed over ``u``, the former are 1 in each frame; summed over frames, the latter are 1 for each label:
    they say when it is spoken. Arguments are those of `lattice_loss`.
    """
    lengths = (logit_lengths, label_lengths)
    alpha, loss = _alphas_and_loss(blank, label, *lengths)
    return _occupancies(blank, label, *lengths, alpha, loss)


def alphas(
    blank: Float[Array, "batch frames labels+1"], label: Float[Array, "batch frames labels+1"]
) -> Float[Array, "batch frames labels+1"]:
    """Log-probability to reach each cell, by a scan over anti-diagonals; lengths play no part."""
    return _straighten(_diagonal_alphas(_skew(blank), _skew(label)), blank.shape[1])


def alphas_by_rows(
    blank: Float[Array, "batch frames labels+1"], label: Float[Array, "batch frames labels+1"]
) -> Float[Array, "batch frames labels+1"]:
    """The same as `alphas`, frame by frame, in time logarithmic in the number of labels for each frame.

    Within a frame alpha(u) = logaddexp(alpha(u - 1) + label(u - 1), entered(u)) is a linear recurrence
    of the log semiring, so an associative scan solves it. It needs no more than the frames so far.
    """

    def combine(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] + then[0], jnp.logaddexp(first[1] + then[0], then[1])

    def row(entered: Array, arcs: tuple[Array, Array]) -> tuple[Array, Array]:
        blank, label = arcs
        _, alpha = lax.associative_scan(combine, (_shift_right(label), entered), axis=1)
        return alpha + blank, alpha

    _, alpha = lax.scan(row, _start(blank[:, 0]), (jnp.moveaxis(blank, 1, 0), jnp.moveaxis(label, 1, 0)))
    return jnp.moveaxis(alpha, 0, 1)


def _alphas_and_loss(
    blank: Array, label: Array, logit_lengths: Array, label_lengths: Array
) -> tuple[Array, Array]:
    """Alphas by diagonals, [diagonals, batch, labels + 1], and the loss."""
    blank, label = _skewed_arcs(blank, label, logit_lengths, label_lengths)
    alpha = _diagonal_alphas(blank, label)
    row = jnp.arange(blank.shape[1])
    last = (jnp.maximum(logit_lengths - 1 + label_lengths, 0), row, label_lengths)
    return alpha, -(alpha[last] + blank[last])


def _skewed_arcs(
    blank: Array, label: Array, logit_lengths: Array, label_lengths: Array
) -> tuple[Array, Array]:
    """Arcs of both kinds by diagonals; those that no alignment of the utterance takes are `NEVER`."""
    inside = inside_box(logit_lengths, label_lengths, blank.shape[1], blank.shape[2] - 1)
    before_last = jnp.arange(blank.shape[2]) < label_lengths[:, None, None]
    label = jnp.where(inside & before_last, label, NEVER)
    return _skew(jnp.where(inside, blank, NEVER)), _skew(label)


def _diagonal_alphas(blank: Array, label: Array) -> Array:
    def step(reached: Array, arcs: tuple[Array, Array]) -> tuple[Array, Array]:
        blank, label = arcs
        return jnp.logaddexp(reached + blank, _shift_right(reached + label)), reached

    return lax.scan(step, _start(blank[0]), (blank, label))[1]


def _start(like: Array) -> Array:
    """[batch, columns]: surely in the first column."""
    return _never(like).at[:, 0].set(0)


def _never(like: Array) -> Array:
    """Where every path is still impossible, varying over the devices of a ``shard_map`` as ``like`` does."""
    varying = tuple(jax.typeof(like).manual_axis_type.varying)
    return lax.pcast(jnp.full(like.shape, NEVER, like.dtype), varying, to="varying")


def _occupancies(
    blank: Array, label: Array, logit_lengths: Array, label_lengths: Array, alpha: Array, loss: Array
) -> tuple[Array, Array]:
    """Of both arcs of each cell, given alphas by diagonals."""
    frames = blank.shape[1]
    arcs = _skewed_arcs(blank, label, logit_lengths, label_lengths)
    diagonals, _, columns = alpha.shape
    end = jnp.arange(columns) == label_lengths[:, None]
    end_diagonal = (logit_lengths + label_lengths)[:, None]

    def step(onward: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        diagonal, blank, label = inputs
        # The cell behind the final blank: from there, nothing is left to do.
        onward = jnp.where(end & (end_diagonal == diagonal + 1), 0, onward)
        by_blank, by_label = onward + blank, _shift_left(onward) + label
        return jnp.logaddexp(by_blank, by_label), (by_blank, by_label)

    _, onward = lax.scan(step, _never(arcs[0][0]), (jnp.arange(diagonals), *arcs), reverse=True)
    by_blank, by_label = (_straighten(jnp.exp(alpha + arc + loss[:, None]), frames) for arc in onward)
    inside = inside_box(logit_lengths, label_lengths, frames, columns - 1)
    return jnp.where(inside, by_blank, 0), jnp.where(inside, by_label, 0)


def _keep(
    blank: Array, label: Array, logit_lengths: Array, label_lengths: Array, fastemit_lambda: float
) -> tuple[Array, tuple[Array, ...]]:
    alpha, loss = _alphas_and_loss(blank, label, logit_lengths, label_lengths)
    return loss, (blank, label, logit_lengths, label_lengths, alpha, loss)


def _gradients(
    fastemit_lambda: float, kept: tuple[Array, ...], gradient: Array
) -> tuple[Array, Array, None, None]:
    by_blank, by_label = _occupancies(*kept)
    gradient = gradient[:, None, None]
    # Not a product: an utterance left out of the sum of losses may hold NaN.
    to_blank = jnp.where(gradient != 0, -gradient * by_blank, 0)
    to_label = jnp.where(gradient != 0, -(1 + fastemit_lambda) * gradient * by_label, 0)
    return to_blank, to_label, None, None


lattice_loss.defvjp(_keep, _gradients)


def _skew(x: Array) -> Array:
    """[batch, frames, columns] to [frames + columns - 1, batch, columns]: row t + u holds the cell (t, u)."""
    batch, frames, columns = x.shape
    by_column = jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, columns)), constant_values=NEVER)
    flat = by_column.reshape(batch, -1)[:, : columns * (frames + columns - 1)]
    return jnp.moveaxis(flat.reshape(batch, columns, -1), 2, 0)


def _straighten(x: Array, frames: int) -> Array:
    """The inverse of `_skew`."""
    diagonals, batch, columns = x.shape
    flat = jnp.moveaxis(x, 0, 2).reshape(batch, -1)
    by_column = jnp.pad(flat, ((0, 0), (0, columns))).reshape(batch, columns, diagonals + 1)
    return by_column[:, :, :frames].swapaxes(1, 2)


def _shift_right(x: Array) -> Array:
    return jnp.pad(x[:, :-1], ((0, 0), (1, 0)), constant_values=NEVER)


def _shift_left(x: Array) -> Array:
    return jnp.pad(x[:, 1:], ((0, 0), (0, 1)), constant_values=NEVER)
