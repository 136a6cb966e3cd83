"""Values that differ between the devices of a ``shard_map``."""

from typing import Any

import jax
from jax import lax


def equally_varying(tree: Any) -> Any:
    """Let every array differ between devices where any of the tree does.

    Functions with a gradient of their own need it, for that of an array that is the same everywhere has to be
    the same, too; JAX sums it over devices where it goes through here. Elsewhere, this does nothing.
    """
    axes = frozenset[str]().union(*(_axes(x) for x in jax.tree.leaves(tree)))
    return jax.tree.map(lambda x: lax.pcast(x, tuple(axes - _axes(x)), to="varying"), tree)


def _axes(x: Any) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying
