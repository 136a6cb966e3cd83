"""Regularisation that drops whole residual branches."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def stochastic_depth(
    branch: Float[Array, "batch *rest"], key: PRNGKeyArray, rate: float
) -> Float[Array, "batch *rest"]:
    """Drop a residual branch for each example by itself (Huang et al. 2016, arXiv 1603.09382).

    An example keeps its branch with probability ``1 - rate``, then divided by it so that the
    expectation is unchanged. Each branch of a network needs a key of its own.
    """
    keep = 1.0 - rate
    kept = jax.random.bernoulli(key, keep, (branch.shape[0],) + (1,) * (branch.ndim - 1))
    # In float32: 0.8 is not a bfloat16 number, and dividing by its neighbour would bias the mean.
    return jnp.where(kept, branch.astype(jnp.float32) / keep, 0).astype(branch.dtype)


def linear_drop_rate(index: int, count: int, rate: float) -> float:
    """Rate of block ``index`` of ``count``: from 0 at the first, ``rate`` would be one past the end."""
    return rate * index / count
