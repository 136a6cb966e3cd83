"""A bundle to be used elsewhere: its files, and its scores as a StableHLO function."""

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import export
from jaxtyping import Array, Float, UInt8

from offsites_jax.errors import OffsitesError, UserError
from offsites_jax.projects.one_class.second_stage import bundle_files
from offsites_jax.projects.one_class.second_stage.bundle import Bundle
from offsites_jax.projects.one_class.stored import write_file

FUNCTION = "score.stablehlo"
PLATFORMS = ("cpu", "tpu", "cuda")
TOLERANCE = 1e-3
"""Largest difference to the live scores that passes, as a share of them."""


def ship(bundle: Bundle, output: epath.PathLike, batch: int = 1) -> float:
    """Writes the bundle to a new folder, with `score.stablehlo` in it.

    Args:
      bundle: what to ship.
      output: folder to make.
      batch: images that the function takes at a time.

    Returns:
      Largest difference to the live scores on random images, as a share of these.

    Raises:
      UserError: the folder exists already or cannot be written, or an impossible batch.
      OffsitesError: the function differs from the live model; nothing is written.

    """
    folder = epath.Path(output)
    if folder.exists():
        raise UserError(f"{folder}: exists already; choose another folder")
    content = serialised(bundle, batch)
    side = bundle.image_size
    images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    found = np.asarray(export.deserialize(bytearray(content)).call(images))
    live = bundle.score(images)
    difference = float(np.max(np.abs(found - live) / np.maximum(np.abs(live), 1e-6)))
    if not difference <= TOLERANCE:
        raise OffsitesError(
            f"export: scores are {difference:.3g} off the live model, over {TOLERANCE}; nothing was written"
        )
    bundle_files.save(bundle, folder)
    write_file(folder / FUNCTION, content)
    return difference


def serialised(bundle: Bundle, batch: int) -> bytes:
    """The function uint8 [batch, side, side, 3] -> float32 [batch], weights and scorer inside.

    Read it with `jax.export.deserialize(content).call(images)`.

    Raises:
      UserError: a batch below 1.

    """
    if batch < 1:
        raise UserError(f"--batch: {batch}; must be 1 or more")
    variables = jax.device_get(bundle.model.variables)

    def score(images: UInt8[Array, "batch side side 3"]) -> Float[Array, "batch"]:
        return bundle.pure(variables, bundle.scorer, images).astype(jnp.float32)

    side = bundle.image_size
    shape = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8)
    return bytes(export.export(jax.jit(score), platforms=PLATFORMS)(shape).serialize())
