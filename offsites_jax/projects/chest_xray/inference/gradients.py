"""Grad-CAM: what speaks for a finding at any layer, where the class-activation map knows the last one alone.

Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization" (arXiv
1610.02391). Each channel of a layer counts by the mean gradient of the logit there; the sum is cut off at 0.
Unlike the class-activation map it does not add up to the logit.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from offsites_jax.errors import UserError
from offsites_jax.train.contract import Batch, Variables

Predict = Callable[[Variables, Batch], dict[str, Array]]


def gradient_maps(
    predict: Predict, variables: Variables, batch: Batch, layer: str, column: int
) -> tuple[Float[Array, "batch rows columns"], Float[Array, " batch"]]:
    """The map of each image at a layer, and its logit.

    Args:
      predict: of the task; its model may not remat, which hides what is inside from those outside.
      variables: of the model.
      batch: its inputs.
      layer: name of a part of the model, such as `block_3`, or a path of names as `head/conv`.
      column: which output to explain.

    Raises:
      UserError: no such layer, or it gives no map.

    """
    known = layers_of(predict, variables, batch)
    if layer not in known:
        raise UserError(f"--layer: {layer!r} gives no map; there are {', '.join(known)}")

    def logit_sum(added: Array) -> tuple[Array, tuple[Array, Array]]:
        tap = _Tap(layer, added)
        with nn.intercept_methods(tap):
            logits = predict(variables, batch)["logit"][:, column]
        return logits.sum(), (tap.found, logits)

    zeros = jnp.zeros(known[layer].shape, known[layer].dtype)
    gradients, (features, logits) = jax.grad(logit_sum, has_aux=True)(zeros)
    weights = gradients.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
    return nn.relu((weights * features.astype(jnp.float32)).sum(axis=-1)), logits


def layers_of(predict: Predict, variables: Variables, batch: Batch) -> dict[str, jax.ShapeDtypeStruct]:
    """What the parts of a model give out, for those that give maps of more than one place, in order."""
    seen: dict[str, Any] = {}

    def watch(next_fun: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        given = next_fun(*args, **kwargs)
        name = "/".join(context.module.path)
        if context.method_name == "__call__" and name and getattr(given, "ndim", 0) == 4:
            seen[name] = jax.ShapeDtypeStruct(given.shape, given.dtype)
        return given

    def traced(variables: Variables, batch: Batch) -> dict[str, Array]:
        with nn.intercept_methods(watch):
            return predict(variables, batch)

    jax.eval_shape(traced, variables, batch)
    return {name: spec for name, spec in seen.items() if min(spec.shape[1:3]) > 1}


@dataclasses.dataclass
class _Tap:
    """Adds to what a layer gives out, and keeps it."""

    layer: str
    added: Array
    found: Any = None

    def __call__(self, next_fun: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        given = next_fun(*args, **kwargs)
        if context.method_name != "__call__" or "/".join(context.module.path) != self.layer:
            return given
        self.found = given + self.added
        return self.found
