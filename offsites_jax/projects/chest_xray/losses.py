"""Binary cross-entropy for each output, over the labels that are known."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Rows = Float[Array, "batch outputs"]


def binary_cross_entropy(
    logits: Rows,
    labels: Rows,
    *,
    positive_weight: float = 1.0,
    smoothing: float = 0.0,
    focal: float = 0.0,
) -> tuple[Rows, Rows]:
    """Loss of every known label, and 1 where it is known.

    softplus(s) - y s for logit s and label y, which is -log of the probability of what is so.

    Args:
      logits: s.
      labels: y: 1, 0, or NaN where nobody knows; an unknown label costs nothing and has no gradient.
      positive_weight: of the losses of positives.
      smoothing: share by which labels move towards a half.
      focal: exponent of the focal loss (Lin et al. 2017, arXiv 1708.02002); 0 is off.

    Returns:
      Losses, 0 where unknown, and which are known as 0 and 1; both in float32.

    """
    known = ~jnp.isnan(labels)
    logits = logits.astype(jnp.float32)
    truth = jnp.where(known, labels, 0).astype(jnp.float32)
    smoothed = truth * (1 - smoothing) + smoothing / 2
    # log p and log (1 - p), each exact where it is near 0.
    positive, negative = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    if focal:
        # (1 - p)^focal and p^focal; powers of p itself have no finite slope at 0.
        positive, negative = positive * jnp.exp(focal * negative), negative * jnp.exp(focal * positive)
    losses = -(positive_weight * smoothed * positive + (1 - smoothed) * negative)
    return jnp.where(known, losses, 0), known.astype(jnp.float32)
