"""Trees of networks whose equal blocks are one scanned block, to and from trees with a block each.

A run of blocks such as ``block_1`` … ``block_13`` is called ``blocks_1_13`` when it is scanned over, and each
of its leaves has one more axis in front: the block's number in the run.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import traverse_util

from offsites_jax.errors import UserError

_STACKED = re.compile(r"(.*/)?blocks_(\d+)_(\d+)(/.*)")


def stacked_name(first: int, last: int) -> str:
    """Name of the scanned run of blocks from ``first`` to ``last``."""
    return f"blocks_{first}_{last}"


def unstack_blocks(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of the network without scan, out of those with it. Also takes a part, such as ``params``."""
    leaves: dict[str, Any] = {}
    for path, leaf in traverse_util.flatten_dict(variables, sep="/").items():
        names = _single_names(path)
        leaves |= {path: leaf} if not names else {name: leaf[row] for row, name in enumerate(names)}
    return traverse_util.unflatten_dict(leaves, sep="/")


def stack_blocks(variables: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of the network with scan, out of those without.

    Args:
        variables: of the network without scan.
        like: anything with the structure of what is wanted, e.g. the scanned network's ``eval_shape``.

    Raises:
        UserError: if a block of a run is missing.

    """
    given = traverse_util.flatten_dict(variables, sep="/")
    leaves = {}
    for path in traverse_util.flatten_dict(like, sep="/"):
        names = _single_names(path)
        missing = [name for name in names or [path] if name not in given]
        if missing:
            raise UserError(f"{missing[0]}: not in the given variables, wanted for {path}; check the model")
        leaves[path] = jnp.stack([given[name] for name in names]) if names else given[path]
    return traverse_util.unflatten_dict(leaves, sep="/")


def _single_names(path: str) -> list[str]:
    """Paths of the leaves that a stacked leaf holds; none if it is no stacked one."""
    match = _STACKED.fullmatch(path)
    if match is None:
        return []
    before, first, last, after = match.groups()
    return [f"{before or ''}block_{number}{after}" for number in range(int(first), int(last) + 1)]
