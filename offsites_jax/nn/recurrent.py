"""Uni-directional LSTM with a recurrent projection and layer norm, and halving of the frame rate.

The cell of on-device transducers (He et al. 2019, arXiv 1811.06621, section 2.2), whose papers print no
equations; these are those of the released tensorflow/lingvo, ``LayerNormalizedLSTMCellSimple``::

    z = x W_x + m W_m                       four gates: candidate g, input i, forget f, output o
    z_k <- norm(z_k) * scale_k + bias_k     over the cells of each gate, biased variance
    c <- clip(sigmoid(f) c + sigmoid(i) tanh(g), -cap, cap)
    m <- (sigmoid(o) tanh(c)) W_projection
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from offsites_jax.errors import UserError
from offsites_jax.nn.varying import equally_varying

_SAFE_CELL_EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class LSTMSettings:
    """Form of a projected LSTM.

    Attributes:
        cells: width of the cell state.
        projection: width of the output, which is also what recurs.
        layer_norm: normalise each gate. Without, this is ``torch.nn.LSTM`` with ``proj_size``, whose two
            biases are summed to ours (and whose gates are in the order i, f, g, o).
        epsilon: added to variances. An all-zero frame at the start multiplies gradients by about a quarter
            of its inverse root in every layer.
        cell_cap: largest magnitude of a cell; ``None`` for no limit.
        ln_on_c: normalise the cell, too, before its tanh, as lingvo's "Lean" cell does.
        residual: add the input to the output where their widths are equal.
        unroll: steps compiled into one turn of the loop; 4 to 8 may be faster on TPU, 1 compiles fastest.

    Raises:
        UserError: if a value is outside its range.

    """

    cells: int = 2048
    projection: int = 640
    layer_norm: bool = True
    epsilon: float = 1e-6
    cell_cap: float | None = 10.0
    ln_on_c: bool = False
    residual: bool = False
    unroll: int = 1

    def __post_init__(self) -> None:
        for name in ("cells", "projection", "unroll"):
            if getattr(self, name) < 1:
                raise UserError(f"lstm.{name} is {getattr(self, name)}: it must be 1 or more")
        if self.epsilon <= 0:
            raise UserError(f"lstm.epsilon is {self.epsilon}: it must be above 0")
        if self.cell_cap is not None and self.cell_cap <= 0:
            raise UserError(f"lstm.cell_cap is {self.cell_cap}: it must be above 0, or none for no limit")
        if self.ln_on_c and self.epsilon < _SAFE_CELL_EPSILON:
            raise UserError(
                f"lstm.epsilon is {self.epsilon}: with lstm.ln_on_c gradients of silence overflow, "
                f"raise it to {_SAFE_CELL_EPSILON} or more"
            )


class LSTMState(NamedTuple):
    """What goes from one frame to the next, float32."""

    output: Float[Array, "batch projection"]
    cell: Float[Array, "batch cells"]


class LSTMParameters(NamedTuple):
    """Weights of a layer; gates are in the order candidate, input, forget, output.

    Both of ``cell_scale`` and ``cell_bias`` are ``None`` unless the cell is normalised, ``scale`` unless the
    gates are.
    """

    input_kernel: Float[Array, "input 4 cells"]
    recurrent_kernel: Float[Array, "projection 4 cells"]
    projection: Float[Array, "cells projection"]
    bias: Float[Array, "4 cells"]
    scale: Float[Array, "4 cells"] | None = None
    cell_scale: Float[Array, " cells"] | None = None
    cell_bias: Float[Array, " cells"] | None = None


def initial_state(batch: int, settings: LSTMSettings) -> LSTMState:
    """Zeros: before the first frame."""
    return LSTMState(jnp.zeros((batch, settings.projection)), jnp.zeros((batch, settings.cells)))


def projected_lstm(
    parameters: LSTMParameters,
    x: Float[Array, "batch frames input"],
    mask: Bool[Array, "batch frames"] | None,
    state: LSTMState,
    settings: LSTMSettings,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Float[Array, "batch frames projection"], LSTMState]:
    """Run over the frames.

    The product with ``input_kernel`` is one for all frames. For the gradient, gates and states of each frame
    are kept; the recurrent kernels' gradients are likewise one product each, after the loop.

    Args:
        parameters: of the layer.
        x: input.
        mask: frames that exist. Others, whatever they hold, leave the state as it is and give 0.
        state: before the first frame.
        settings: form of the cell.
        dtype: type of products and of the output; they are summed, and all else is computed, in float32.

    Returns:
        The output, and the state after the last frame: feeding that on with more frames continues this run.

    """
    mask = jnp.ones(x.shape[:2], bool) if mask is None else mask
    x = jnp.where(mask[..., None], x, 0).astype(dtype)
    gates = _product(x, parameters.input_kernel.astype(dtype)).astype(dtype)
    kernels = (parameters.recurrent_kernel.astype(dtype), parameters.projection.astype(dtype))
    affine = (parameters.scale, parameters.bias, parameters.cell_scale, parameters.cell_bias)
    steps = (jnp.moveaxis(gates, 1, 0), jnp.moveaxis(mask, 1, 0)[..., None])
    outputs, state = _run(*equally_varying((steps, kernels, affine, state)), settings)
    y = jnp.moveaxis(outputs, 0, 1).astype(dtype)
    if settings.residual and x.shape[-1] == y.shape[-1]:
        y = x + y
    return jnp.where(mask[..., None], y, 0), state


Steps = tuple[Array, Array]
"""The input's share of the gates [frames, batch, 4, cells], and the mask [frames, batch, 1]."""

Kernels = tuple[Array, Array]
"""Recurrent and projection."""

Affine = tuple[Array | None, Array, Array | None, Array | None]
"""Scale and bias of the gates, then of the cell."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _run(
    steps: Steps, kernels: Kernels, affine: Affine, state: LSTMState, settings: LSTMSettings
) -> tuple[Array, LSTMState]:
    """Outputs carried after each frame, and the last state."""
    return _keep(steps, kernels, affine, state, settings)[0]


def _keep(
    steps: Steps, kernels: Kernels, affine: Affine, state: LSTMState, settings: LSTMSettings
) -> tuple[tuple[Array, LSTMState], Any]:
    recurrent, projection = kernels

    def step(state: LSTMState, inputs: Steps) -> tuple[LSTMState, tuple[LSTMState, Array]]:
        from_input, exists = inputs
        gates = from_input + _product(state.output, recurrent)
        hidden, cell = _cell(gates, state.cell, affine, settings)
        new = LSTMState(
            jnp.where(exists, _product(hidden, projection), state.output), jnp.where(exists, cell, state.cell)
        )
        return new, (new, gates.astype(recurrent.dtype))

    last, (states, gates) = lax.scan(step, state, steps, unroll=settings.unroll)
    before = jax.tree.map(lambda first, after: jnp.concatenate([first[None], after[:-1]]), state, states)
    return (states.output, last), (gates, steps[1], before, kernels, affine)


def _gradients(
    settings: LSTMSettings, kept: Any, gradients: tuple[Array, LSTMState]
) -> tuple[tuple[Array, None], Kernels, Affine, LSTMState]:
    all_gates, mask, before, (recurrent, projection), affine = kept
    dtype = recurrent.dtype

    def step(
        sums: tuple[LSTMState, Affine], inputs: tuple[Array, ...]
    ) -> tuple[tuple[LSTMState, Affine], tuple[Array, Array, Array]]:
        (to_carried, to_cell), to_affine = sums
        to_output, gates, exists, cell = inputs
        to_output += to_carried
        spoken = jnp.where(exists, to_output, 0).astype(dtype)

        def from_gates(gates: Array, cell: Array, affine: Affine) -> tuple[Array, Array]:
            return _cell(gates, cell, affine, settings)

        (hidden, _), pull = jax.vjp(from_gates, gates.astype(jnp.float32), cell, affine)
        to_gates, to_cell_before, more = pull((_product(spoken, projection.T), jnp.where(exists, to_cell, 0)))
        to_gates = to_gates.astype(dtype)
        to_output_before = lax.dot_general(
            to_gates, recurrent, (((1, 2), (1, 2)), ((), ())), preferred_element_type=jnp.float32
        )
        to_state = LSTMState(
            jnp.where(exists, to_output_before, to_output), jnp.where(exists, to_cell_before, to_cell)
        )
        return (to_state, jax.tree.map(jnp.add, to_affine, more)), (to_gates, spoken, hidden.astype(dtype))

    inputs = (gradients[0], all_gates, mask, before.cell)
    nothing = jax.tree.map(jnp.zeros_like, affine)
    (to_state, to_affine), (to_gates, spoken, hidden) = lax.scan(
        step, (gradients[1], nothing), inputs, reverse=True, unroll=settings.unroll
    )
    to_recurrent = _sum_of_products(before.output.astype(dtype), to_gates)
    to_kernels = (to_recurrent.astype(dtype), _sum_of_products(hidden, spoken).astype(dtype))
    return (to_gates, None), to_kernels, to_affine, to_state


_run.defvjp(_keep, _gradients)


def _cell(gates: Array, cell: Array, affine: Affine, settings: LSTMSettings) -> tuple[Array, Array]:
    """What goes into the projection, and the new cell."""
    scale, bias, cell_scale, cell_bias = affine
    if scale is not None:
        gates = _normalise(gates, settings.epsilon) * scale
    candidate, enter, forget, leave = jnp.moveaxis(gates + bias, 1, 0)
    cell = nn.sigmoid(forget) * cell + nn.sigmoid(enter) * jnp.tanh(candidate)
    if settings.cell_cap is not None:
        cell = jnp.clip(cell, -settings.cell_cap, settings.cell_cap)
    seen = cell
    if cell_scale is not None and cell_bias is not None:
        seen = _normalise(cell, settings.epsilon) * cell_scale + cell_bias
    return nn.sigmoid(leave) * jnp.tanh(seen), cell


def _normalise(x: Array, epsilon: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)


def _product(x: Array, kernel: Array) -> Array:
    """Over the last axis of ``x`` and the first of ``kernel``, in the kernel's type, summed in float32."""
    return jnp.tensordot(x.astype(kernel.dtype), kernel, 1, preferred_element_type=jnp.float32)


def _sum_of_products(x: Array, y: Array) -> Array:
    """Over frames and batch of both."""
    return lax.dot_general(x, y, (((0, 1), (0, 1)), ((), ())), preferred_element_type=jnp.float32)


class ProjectedLSTM(nn.Module):
    """A layer; its parameters are named as in `LSTMParameters`.

    Attributes:
        settings: form of the cell.
        dtype: type of products and of the output; parameters and state are float32.

    """

    settings: LSTMSettings = LSTMSettings()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch frames input"],
        mask: Bool[Array, "batch frames"] | None = None,
        state: LSTMState | None = None,
    ) -> tuple[Float[Array, "batch frames {self.settings.projection}"], LSTMState]:
        """Run over the frames; see `projected_lstm`. ``state`` defaults to zeros."""
        settings = self.settings
        width, cells, projection = x.shape[-1], settings.cells, settings.projection
        gate_init = _uniform(width + projection)  # both kernels are parts of one matrix
        shapes = {
            "input_kernel": (gate_init, (width, 4, cells)),
            "recurrent_kernel": (gate_init, (projection, 4, cells)),
            "projection": (_uniform(cells), (cells, projection)),
            "bias": (nn.initializers.zeros, (4, cells)),
        }
        if settings.layer_norm:
            shapes["scale"] = (nn.initializers.ones, (4, cells))
        if settings.ln_on_c:
            shapes["cell_scale"] = (nn.initializers.ones, (cells,))
            shapes["cell_bias"] = (nn.initializers.zeros, (cells,))
        drawn = {name: self.param(name, init, shape, jnp.float32) for name, (init, shape) in shapes.items()}
        state = initial_state(x.shape[0], settings) if state is None else state
        return projected_lstm(LSTMParameters(**drawn), x, mask, state, settings, self.dtype)


def _uniform(fan_in: int) -> nn.initializers.Initializer:
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def reduce_time(
    x: Float[Array, "batch frames width"], lengths: Int[Array, " batch"], factor: int = 2
) -> tuple[Float[Array, "batch reduced {factor}*width"], Int[Array, " batch"]]:
    """Join each ``factor`` neighbouring frames to one of as many times the width; lengths are rounded up.

    What lies behind an utterance's length counts as zeros, whatever it holds, also in its last joined frame.
    """
    batch, frames, width = x.shape
    exists = jnp.arange(frames) < lengths[:, None]
    padded = jnp.pad(jnp.where(exists[..., None], x, 0), ((0, 0), (0, -frames % factor), (0, 0)))
    return padded.reshape(batch, -1, factor * width), -(-lengths // factor)
