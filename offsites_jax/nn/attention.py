"""Multi-head attention with biases, a few heads at a time where that keeps the products on the chip."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Heads = Float[Array, "batch tokens heads size"]
Bias = Float[Array, "1 heads queries keys"]


def attend(query: Heads, key: Heads, value: Heads, bias: Bias | None, *, heads_at_once: int = 2) -> Heads:
    """Softmax(query · key / √size + bias) · value, with products and softmax in float32.

    On TPU a loop takes a few heads at a time and computes their products again for the gradient, so that
    the [queries, keys] arrays stay in on-chip memory: kept for the gradient, they would be written to HBM and
    read back several times. Values are the same. Elsewhere all heads go at once.

    Args:
        query: what each token asks.
        key: what each token is asked by.
        value: what each token gives.
        bias: added to the products, or None.
        heads_at_once: on TPU; the largest divisor of the number of heads that is not above. 0 takes all, as
            is best where heads are split over the mesh.

    """
    heads = query.shape[2]
    group = next((n for n in range(min(heads_at_once, heads), 0, -1) if heads % n == 0), heads)
    if group == heads:
        return jax.nn.dot_product_attention(query, key, value, bias)
    some = functools.partial(_by_groups, group=group)
    return jax.lax.platform_dependent(query, key, value, bias, tpu=some, default=jax.nn.dot_product_attention)


def _by_groups(query: Heads, key: Heads, value: Heads, bias: Bias | None, *, group: int) -> Heads:
    @jax.checkpoint
    def attend_some(part: tuple[Heads, Heads, Heads, Bias | None]) -> Heads:
        return jax.nn.dot_product_attention(*part)

    parts = [_split(x, 2, group) for x in (query, key, value)]
    biases = None if bias is None else _split(bias, 1, group)
    attended = jax.lax.map(attend_some, (*parts, biases))
    return jnp.moveaxis(attended, 0, 2).reshape(*query.shape[:3], value.shape[-1])


def _split(x: Array, axis: int, group: int) -> Array:
    """Groups of `group` along an axis, and a new first axis that counts them."""
    shape = (*x.shape[:axis], x.shape[axis] // group, group, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis, 0)
