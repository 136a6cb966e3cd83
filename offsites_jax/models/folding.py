"""Networks in the form they are served in: batch norms folded away, relative biases written out.

At inference a batch norm is a factor and a shift per channel. The convolution in front of it can do that
too, and so can one behind it that pads nothing. Which layers are neighbours is not known here but seen: the
network is traced once, and an array that leaves one layer and enters another, itself and not a copy, joins
them. So this serves every network whose variables are the whole tree, whatever its family.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util
from flax.linen.module import InterceptorContext

from offsites_jax.nn.depthwise import DepthwiseConv
from offsites_jax.nn.norm import BatchNorm
from offsites_jax.nn.relative_attention import RelativeAttention, TableMlp
from offsites_jax.nn.relative_tables import Grid, pair_biases, resize_table

Predict = Callable[[Any, Any], Any]
Variables = Mapping[str, Any]
Leaves = dict[str, np.ndarray]

PAIRS = "pair_biases"
"""Parameter of an attention in this form, [heads, queries, keys]."""

_LAYERS = (nn.Conv, nn.Dense, DepthwiseConv)


def fold(predict: Predict, variables: Variables, batch: Any) -> tuple[Predict, dict[str, Any]]:
    """Take the batch norms out of a trained network, and look its relative biases up once and for all.

    A convolution gets a ``bias`` in the place of the norm beside it. A norm that has no such neighbour (one
    in front of a padded window, an activation or a pooling) keeps the ``scale`` and ``bias`` it amounts to.
    A module must not use the array between the two for anything else. The result takes images of the size
    of ``batch`` only, where there is relative attention.

    Args:
        predict: ``predict(variables, batch)``, deterministic, through Linen modules that own ``variables``.
        variables: parameters and statistics.
        batch: inputs, or their shapes and dtypes.

    Returns:
        A function that computes the same up to rounding, and the variables it wants instead.

    """
    seen = _look(predict, variables, batch)
    leaves = {name: np.asarray(leaf) for name, leaf in traverse_util.flatten_dict(variables, sep="/").items()}
    for path, norm in seen.norms.items():
        if f"batch_stats/{path}/mean" in leaves:
            _fold_norm(leaves, seen, path, norm.settings.epsilon)
    for path, (attention, grid) in seen.attentions.items():
        _expand_biases(leaves, path, attention, grid)
    empty: dict[str, Any] = {collection: {} for collection in variables}

    def served(variables: Variables, batch: Any) -> Any:
        with nn.intercept_methods(_serve):
            return predict({**empty, **variables}, batch)

    return served, traverse_util.unflatten_dict(leaves, sep="/")


@dataclasses.dataclass
class _Seen:
    """What a pass through a network met, by path.

    Attributes:
        norms: batch norms.
        kernels: shapes of the kernels of other layers.
        joined: (giver, taker) for every array that entered a layer; the giver is empty if no layer made it.
        attentions: those with relative biases, and the size of their maps.

    """

    norms: dict[str, BatchNorm] = dataclasses.field(default_factory=dict)
    kernels: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    joined: set[tuple[str, str]] = dataclasses.field(default_factory=set)
    attentions: dict[str, tuple[RelativeAttention, Grid]] = dataclasses.field(default_factory=dict)

    def neighbours(self, norm: str) -> tuple[str, str]:
        """The layers of the same module in front of a norm and behind it; each empty unless it is alone.

        Beyond its module nobody says what else is done with an array: a stem's last convolution is followed
        by the first block's norm, and by its shortcut.
        """
        front, behind = self._givers(norm), self._takers(norm)
        module = norm[: norm.rfind("/") + 1]
        same = len(front) == 1 and front[0][: front[0].rfind("/") + 1] == module
        same = same and self._takers(front[0]) == [norm]
        within = len(behind) == 1 and behind[0].startswith(module) and self._givers(behind[0]) == [norm]
        return front[0] if same else "", behind[0] if within else ""

    def _givers(self, path: str) -> list[str]:
        return [giver for giver, taker in self.joined if taker == path]

    def _takers(self, path: str) -> list[str]:
        return [taker for giver, taker in self.joined if giver == path]


def _look(predict: Predict, variables: Variables, batch: Any) -> _Seen:
    """Trace the network, and note which layers it has and what they hand each other."""
    seen = _Seen()
    makers: dict[int, tuple[Any, str]] = {}  # holds the arrays too, so that no id is used twice

    def note(
        call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: InterceptorContext
    ) -> Any:
        module, result = context.module, call(*args, **kwargs)
        path = "/".join(module.path)
        if context.method_name != "__call__":
            return result
        if isinstance(module, RelativeAttention) and module.relative != "none":
            seen.attentions[path] = module, args[0].shape[1:3]
        if isinstance(module, BatchNorm | nn.Conv | nn.Dense | DepthwiseConv):
            if isinstance(module, BatchNorm):
                seen.norms[path] = module
            else:
                seen.kernels[path] = module.get_variable("params", "kernel").shape
            seen.joined.add((makers.get(id(args[0]), (None, ""))[1], path))
            makers[id(result)] = result, path
        return result

    def watched(variables: Variables, batch: Any) -> Any:
        with nn.intercept_methods(note):
            return predict(variables, batch)

    jax.eval_shape(watched, variables, batch)
    return seen


def _fold_norm(leaves: Leaves, seen: _Seen, path: str, epsilon: float) -> None:
    """Replace a norm's leaves by changes to a neighbour's, or by a scale and a bias."""
    scale, bias = (leaves.pop(f"params/{path}/{name}").astype(np.float64) for name in ("scale", "bias"))
    mean, var = (leaves.pop(f"batch_stats/{path}/{name}").astype(np.float64) for name in ("mean", "var"))
    scale = scale / np.sqrt(var + epsilon)
    bias = bias - mean * scale
    front, behind = seen.neighbours(path)
    if f"params/{front}/kernel" in leaves:
        _scale_outputs(leaves, f"params/{front}/", scale, bias)
    # As many inputs as channels: a window of one pixel, and no groups.
    elif f"params/{behind}/kernel" in leaves and math.prod(seen.kernels[behind][:-1]) == scale.shape[-1]:
        _scale_inputs(leaves, f"params/{behind}/", scale, bias)
    else:
        leaves[f"params/{path}/scale"] = scale.astype(np.float32)
        leaves[f"params/{path}/bias"] = bias.astype(np.float32)


def _scale_outputs(leaves: Leaves, layer: str, scale: np.ndarray, bias: np.ndarray) -> None:
    """Let a layer do what the norm behind it did."""
    kernel = leaves[layer + "kernel"]
    leaves[layer + "kernel"] = (kernel * _spread(scale, kernel.ndim)).astype(kernel.dtype)
    leaves[layer + "bias"] = (leaves.get(layer + "bias", 0) * scale + bias).astype(np.float32)


def _scale_inputs(leaves: Leaves, layer: str, scale: np.ndarray, bias: np.ndarray) -> None:
    """Let a layer over single pixels do what the norm in front of it did."""
    kernel = leaves[layer + "kernel"]
    moved = np.einsum("...i,...io->...o", bias, kernel.reshape(*bias.shape, -1))
    leaves[layer + "kernel"] = (kernel * _spread(scale, kernel.ndim - 1)[..., None]).astype(kernel.dtype)
    leaves[layer + "bias"] = (leaves.get(layer + "bias", 0) + moved).astype(np.float32)


def _spread(values: np.ndarray, axes: int) -> np.ndarray:
    """Values per channel, with axes for a window before the channels; blocks of a scanned run stay first."""
    *runs, width = values.shape
    return values.reshape(*runs, *(1,) * (axes - values.ndim), width)


def _expand_biases(leaves: Leaves, path: str, attention: RelativeAttention, grid: Grid) -> None:
    """Replace a table of relative biases, or the MLP that makes one, by the bias of each pair of pixels."""
    prefix = f"params/{path}/"
    own = [name for name in leaves if name.startswith((prefix + "relative_bias", prefix + "rel_mlp/"))]
    if not own:
        return
    params = {name.removeprefix(prefix): leaves.pop(name) for name in own}

    def expand(params: dict[str, Any]) -> jax.Array:
        if attention.relative == "table":
            return pair_biases(resize_table(params["relative_bias"], grid))
        mlp = TableMlp(attention.num_heads, attention.mlp_width, parent=None)
        return pair_biases(mlp.apply({"params": params["rel_mlp"]}, grid, False))  # type: ignore[arg-type]

    scanned = leaves[prefix + "out/bias"].ndim > 1
    expanded = (jax.vmap(expand) if scanned else expand)(traverse_util.unflatten_dict(params, sep="/"))
    leaves[prefix + PAIRS] = np.asarray(expanded)


def _serve(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: InterceptorContext
) -> Any:
    """Run a module in the form that its variables are in."""
    module = context.module
    if context.method_name == "biases" and isinstance(module, RelativeAttention):
        pairs: jax.Array | None = module.get_variable("params", PAIRS)
        return call(*args, **kwargs) if pairs is None else {"pairs": pairs}
    if context.method_name == "__call__" and isinstance(module, BatchNorm):
        folded = not module.has_variable("batch_stats", "mean")
        return _left_of(module, args[0]) if folded else call(*args, **kwargs)
    result = call(*args, **kwargs)
    if context.method_name == "__call__" and isinstance(module, _LAYERS) and not module.use_bias:
        bias: jax.Array | None = module.get_variable("params", "bias")
        return result if bias is None else result + bias.astype(result.dtype)
    return result


def _left_of(norm: BatchNorm, x: jax.Array) -> jax.Array:
    """What folding left of a norm to do: all of it, or nothing."""
    if norm.has_variable("params", "scale"):
        x = x * norm.get_variable("params", "scale") + norm.get_variable("params", "bias")
    return x.astype(norm.dtype or x.dtype)
