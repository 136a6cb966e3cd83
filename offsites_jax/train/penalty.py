"""Weight decay inside the loss, where an optimizer with memory sees it as part of the gradient."""

import re
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from offsites_jax.train.state import flatten


def half_squared_norm(params: Any, *, only: str = "", exclude: str = "") -> Float[Array, ""]:
    """Half the sum of squares of parameters, in float32; its gradient is the parameters themselves.

    Args:
      params: a tree.
      only: pattern that a path has to match somewhere; every path does when it is empty.
      exclude: pattern that a path must not match anywhere; when empty, none is left out.

    """
    squares = [
        jnp.sum(jnp.square(leaf.astype(jnp.float32)))
        for path, leaf in flatten(params).items()
        if re.search(only, path) and not (exclude and re.search(exclude, path))
    ]
    return 0.5 * sum(squares, start=jnp.zeros(()))
