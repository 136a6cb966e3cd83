"""Floating-point operations of a function, counted from its jaxpr, and the chips' published peaks.

XLA's own cost analysis counts the body of a loop once, which under-reports a scanned model by its
number of layers. Counting the traced program gives the whole: matrix products and convolutions,
with a multiply and an add as two operations. Elementwise work and reductions are left out, as in
the model FLOPs that papers report.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

_TERA = 1e12

# TFLOP/s of dense bf16 per chip, and how many JAX devices a chip shows. Chips of v2, v3 and TPU7x
# show each of their two TensorCores as a device; v4 and v5p join theirs (megacore).
_TPU_CHIPS = {
    "TPU v2": (45, 2),
    "TPU v3": (123, 2),
    "TPU v4": (275, 1),
    "TPU v5 lite": (197, 1),
    "TPU v5e": (197, 1),
    "TPU v5": (459, 1),
    "TPU v5p": (459, 1),
    "TPU v6 lite": (918, 1),
    "TPU v6e": (918, 1),
    "TPU7x": (2307, 2),
}

# First match wins: the variants of a chip come before its main form.
_GPUS = (
    (r"\bGB200\b", 2500),
    (r"\bB200\b", 2250),
    (r"\bH[12]00 NVL\b", 835),
    (r"\bH100 PCIe\b", 756),
    (r"\bG?H[12]00\b", 989),
    (r"\bA100\b", 312),
    (r"\bL40S\b", 362),
    (r"\bL4\b", 121),
)


def peak_flops(device_kind: str) -> float | None:
    """Published peak of one JAX device in bf16 operations per second, dense; None if unknown.

    Sources: docs.cloud.google.com/tpu/docs (pages v2 to v6e and tpu7x, "peak compute per chip");
    NVIDIA's data sheets of A100, H100, H200, B200, GB200, L4 and L40S (half the figure given with
    sparsity). Where a chip shows two devices, each counts half the chip's peak.

    Args:
        device_kind: As in `jax.devices()[0].device_kind`.

    """
    if device_kind in _TPU_CHIPS:
        chip, devices = _TPU_CHIPS[device_kind]
        return chip * _TERA / devices
    found = (peak for pattern, peak in _GPUS if re.search(pattern, device_kind))
    return next((peak * _TERA for peak in found), None)


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Operations of `function(*args)` over all devices, with every loop unrolled.

    - `scan` counts its body times its length; `while` has no known length and counts once, so
      write loops whose cost matters with `scan` or `fori_loop` over static bounds.
    - `cond` and `switch` count their most expensive branch. Where `platform_dependent` chooses, its default
      counts: what is computed, not the detour that suits one platform.
    - Rematerialised work is counted again: the gradient with full remat is hardware FLOPs; take
      the count of the model without remat for model FLOPs.
    - `shard_map` counts its body on every device along the axes it makes manual.

    Args:
        function: Anything `jax.make_jaxpr` can trace.
        args: Its arguments; `jax.ShapeDtypeStruct`s will do.

    """
    return _count(jax.make_jaxpr(function)(*args))


def _count(jaxpr: Any) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot_flops(equation)
    if name == "conv_general_dilated":
        return _conv_flops(equation)
    inner = [_count(jaxpr) for jaxpr in core.jaxprs_in_params(params)]
    if name == "cond":
        return _default_branch(params, inner)
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "shard_map":
        sizes = params["mesh"].shape
        return math.prod(sizes[axis] for axis in params["newly_manual_axes"]) * sum(inner)
    return sum(inner)


def _default_branch(params: dict[str, Any], inner: list[int]) -> int:
    platforms = params.get("branches_platforms") or ()
    return inner[platforms.index(None)] if None in platforms else max(inner)


def _dot_flops(equation: core.JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = _shape(equation.invars[0])
    return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(left[i] for i in contracted)


def _conv_flops(equation: core.JaxprEqn) -> int:
    """Two operations per tap, positions in the padding included, as published tables count.

    Each spatial dimension has (positions x taps) products. A transposed convolution, which is also
    the gradient to a convolution's input, has more outputs than inputs and meets zeros between or
    around the inputs; each input still meets every tap once, hence the smaller of the two.
    Groups need no case of their own: the kernel's input features are those of one group.
    """
    numbers = equation.params["dimension_numbers"]
    left, kernel = map(_shape, equation.invars)
    out = _shape(equation.outvars[0])
    positions = math.prod(
        min(left[i], out[o]) * kernel[k]
        for i, o, k in zip(numbers.lhs_spec[2:], numbers.out_spec[2:], numbers.rhs_spec[2:], strict=True)
    )
    batch, features = (out[i] for i in numbers.out_spec[:2])
    return 2 * batch * features * kernel[numbers.rhs_spec[1]] * positions


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape
