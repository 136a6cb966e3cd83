"""Drawn augmentations applied in JAX, inside a jitted step.

Every operation is one of four steps that can be told to do nothing: a table of the 256 levels, a blend
with a greyer or smoother image, a warp, and a hole. A layer is all four in a row, without branches, so
that a batch in which each image has its own operations is one straight program.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from offsites_jax.data.augment.draws import FILL, INDEX, Draw

Image = UInt8[Array, "height width channels"]
Table = Int[Array, "256 channels"]


def apply_batch(images: UInt8[Array, "batch height width channels"], draws: Draw) -> jax.Array:
    """Apply to each image the operations drawn for it, as `offsites_jax.data.augment.apply` does.

    Equal to the form for the host to one level of 255. Any sharding of the batch axis is kept: nothing is
    exchanged between images.

    Args:
        images: Of any size; not changed.
        draws: Stacked along a first axis: op [batch, num_ops], arguments [batch, num_ops, 3].

    Returns:
        uint8 images of the same shape.

    """
    return jax.vmap(_apply)(images, draws)


def _apply(image: Image, draw: Draw) -> Image:
    for layer in range(draw.op.shape[0]):
        op, arguments = jnp.asarray(draw.op)[layer], jnp.asarray(draw.arguments)[layer]
        image = _look_up(image, _table(image, op, arguments))
        image = _blend(image, op, arguments)
        image = _warp(image, op, arguments)
        image = _erase(image, op, arguments)
    return image


def _look_up(image: Image, table: Table) -> Image:
    channel = jnp.arange(image.shape[2])
    return table.astype(jnp.uint8)[image.astype(jnp.int32), channel]


def _table(image: Image, op: Int[Array, ""], arguments: Float[Array, "3"]) -> Table:
    """New level of each of the 256; the identity for operations of another kind."""
    height, width, channels = image.shape
    level = jnp.arange(256)[:, None]
    number = arguments[0].astype(jnp.int32)
    counts = _histogram(image)
    tables = {
        "AutoContrast": _autocontrast(counts),
        "Equalize": _equalize(counts),
        "Invert": 255 - level,
        "Posterize": (level >> number) << number,
        "Solarize": jnp.where(level < number, level, 255 - level),
        "Contrast": _interpolate(min(height * width // 256, 255), level, arguments[0]),
        "Brightness": _interpolate(0, level, arguments[0]),
        "SolarizeAdd": jnp.where(level < 128, jnp.minimum(level + number, 255), level),
    }
    table = level
    for name, candidate in tables.items():
        table = jnp.where(op == INDEX[name], candidate, table)
    return jnp.broadcast_to(table, (256, channels))


def _histogram(image: Image) -> Int[Array, "256 channels"]:
    """Pixels of each level. A TPU adds at indices one by one, but compares thousands at a time."""
    return jax.lax.platform_dependent(image, tpu=_count_by_comparing, default=_count_by_adding)


def _count_by_comparing(image: Image) -> Int[Array, "256 channels"]:
    pixels = image.reshape(-1, 1, image.shape[2])
    return jnp.sum(pixels == jnp.arange(256, dtype=jnp.uint8)[:, None], axis=0, dtype=jnp.int32)


def _count_by_adding(image: Image) -> Int[Array, "256 channels"]:
    channel = jnp.arange(image.shape[2])
    return jnp.zeros((256, image.shape[2]), jnp.int32).at[image.astype(jnp.int32), channel].add(1)


def _autocontrast(counts: Int[Array, "256 channels"]) -> Table:
    """Stretch so that the lowest level becomes 0 and the highest 255."""
    level = jnp.arange(256, dtype=jnp.float32)[:, None]
    low = jnp.argmax(counts > 0, axis=0).astype(jnp.float32)
    high = 255.0 - jnp.argmax(counts[::-1] > 0, axis=0).astype(jnp.float32)
    scale = 255.0 / jnp.where(high > low, high - low, 255.0)
    offset = jnp.where(high > low, -low * scale, 0.0)
    return jnp.clip(_product(level, scale) + offset, 0, 255).astype(jnp.int32)


def _equalize(counts: Int[Array, "256 channels"]) -> Table:
    total = jnp.cumsum(counts, axis=0)
    highest = 255 - jnp.argmax(counts[::-1] > 0, axis=0)
    step = (total[-1] - jnp.take_along_axis(counts, highest[None], axis=0)[0]) // 255
    divisor = jnp.maximum(step, 1)
    table = jnp.clip((total - counts + divisor // 2) // divisor, 0, 255)
    return jnp.where(step == 0, jnp.arange(256)[:, None], table)


def _blend(image: Image, op: Int[Array, ""], arguments: Float[Array, "3"]) -> Image:
    is_color, is_sharpness = op == INDEX["Color"], op == INDEX["Sharpness"]
    start = jnp.where(is_color, _grey(image), _smooth(image))
    blended = _interpolate(start, image.astype(jnp.int32), arguments[0]).astype(jnp.uint8)
    return jnp.where(is_color | is_sharpness, blended, image)


def _interpolate(start: Int[Array, "..."] | int, end: Int[Array, "..."], factor: Float[Array, ""]) -> Array:
    """From `start` at factor 0 through `end` at 1 and beyond, truncated to 0..255."""
    change = _product(factor, (end - start).astype(jnp.float32))
    return jnp.clip(start + change, 0, 255).astype(jnp.int32)


def _grey(image: Image) -> Int[Array, "height width channels"]:
    if image.shape[2] != 3:
        return image.astype(jnp.int32)
    luma = jnp.sum(image.astype(jnp.int32) * jnp.array([2989, 5870, 1140]), axis=2, keepdims=True)
    return jnp.broadcast_to(luma * 511 // 5_100_000, image.shape)


def _smooth(image: Image) -> Int[Array, "height width channels"]:
    """Weighted mean of 3 x 3 pixels, the middle one counted five times; the border stays."""
    pixels = image.astype(jnp.int32)
    height, width, _ = image.shape
    padded = jnp.pad(pixels, ((1, 1), (1, 1), (0, 0)))
    rows = padded[:height] + padded[1 : height + 1] + padded[2 : height + 2]
    total = rows[:, :width] + rows[:, 1 : width + 1] + rows[:, 2 : width + 2] + 4 * pixels
    inner = _between(height, 1, height - 1)[:, None] & _between(width, 1, width - 1)
    return jnp.where(inner[:, :, None], total // 13, pixels)


def _warp(image: Image, op: Int[Array, ""], arguments: Float[Array, "3"]) -> Image:
    """Take each pixel from the nearest one to where the operation says it was."""
    height, width, channels = image.shape
    a, b, c, d, e, f = _matrix(op, arguments, height, width)
    x, y = jnp.arange(width, dtype=jnp.float32), jnp.arange(height, dtype=jnp.float32)[:, None]
    column, column_exists = _nearest(_product(a, x) + _product(b, y) + c, width)
    row, row_exists = _nearest(_product(d, x) + _product(e, y) + f, height)
    moved = image.reshape(-1, channels)[row * width + column]
    return jnp.where((row_exists & column_exists)[:, :, None], moved, jnp.uint8(FILL))


def _matrix(
    op: Int[Array, ""], arguments: Float[Array, "3"], height: int, width: int
) -> tuple[Float[Array, ""], ...]:
    """Pixel (x, y) comes from (a x + b y + c, d x + e y + f)."""
    is_rotation = op == INDEX["Rotate"]
    cosine = jnp.where(is_rotation, arguments[0], 1.0)
    sine = jnp.where(is_rotation, arguments[1], 0.0)
    right, bottom = jnp.float32(width - 1), jnp.float32(height - 1)
    turn_x = (right - (_product(cosine, right) - _product(sine, bottom))) / 2
    turn_y = (bottom - (_product(sine, right) + _product(cosine, bottom))) / 2

    def only(name: str) -> Float[Array, ""]:
        return jnp.where(op == INDEX[name], arguments[0], 0.0)

    shift_x, shift_y = turn_x + only("TranslateX"), turn_y + only("TranslateY")
    return cosine, only("ShearX") - sine, shift_x, only("ShearY") + sine, cosine, shift_y


def _nearest(
    position: Float[Array, "height width"], size: int
) -> tuple[Int[Array, "height width"], Bool[Array, "height width"]]:
    """Index of the nearest pixel, halves away from zero, and whether there is such a pixel."""
    below = jnp.floor(position)
    index = (below + (position - below >= 0.5)).astype(jnp.int32)
    return jnp.clip(index, 0, size - 1), (position > -0.5) & (index < size)


def _erase(image: Image, op: Int[Array, ""], arguments: Float[Array, "3"]) -> Image:
    height, width, _ = image.shape
    half = jnp.where(op == INDEX["Cutout"], arguments[0].astype(jnp.int32), 0)
    y, x = ((arguments[1] * height).astype(jnp.int32), (arguments[2] * width).astype(jnp.int32))
    hole = _between(height, y - half, y + half)[:, None] & _between(width, x - half, x + half)
    return jnp.where(hole[:, :, None], jnp.uint8(FILL), image)


def _between(size: int, low: Array | int, high: Array | int) -> Bool[Array, "size"]:
    index = jnp.arange(size)
    return (index >= low) & (index < high)


def _product(a: Array, b: Array) -> Array:
    """The product, rounded to float32 before anything is added to it.

    Compilers like to fuse a product and a sum into one rounding, which moves pixels at exact halves. They
    cannot see that the bounds are never reached.
    """
    return jnp.clip(a * b, -1e30, 1e30)
