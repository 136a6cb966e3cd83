"""Mixup and CutMix of neighbouring images, inside a jitted step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped

Images = Float[Array, "batch height width channels"]
Targets = Float[Array, "batch classes"]


def mix(
    images: Shaped[Array, "batch height width channels"],
    targets: Targets,
    key: PRNGKeyArray,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> tuple[Images, Targets]:
    """Mix each image and its target with its neighbour's: 0 with 1, 2 with 3, and so on.

    Mixup (arXiv 1710.09412) adds a part of the neighbour, CutMix (arXiv 1905.04899) pastes a rectangle of
    it; the target takes the same part of the neighbour's. If both are on, every second pair is pasted and
    the others are added. Each image draws its own part, from the key and its index in the global batch.

    google/automl pairs image i of n with image n - 1 - i, on each host, and pastes in the second half of
    the batch. In a shuffled batch that has the same distribution; neighbours need no communication as
    long as each device holds an even number of images. There, too, CutMix takes for a target the mean
    area of all rectangles, here each its own.

    Args:
        images: uint8 or float, of an even number; an odd one must be refused when the run is set up.
        targets: Probabilities of the classes, before label smoothing.
        key: Of this step.
        mixup_alpha: The neighbour's part is min(b, 1 - b) with b from Beta(alpha, alpha); 0 is off.
        cutmix_alpha: The rectangle's part of the image, before the border cuts it, is 1 - b with b from
            Beta(alpha, alpha); 0 is off.

    Returns:
        float32 images in the range of the given ones, and targets.

    Raises:
        ValueError: The batch is odd.

    """
    count = len(images)
    if count % 2:
        raise ValueError(f"images are mixed in pairs, and {count} are not pairs")
    images, targets = images.astype(jnp.float32), targets.astype(jnp.float32)
    mixup_key, cutmix_key = jax.random.split(key)
    added = _mixup_share(mixup_key, count, mixup_alpha)
    pasted = _cutmix_mask(cutmix_key, images, cutmix_alpha)
    if mixup_alpha and cutmix_alpha:
        is_pasted = jnp.arange(count) // 2 % 2 == 1
        added = jnp.where(is_pasted, 0.0, added)
        pasted = pasted & is_pasted[:, None, None]
    pixels = added[:, None, None] + pasted
    share = added + jnp.mean(pasted, axis=(1, 2))
    return (
        _toward(images, _neighbours(images), pixels[..., None]),
        _toward(targets, _neighbours(targets), share[:, None]),
    )


def _mixup_share(key: PRNGKeyArray, count: int, alpha: float) -> Float[Array, "batch"]:
    if not alpha:
        return jnp.zeros(count)
    drawn = _symmetric_beta(key, alpha, count)
    return jnp.minimum(drawn, 1 - drawn)


def _cutmix_mask(key: PRNGKeyArray, images: Images, alpha: float) -> Bool[Array, "batch height width"]:
    """True inside each image's rectangle; all its sides are even, as in google/automl."""
    count, height, width, _ = images.shape
    if not alpha:
        return jnp.zeros((count, height, width), bool)
    beta_key, center_key = jax.random.split(key)
    part = jnp.sqrt(1 - _symmetric_beta(beta_key, alpha, count))
    center = jax.random.uniform(center_key, (count, 2))
    rows, columns = (
        jnp.abs(jnp.arange(size) + 0.5 - jnp.floor(center[:, axis, None] * size))
        < jnp.floor(part[:, None] * size).astype(jnp.int32) // 2
        for axis, size in enumerate((height, width))
    )
    return rows[:, :, None] & columns[:, None, :]


def _symmetric_beta(key: PRNGKeyArray, alpha: float, count: int) -> Float[Array, "count"]:
    """Beta(alpha, alpha) by way of Student's t in closed form (Bailey 1994, Mathematics of Computation 62).

    `jax.random.beta` rejects and draws again, which on a mesh makes every device ask all others whether
    they are done.
    """
    radius_key, angle_key = jax.random.split(key)
    radius = jnp.expm1(jax.random.exponential(radius_key, (count,)) / alpha)
    cosine = jnp.cos(jax.random.uniform(angle_key, (count,), maxval=2 * jnp.pi))
    squared = radius * cosine**2  # t^2 over its 2 alpha degrees of freedom
    return 0.5 + 0.5 * jnp.sign(cosine) / jnp.sqrt(1 + 1 / squared)


def _neighbours(rows: Shaped[Array, "batch ..."]) -> Shaped[Array, "batch ..."]:
    pairs = rows.reshape(-1, 2, *rows.shape[1:])
    return pairs[:, ::-1].reshape(rows.shape)


def _toward(start: Array, end: Array, share: Array) -> Array:
    return start * (1 - share) + end * share
