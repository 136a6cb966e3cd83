"""How far an exported model is from the live one."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from offsites_jax.errors import UserError
from offsites_jax.export.load import load

Outputs = Mapping[str, Any]
Predict = Callable[[dict[str, Any]], Outputs]


def compare(
    folder: str | os.PathLike[str], live_predict: Predict, batches: Iterable[Mapping[str, Any]]
) -> dict[str, float]:
    """Largest absolute difference of each output between an export, loaded afresh, and the live model.

    Args:
      folder: a StableHLO export.
      live_predict: the live model's predict, bound to its variables; gets each batch whole.
      batches: batches with at least the export's inputs; labels, masks and the like are not passed to it.

    Raises:
      UserError: there are no batches, or the outputs have other names.

    """
    exported = load(folder)

    def predict(batch: dict[str, Any]) -> Outputs:
        return exported.predict(jax.device_get({name: batch[name] for name in exported.signature.inputs}))

    return largest_differences(predict, live_predict, batches)


def largest_differences(
    predict: Predict, live_predict: Predict, batches: Iterable[Mapping[str, Any]]
) -> dict[str, float]:
    """Largest absolute difference by output over all batches; infinite where shape, dtype or NaNs differ."""
    largest: dict[str, float] = {}
    for batch in batches:
        found, wanted = (jax.device_get(dict(f(dict(batch)))) for f in (predict, live_predict))
        if set(found) != set(wanted):
            raise UserError(f"outputs: the export gives {sorted(found)}, the live model {sorted(wanted)}")
        for name, values in found.items():
            largest[name] = max(largest.get(name, 0.0), difference(values, wanted[name]))
    if not largest:
        raise UserError("comparison: no batch to compare on; give at least one")
    return largest


def largest_values(predict: Predict, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Largest finite number, without its sign, in each output of floats over all batches."""
    largest: dict[str, float] = {}
    for batch in batches:
        for name, values in jax.device_get(dict(predict(dict(batch)))).items():
            if jnp.issubdtype(values.dtype, jnp.floating):
                sizes = np.abs(values[np.isfinite(values)])
                largest[name] = max(largest.get(name, 0.0), float(sizes.max(initial=0)))
    return largest


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest absolute difference of two arrays; equal infinities and NaNs in the same place count as 0."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    wide = np.complex128 if np.iscomplexobj(found) else np.float64
    found, wanted = found.astype(wide), wanted.astype(wide)
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    with np.errstate(invalid="ignore"):
        distance = np.where(same, 0.0, np.abs(found - wanted))
    return float(np.where(np.isnan(distance), np.inf, distance).max(initial=0.0))
