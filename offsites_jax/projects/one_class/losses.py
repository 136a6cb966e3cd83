"""Losses of the pretext tasks: a number per row or anchor, whose mean over the global batch is minimised."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from offsites_jax.errors import UserError
from offsites_jax.nn.shards import free_batch_axes, num_shards

Negatives = Literal["other_view", "symmetric", "ntxent"]

Losses = Float[Array, "losses"]
Embeddings = Float[Array, "rows features"]

_EPSILON = 1e-12  # smallest squared length that is divided by


def cross_entropy(logits: Float[Array, "rows classes"], labels: Int[Array, "rows"]) -> Losses:
    """Natural logarithm of the inverse of the probability that each row's class was given."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def normalize(embeddings: Embeddings) -> Embeddings:
    """Rows of length 1, in float32."""
    rows = embeddings.astype(jnp.float32)
    return rows * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(rows), -1, keepdims=True), _EPSILON))


def contrastive(
    embeddings: Embeddings, temperature: float, negatives: Negatives = "other_view"
) -> Float[Array, "anchors"]:
    """Finds the second view of an image among others, by the cosine of the embeddings.

    Args:
      embeddings: of the global batch; rows 2i and 2i + 1 are the views of instance i.
      temperature: what the cosines are divided by.
      negatives: "other_view": first views look for their partner among all second views, as in
        google-research/deep_representation_one_class: no candidate is another first view, and second views
        are no anchors. "symmetric": the mean of that and of the opposite direction. "ntxent": all rows are
        anchors, and candidates of all others (SimCLR, arXiv 2002.05709).

    Returns:
      One loss per instance; for "ntxent" one per row.

    """
    if negatives == "ntxent":
        return _ntxent(normalize(embeddings), temperature)
    first, second = _views(embeddings)
    cosines = jnp.matmul(first, second.T, precision=jax.lax.Precision.HIGHEST) / temperature
    partner = jnp.sum(first * second, -1) / temperature
    forward = jax.nn.logsumexp(cosines, 1) - partner
    if negatives == "other_view":
        return forward
    return (forward + jax.nn.logsumexp(cosines, 0) - partner) / 2


def contrastive_accuracy(embeddings: Embeddings) -> Float[Array, "anchors"]:
    """1 for each first view whose partner is the nearest of all second views."""
    first, second = _views(embeddings)
    cosines = jnp.matmul(first, second.T, precision=jax.lax.Precision.HIGHEST)
    return (jnp.argmax(cosines, -1) == jnp.arange(len(first))).astype(jnp.float32)


def _views(
    embeddings: Embeddings,
) -> tuple[Float[Array, "anchors features"], Float[Array, "anchors features"]]:
    pairs = normalize(embeddings).reshape(-1, 2, embeddings.shape[-1])
    return pairs[:, 0], pairs[:, 1]


def _ntxent(rows: Embeddings, temperature: float) -> Losses:
    cosines = jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST) / temperature
    place = jnp.arange(len(rows))
    return cross_entropy(jnp.where(place[:, None] == place, -jnp.inf, cosines), place ^ 1)


def contrastive_in_chunks(embeddings: Embeddings, temperature: float, chunk: int) -> Float[Array, "anchors"]:
    """What `contrastive` gives for "other_view", with little memory, on the current mesh.

    Second views alone are gathered from all devices. Each device compares its own first views with them,
    `chunk` anchors at a time, and does so again for the gradient: no table of all pairs is ever kept.

    Args:
      embeddings: as for `contrastive`, split over the batch axes of the mesh.
      temperature: what the cosines are divided by.
      chunk: anchors at a time; divides the instances that one device holds.

    Raises:
      UserError: the instances do not divide over the devices, or theirs into chunks.

    """
    axes = free_batch_axes()
    devices = num_shards(axes)
    instances = len(embeddings) // 2
    if instances % (devices * chunk):
        raise UserError(
            f"pretext.chunk is {chunk}: {instances} instances do not divide into such chunks on {devices} "
            f"devices; make train.batch_size a multiple of {devices * chunk}"
        )
    compare = functools.partial(_compare_in_chunks, temperature=temperature, chunk=chunk)
    if devices == 1:
        return compare(embeddings, axes=())
    compare, split = functools.partial(compare, axes=axes), PartitionSpec(axes)
    return jax.shard_map(compare, in_specs=split, out_specs=split, axis_names=set(axes))(embeddings)


def _compare_in_chunks(
    embeddings: Embeddings, temperature: float, chunk: int, axes: tuple[str, ...]
) -> Float[Array, "anchors"]:
    first, second = _views(embeddings)
    place = jnp.arange(len(first)) + (jax.lax.axis_index(axes) * len(first) if axes else 0)
    candidates = jax.lax.all_gather(second, axes, tiled=True) if axes else second

    @jax.checkpoint
    def compare(part: tuple[Array, Array]) -> Array:
        anchors, targets = part
        cosines = jnp.matmul(anchors, candidates.T, precision=jax.lax.Precision.HIGHEST)
        return cross_entropy(cosines / temperature, targets)

    parts = first.reshape(-1, chunk, first.shape[-1]), place.reshape(-1, chunk)
    return jax.lax.map(compare, parts).reshape(-1)
