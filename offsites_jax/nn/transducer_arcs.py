"""Log-probabilities of the arcs of a transducer's lattice, from logits or from its joint network.

A cell has one distribution over the vocabulary, of which the lattice uses two entries: the blank's and the
next label's. So the gradient of its logits follows from two numbers, ``-p (b + y)`` plus ``b`` and ``y`` in
their places, and [batch, frames, labels + 1, vocabulary] need not exist at once: `joint_arcs` computes the
logits of a few frames at a time, and again for the gradient.

Cells whose two gradients are 0, as all outside an utterance's lengths, may hold infinities or NaN: they are
selected away before anything is computed with them.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from offsites_jax.nn.varying import equally_varying

CHUNK_BYTES = 16 * 2**20
"""Size of the float32 logits that `joint_arcs` computes at a time, where there is a choice."""

Joint = tuple[Array, Array, Array, Array]
"""Encoded, predicted, kernel, bias."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def logit_arcs(
    logits: Float[Array, "*cells labels+1 vocabulary"], labels: Int[Array, "*rows labels+1"], blank: int = 0
) -> tuple[Float[Array, "*cells labels+1"], Float[Array, "*cells labels+1"]]:
    """Log-softmax of the blank's and the next label's logit, float32.

    Args:
        logits: of any float type.
        labels: the label that leaves each cell, broadcast against it; anything where none does.
        blank: its place in the vocabulary.

    """
    return _arcs(logits, labels, blank)[:2]


def _arcs(logits: Array, labels: Array, blank: int) -> tuple[Array, Array, Array]:
    logits = logits.astype(jnp.float32)
    normalizer = jax.nn.logsumexp(logits, -1)
    to_label = _pick(logits, jnp.broadcast_to(labels, normalizer.shape))
    return logits[..., blank] - normalizer, to_label - normalizer, normalizer


def _pick(logits: Array, labels: Array) -> Array:
    """One logit of each cell; any number where there is no such label."""

    def gather(logits: Array, labels: Array) -> Array:
        return jnp.take_along_axis(logits, labels[..., None], -1, mode="clip")[..., 0]

    def select(logits: Array, labels: Array) -> Array:  # fuses with the sum of exponentials
        return jnp.where(_is_label(logits, labels), logits, 0).sum(-1)

    return lax.platform_dependent(logits, labels, cpu=gather, default=select)


def _is_label(logits: Array, labels: Array) -> Array:
    return lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1) == labels[..., None]


def _logit_gradient(
    logits: Array, labels: Array, normalizer: Array, gradients: tuple[Array, Array], blank: int
) -> Array:
    """Gradient with regard to ``logits`` from those with regard to both arcs, float32."""
    to_blank, to_label = (gradient[..., None] for gradient in gradients)
    probability = jnp.exp(logits.astype(jnp.float32) - normalizer[..., None])
    spread = -probability * (to_blank + to_label)
    spread += jnp.where(lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == blank, to_blank, 0)
    spread += jnp.where(_is_label(logits, labels), to_label, 0)
    return jnp.where((to_blank != 0) | (to_label != 0), spread, 0)


def _keep_logits(
    logits: Array, labels: Array, blank: int
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
    to_blank, to_label, normalizer = _arcs(logits, labels, blank)
    return (to_blank, to_label), (logits, labels, normalizer)


def _gradient_of_logits(
    blank: int, kept: tuple[Array, Array, Array], gradients: tuple[Array, Array]
) -> tuple[Array, None]:
    logits, labels, normalizer = kept
    labels = jnp.broadcast_to(labels, normalizer.shape)
    return _logit_gradient(logits, labels, normalizer, gradients, blank).astype(logits.dtype), None


logit_arcs.defvjp(_keep_logits, _gradient_of_logits)


def joint_arcs(
    encoded: Float[Array, "batch frames joint"],
    predicted: Float[Array, "batch labels+1 joint"],
    kernel: Float[Array, "joint vocabulary"],
    bias: Float[Array, " vocabulary"],
    labels: Int[Array, "batch labels+1"],
    blank: int = 0,
    chunk_size: int | None = None,
) -> tuple[Float[Array, "batch frames labels+1"], Float[Array, "batch frames labels+1"]]:
    """`logit_arcs` of ``tanh(encoded + predicted) @ kernel + bias``, a few frames at a time.

    Keeps its arguments and one number a cell for the gradient. Products are of the type of ``encoded`` and
    ``predicted``, to which the kernel is cast; sums and everything else are float32.

    Args:
        encoded: frames, projected to the joint network's width.
        predicted: predictor outputs after 0, 1, ... labels, likewise projected.
        kernel: of the output layer.
        bias: of the output layer.
        labels: the label that leaves each cell; anything where none does.
        blank: its place in the vocabulary.
        chunk_size: frames at a time; default: as many as make `CHUNK_BYTES` of logits, and at least one.
            Under ``vmap``, that many bytes for each mapped row.

    """
    if chunk_size is None:
        chunk_size = CHUNK_BYTES // (4 * math.prod(predicted.shape[:2]) * kernel.shape[1])
    chunk_size = min(max(chunk_size, 1), encoded.shape[1])
    joint = equally_varying((encoded, predicted, kernel, bias))
    return _joint_arcs(joint, labels, blank, chunk_size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _joint_arcs(joint: Joint, labels: Array, blank: int, chunk_size: int) -> tuple[Array, Array]:
    return _keep_joint(joint, labels, blank, chunk_size)[0]


def _keep_joint(
    joint: Joint, labels: Array, blank: int, chunk_size: int
) -> tuple[tuple[Array, Array], tuple[Joint, Array, Array]]:
    encoded, predicted, kernel, bias = joint

    def chunk(encoded: Array) -> tuple[Array, Array, Array]:
        hidden = _hidden(encoded, predicted)
        return _arcs(_product(hidden, kernel) + bias, labels[:, None], blank)

    arcs = lax.map(chunk, _chunks(encoded, chunk_size))
    to_blank, to_label, normalizer = (_whole(x, encoded.shape[1]) for x in arcs)
    return (to_blank, to_label), (joint, labels, normalizer)


def _gradient_of_joint(
    blank: int, chunk_size: int, kept: tuple[Joint, Array, Array], gradients: tuple[Array, Array]
) -> tuple[Joint, None]:
    (encoded, predicted, kernel, bias), labels, normalizer = kept

    def chunk(sums: tuple[Array, ...], inputs: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array]:
        encoded, normalizer, to_blank, to_label = inputs
        used = ((to_blank != 0) | (to_label != 0))[..., None]
        hidden = jnp.where(used, _hidden(encoded, predicted), 0)
        logits = _product(hidden, kernel) + bias
        by_labels = jnp.broadcast_to(labels[:, None], normalizer.shape)
        to_logits = _logit_gradient(logits, by_labels, normalizer, (to_blank, to_label), blank)
        narrow = to_logits.astype(hidden.dtype)
        to_sum = _product(narrow, kernel.T) * (1 - jnp.square(hidden.astype(jnp.float32)))
        to_kernel = lax.dot_general(
            _rows(hidden), _rows(narrow), (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )
        more = (to_sum.sum(1), to_kernel, _rows(to_logits).sum(0))
        return jax.tree.map(jnp.add, sums, more), to_sum.sum(2)

    zeros: tuple[Array, ...] = tuple(jnp.zeros_like(x, jnp.float32) for x in (predicted, kernel, bias))
    inputs = tuple(_chunks(x, chunk_size) for x in (encoded, normalizer, *gradients))
    (to_predicted, to_kernel, to_bias), to_encoded = lax.scan(chunk, zeros, inputs)
    to_joint = (
        _whole(to_encoded, encoded.shape[1]).astype(encoded.dtype),
        to_predicted.astype(predicted.dtype),
        to_kernel.astype(kernel.dtype),
        to_bias.astype(bias.dtype),
    )
    return to_joint, None


_joint_arcs.defvjp(_keep_joint, _gradient_of_joint)


def _hidden(encoded: Array, predicted: Array) -> Array:
    """[batch, frames, labels + 1, joint]; the sum and its tanh are float32."""
    total = encoded[:, :, None].astype(jnp.float32) + predicted[:, None].astype(jnp.float32)
    return jnp.tanh(total).astype(jnp.result_type(encoded, predicted))


def _product(x: Array, kernel: Array) -> Array:
    return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def _chunks(x: Array, size: int) -> Array:
    """[batch, frames, ...] to [chunks, batch, size, ...], the last chunk filled with zeros."""
    batch, frames = x.shape[:2]
    count = -(-frames // size)
    padded = jnp.pad(x, ((0, 0), (0, count * size - frames), *((0, 0),) * (x.ndim - 2)))
    return jnp.moveaxis(padded.reshape(batch, count, size, *x.shape[2:]), 1, 0)


def _whole(x: Array, frames: int) -> Array:
    """The inverse of `_chunks`."""
    joined = jnp.moveaxis(x, 0, 1)
    return joined.reshape(joined.shape[0], -1, *joined.shape[3:])[:, :frames]
