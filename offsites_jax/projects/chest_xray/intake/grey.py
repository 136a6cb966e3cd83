"""A radiograph in memory: grey values in [0, 1] and what its file says of the patient and the view."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Float32

from offsites_jax.errors import DamagedDataError

Grey = Float32[np.ndarray, "height width"]


@dataclasses.dataclass(frozen=True)
class Radiograph:
    """One frontal chest radiograph and what its file says of it.

    Attributes:
      pixels: [height, width] in [0, 1]; air dark, bone bright.
      view: "PA", "AP", or empty when not stated.
      patient_id: as the file has it; never to be written out but through `identity.pseudonym`.
      sex: "M", "F", "O" or empty.
      age: in years, or None.
      warnings: what is not wrong with the file, but worth knowing.

    """

    pixels: Grey
    view: str = ""
    patient_id: str = ""
    sex: str = ""
    age: float | None = None
    warnings: tuple[str, ...] = ()


def unit_range(
    values: Float[np.ndarray, "*shape"], counted: Bool[np.ndarray, "*shape"] | None = None
) -> Float32[np.ndarray, "*shape"]:
    """Values from their least to their greatest as [0, 1].

    Args:
      values: of any range.
      counted: where there is something to see; the rest has no say in the range and comes out as 0.

    Raises:
      DamagedDataError: there are not two different values.

    """
    seen = values if counted is None else values[counted]
    low, high = (seen.min(), seen.max()) if seen.size else (0, 0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DamagedDataError("pixels are not finite")
    if low == high:
        raise DamagedDataError("all pixels have the same value")
    scaled = ((values - low) / (high - low)).astype(np.float32)
    return scaled if counted is None else np.where(counted, scaled, np.float32(0))
