"""Pooling that halves a map of features."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

PoolType = Literal["max2", "avg2", "max3", "avg3"]
Padding = Literal["same", "symmetric"]


def conv_padding(padding: Padding, kernel_size: int) -> str | tuple[tuple[int, int], ...]:
    """What Flax convolutions take: TensorFlow's SAME, or as much on either side, as in PyTorch."""
    return "SAME" if padding == "same" else ((kernel_size // 2,) * 2,) * 2


def halve(
    x: Float[Array, "batch height width channels"], pool_type: PoolType, padding: Padding = "same"
) -> Float[Array, "batch half_height half_width channels"]:
    """Pool with stride 2; odd sizes are rounded up. Means leave the padding out.

    Args:
        x: maps of features.
        pool_type: maximum or mean, over windows of 2x2 or 3x3.
        padding: of the 3x3 windows, see `conv_padding`.

    """
    size = int(pool_type[-1])
    pads = conv_padding(padding, size) if size == 3 else "SAME"
    if pool_type.startswith("max"):
        return nn.max_pool(x, (size, size), (2, 2), pads)
    # Sums of many bfloat16 lose digits; a mean of 9 is worth the wider type.
    mean = nn.avg_pool(x.astype(jnp.float32), (size, size), (2, 2), pads, count_include_pad=False)
    return mean.astype(x.dtype)
