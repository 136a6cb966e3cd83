"""Every query against every training row, without ever holding all their products.

The training rows are split over the mesh and then into blocks, the queries into chunks: what exists at a time
on a device is one chunk against one block. Each block is reduced at once, to a logarithm of a sum or to the
nearest few, and the reduced values are merged over blocks and devices.

The functions without "sharded" in their name are pure and differentiable, and run on whatever one device they
are traced for; given `axes`, they are the body of a `shard_map` and combine over these axes of the mesh.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from offsites_jax.parallel.mesh import BATCH_AXES, MeshSettings, create_mesh, num_batch_shards, replicated

QUERY_ROWS = 1024
"""Queries that are compared at once."""
TRAIN_ROWS = 2048
"""Training rows that they are compared with at once, on each device."""

_HIGHEST = jax.lax.Precision.HIGHEST

Queries = Float[Array, "queries dim"]
Rows = Float[Array, "rows dim"]


class SplitRows(NamedTuple):
    """Training rows, or one device's part of them.

    Attributes:
      features: the rows.
      log_weights: of the rows; -inf for one that does not count.
      numbers: place of each row among all of them.

    """

    features: Rows
    log_weights: Float[Array, "rows"]
    numbers: Int[Array, "rows"]


def whole_rows(
    features: Float[np.ndarray, "rows dim"], log_weights: Float[np.ndarray, "rows"] | None = None
) -> SplitRows:
    """The rows where one device has them all; weights are 0 unless given."""
    weights = jnp.zeros(len(features)) if log_weights is None else jnp.asarray(log_weights)
    return SplitRows(jnp.asarray(features), weights, jnp.arange(len(features)))


def log_sums(
    queries: Queries,
    rows: SplitRows,
    gamma: Any,
    *,
    axes: tuple[str, ...] = (),
    skip: Int[Array, "queries"] | None = None,
) -> Float[Array, "queries"]:
    """For each query q, log Σ_i exp(log_weight_i - gamma ‖q - row_i‖²).

    The squares are expanded around the mean of a block, where the inner products are small: expanded around
    zero, those of features that lie close together would lose their difference to rounding.

    Args:
      queries: what is asked for.
      rows: the training rows, or this device's part of them.
      gamma: of the kernel.
      axes: mesh axes that the rows are split over.
      skip: for each query, the number of the row it leaves out.

    """

    @jax.checkpoint  # a gradient computes the products anew rather than keep those of all blocks
    def of_block(block: SplitRows) -> Array:
        part, weights, numbers = block
        centre = part.mean(axis=0)
        left, right = queries - centre, part - centre
        products = jnp.matmul(left, right.T, precision=_HIGHEST)
        distances = _squares(left)[:, None] + _squares(right) - 2 * products
        exponents = weights - gamma * distances
        if skip is not None:
            exponents = jnp.where(numbers == skip[:, None], -jnp.inf, exponents)
        return jax.nn.logsumexp(exponents, axis=1)

    local = jax.nn.logsumexp(jax.lax.map(of_block, _blocks(rows)), axis=0)
    if not axes:
        return local
    top = jax.lax.pmax(local, axes)
    top = jnp.where(jnp.isfinite(top), top, 0.0)  # a query that left out the only row
    return top + jnp.log(jax.lax.psum(jnp.exp(local - top), axes))


def nearest(
    queries: Queries,
    rows: SplitRows,
    neighbours: int,
    *,
    axes: tuple[str, ...] = (),
) -> Float[Array, "queries neighbours"]:
    """Cosine distances of each query to its nearest rows, ascending; queries and rows of length 1.

    The rows are picked by their inner product, but the distance is ½‖q - row‖², which equals 1 - <q, row>
    without its cancellation: that of a near copy is exact as well.

    Args:
      queries: of length 1.
      rows: of length 1 and weight 1 (log 0), or none (-inf); or this device's part of them.
      neighbours: how many; no more than rows that count.
      axes: mesh axes that the rows are split over.

    """

    def of_block(block: SplitRows) -> Array:
        part, weights, _ = block
        cosines = jnp.matmul(queries, part.T, precision=_HIGHEST) + weights
        picked = jnp.argmax(cosines, 1)[:, None] if neighbours == 1 else jax.lax.top_k(cosines, neighbours)[1]
        distances = 0.5 * _squares(queries[:, None] - part[picked])
        return jnp.where(jnp.isneginf(weights[picked]), jnp.inf, distances)

    found = jax.lax.map(of_block, _blocks(rows, least=neighbours))
    local = _smallest(jnp.moveaxis(found, 0, 1).reshape(len(queries), -1), neighbours)
    if not axes:
        return local
    return _smallest(jax.lax.all_gather(local, axes, axis=1, tiled=True), neighbours)


def _squares(rows: Rows) -> Float[Array, "rows"]:
    return jnp.square(rows).sum(axis=-1)


def _smallest(distances: Float[Array, "queries many"], count: int) -> Float[Array, "queries count"]:
    return -jax.lax.top_k(-distances, count)[0]


def _blocks(rows: SplitRows, least: int = 1) -> SplitRows:
    """The rows as [blocks, rows of a block, ...], filled up with weightless rows."""
    features, log_weights, numbers = rows
    count = max(1, -(-len(features) // TRAIN_ROWS))
    size = max(-(-len(features) // count), least)
    extra = count * size - len(features)
    return SplitRows(
        jnp.pad(features, ((0, extra), (0, 0))).reshape(count, size, -1),
        jnp.pad(log_weights, (0, extra), constant_values=-jnp.inf).reshape(count, size),
        jnp.pad(numbers, (0, extra)).reshape(count, size),
    )


def one_device() -> Mesh:
    """A mesh of the first device of this process, for work that was given none."""
    return create_mesh(MeshSettings(data=1), jax.local_devices()[:1])


def split_rows(
    rows: Float[np.ndarray, "rows dim"], log_weights: Float[np.ndarray, "rows"] | None, mesh: Mesh
) -> SplitRows:
    """Training rows placed in equal parts over the batch axes of the mesh, filled up with weightless rows.

    Args:
      rows: all of them.
      log_weights: of the rows; none is 0.
      mesh: to place them on.

    """
    count = len(rows)
    extra = -count % num_batch_shards(mesh)
    weights = np.zeros(count, np.float32) if log_weights is None else log_weights
    weights = np.pad(weights, (0, extra), constant_values=-np.inf)
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    numbers = np.arange(count + extra, dtype=np.int32)
    filled = np.pad(rows, ((0, extra), (0, 0)))
    return SplitRows(place(filled, sharding), place(weights, sharding), place(numbers, sharding))


def place(array: Any, sharding: NamedSharding) -> Array:
    """A global array from a host array that every process holds whole."""
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


@functools.partial(jax.jit, static_argnames=("function", "mesh"))
def _on_every_part(function: Callable[..., Array], split: Any, whole: Any, queries: Any, mesh: Mesh) -> Array:
    over = PartitionSpec(BATCH_AXES)
    mapped = jax.shard_map(
        functools.partial(function, axes=BATCH_AXES),
        mesh=mesh,
        in_specs=(over, PartitionSpec(), PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,  # what an all_gather returns is the same everywhere, which the check cannot see
    )
    return mapped(split, whole, queries)


def sharded_over_rows(
    function: Callable[..., Array],
    split: SplitRows,
    whole: Any,
    queries: tuple[np.ndarray, ...],
    mesh: Mesh,
) -> Float[np.ndarray, "queries"]:
    """`function(split, whole, queries, axes=...)` in chunks of the queries, the rows split over the mesh.

    Args:
      function: pure, at the top of its module (it is a key of the compiled program); returns a value a query.
      split: of `split_rows`.
      whole: tree of arrays that every device gets whole.
      queries: arrays with one row a query.
      mesh: to run on.

    """
    whole = jax.tree.map(lambda array: place(array, replicated(mesh)), whole)

    def run(*chunk: np.ndarray) -> Array:
        placed = tuple(place(array, replicated(mesh)) for array in chunk)
        return _on_every_part(function, split, whole, placed, mesh)

    return in_chunks(run, queries, QUERY_ROWS)


@functools.partial(jax.jit, static_argnames=("function", "mesh"))
def _on_every_query(function: Callable[..., Any], whole: Any, queries: Any, mesh: Mesh) -> Any:
    over = PartitionSpec(BATCH_AXES)
    mapped = jax.shard_map(
        lambda whole, queries: function(whole, *queries),
        mesh=mesh,
        in_specs=(PartitionSpec(), over),
        out_specs=over,
    )
    return jax.lax.with_sharding_constraint(mapped(whole, queries), replicated(mesh))


def sharded_over_queries(
    function: Callable[..., Any],
    whole: Any,
    queries: tuple[np.ndarray, ...],
    mesh: Mesh,
    *,
    chunk: int = QUERY_ROWS,
) -> Any:
    """`function(whole, *queries)` chunk by chunk, each chunk split over the mesh.

    Args:
      function: pure, at the top of its module; returns arrays with one row a query.
      whole: tree of arrays that every device gets whole.
      queries: arrays with one row a query.
      mesh: to run on.
      chunk: about how many queries at once.

    """
    shards = num_batch_shards(mesh)
    whole = jax.tree.map(lambda array: place(array, replicated(mesh)), whole)
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))

    def run(*parts: np.ndarray) -> Any:
        return _on_every_query(function, whole, tuple(place(part, sharding) for part in parts), mesh)

    return in_chunks(run, queries, -(-chunk // shards) * shards, multiple=shards)


def in_chunks(run: Callable[..., Any], queries: tuple[np.ndarray, ...], size: int, multiple: int = 1) -> Any:
    """Runs chunks of equal size, the last one filled up, and joins on the host what they return.

    Args:
      run: takes one chunk of each array and returns arrays with one row a query.
      queries: arrays of equal length, not 0.
      size: of a chunk; few queries make one smaller chunk.
      multiple: what the size of a chunk must be a multiple of.

    """
    count = len(queries[0])
    size = min(size, -(-count // multiple) * multiple)
    results = []
    for start in range(0, count, size):
        parts = [array[start : start + size] for array in queries]
        real = len(parts[0])
        # copies of the last row, since zeros could be numbers that a function is not made for
        filled = [np.pad(part, ((0, size - real),) + ((0, 0),) * (part.ndim - 1), "edge") for part in parts]
        results.append(jax.tree.map(lambda leaf, real=real: np.asarray(leaf)[:real], run(*filled)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)
