"""Counts what a network holds, quickly: blocks that are equal are looked into once."""

import collections
import dataclasses
import math
from collections.abc import Callable, Hashable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_PLACE = ("parent", "name")
"""Fields of a Linen module that say where it sits and not what it is."""


def count_variables(model: nn.Module, image_size: int) -> collections.Counter[str]:
    """Number of values by collection, for square images with three channels; nothing is allocated.

    A module with the same settings as an earlier one, on inputs of the same shape, is not traced again: it
    holds as many values, and its outputs have the same shape. Takes networks without scan and remat, inside
    which a value of another place must not be used, and whose modules each see inputs of one shape.
    """
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    counts = _Counts()

    def init(images: jax.Array) -> Any:
        with nn.intercept_methods(counts.intercept):
            return model.init(jax.random.key(0), images, train=False)

    return _sizes(jax.eval_shape(init, images)) + counts.left_out


@dataclasses.dataclass
class _Counts:
    """What is known while a network is traced.

    Attributes:
        known: counts and outputs of modules, by settings and shapes of inputs.
        met: paths of the modules called so far; one that is called again shares its values.
        left_out: counts of the modules that were not traced.

    """

    known: dict[Hashable, tuple[collections.Counter[str], Any]] = dataclasses.field(default_factory=dict)
    met: set[tuple[str, ...]] = dataclasses.field(default_factory=set)
    left_out: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def intercept(
        self,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        """Call a method, or give what its equal gave."""
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        key = _settings(module), _shapes((args, kwargs))
        if key in self.known:
            counts, output = self.known[key]
            if module.path not in self.met:
                self.left_out += counts
            self.met.add(module.path)
            return output
        self.met.add(module.path)
        before = self.left_out.copy()
        output = call(*args, **kwargs)
        counts = _sizes(module.variables) + (self.left_out - before)
        self.known[key] = counts, output
        return output


def _settings(module: nn.Module) -> Hashable:
    fields = (field.name for field in dataclasses.fields(module) if field.name not in _PLACE)
    return type(module), tuple(getattr(module, name) for name in fields)


def _shapes(arguments: Any) -> Hashable:
    leaves, structure = jax.tree.flatten(arguments)
    return structure, tuple((x.shape, x.dtype) if hasattr(x, "shape") else x for x in leaves)


def _sizes(variables: Any) -> collections.Counter[str]:
    return collections.Counter(
        {
            collection: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
            for collection, tree in variables.items()
        }
    )
