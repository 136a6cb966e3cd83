"""Images on the host: decoding, resizing, cropping, flipping; with Pillow, OpenCV and NumPy.

Images are `[height, width, channels]`. Random operations take a `np.random.Generator` and draw from
nothing else, so that a pipeline position always gives the same picture.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8
from PIL import Image

from offsites_jax.errors import DamagedDataError

# Rows are loaded in threads already; more threads inside each resize would only get in their way.
cv2.setNumThreads(1)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 89_478_485  # Pillow's own warning level: a quarter of a gigabyte as RGB

_END_OF_JPEG = b"\xff\xd9"  # OpenCV may fill up a file that was cut off; Pillow refuses it
_JPEG_PLAIN = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_JPEG_FLAGS = {
    1: _JPEG_PLAIN,
    2: _JPEG_PLAIN | cv2.IMREAD_REDUCED_GRAYSCALE_2,  # "grayscale" only says that it is not BGR
    4: _JPEG_PLAIN | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: _JPEG_PLAIN | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}

AnyImage = Shaped[np.ndarray, "height width channels"]
FloatImage = Float32[np.ndarray, "height width channels"]
RGBImage = UInt8[np.ndarray, "height width 3"]


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


def decode(data: bytes, *, min_size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS) -> RGBImage:
    """Decode an image file into RGB.

    Grey, palette and CMYK images are converted, 16-bit ones scaled to 8 bits, transparent ones laid
    on grey 128; of an animation the first frame is taken; an EXIF rotation is not applied.

    Args:
        data: The whole file.
        min_size: (height, width): decode a JPEG at the smallest power-of-two fraction that is at
            least this large. Up to four times faster for large files, but changes pixel values.
        max_pixels: Refuse larger images before decoding them (decompression bombs).

    Raises:
        DamagedDataError: The file is empty, truncated, too large, or no image of a known format.

    """
    with _open(data, max_pixels) as image:
        shrink = min(image.height / min_size[0], image.width / min_size[1]) if min_size else 1
        return _decode(image, data, _reduction(image, shrink))


def decode_inception_crop(
    data: bytes,
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    area: tuple[float, float] = (0.05, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    attempts: int = 100,
    fast_decode: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> FloatImage:
    """Decode an image file, cut out a random part and resize it: `decode`, `inception_crop`, `resize`.

    Args:
        data: The whole file.
        size: (height, width) of the result.
        rng: Source of randomness. The same part is cut out with and without `fast_decode`.
        area: See `sample_crop`, as `aspect` and `attempts`.
        aspect: Least and largest width over height.
        attempts: Number of draws before the whole image is taken.
        fast_decode: Decode a JPEG at a half, a quarter or an eighth where the part still is at least of
            the wanted size. Up to four times faster for photographs of many megapixels, no faster for
            small ones; every pixel is then a mean, where `resize` takes values at single points.
        max_pixels: See `decode`.

    Raises:
        DamagedDataError: See `decode`.

    """
    with _open(data, max_pixels) as image:
        width, height = image.size
        box = sample_crop(height, width, rng, area=area, aspect=aspect, attempts=attempts)
        box = box or Box(0, 0, height, width)
        shrink = min(box.height / size[0], box.width / size[1]) if fast_decode else 1
        reduction = _reduction(image, shrink)
        pixels = _decode(image, data, reduction)
    if reduction == 1:
        return resize(crop(pixels, box), size)
    return _resize_part(pixels, [side / reduction for side in box], size)


def resize(image: AnyImage, size: tuple[int, int], *, antialias: bool = False) -> FloatImage:
    """Resize bilinearly with half-pixel centres, as `jax.image.resize(..., "bilinear")` does.

    Args:
        image: Any real dtype, any number of channels.
        size: (height, width) of the result.
        antialias: Widen the filter when shrinking. False is what `tf.image.resize` does by default
            and what the published classification recipes were trained with.

    """
    if antialias:
        return _resize_antialiased(image, size)
    height, width = size
    resized = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return resized.reshape(height, width, image.shape[2])  # OpenCV drops a single channel


def resize_legacy_bicubic(image: AnyImage, size: tuple[int, int]) -> FloatImage:
    """Resize with TensorFlow 1's bicubic kernel, which EfficientNet-V1 was trained with.

    Source position = target position x scale without the half-pixel shift, Keys kernel with
    a = -0.75, coordinates clamped at the edge. Values may overshoot the input's range.
    """
    return _resample(image, *(_bicubic_taps(n, m) for n, m in zip(image.shape, size, strict=False)))


def crop(image: AnyImage, box: Box) -> AnyImage:
    """Return the view of `image` inside `box`."""
    return image[box.top : box.top + box.height, box.left : box.left + box.width]


def inception_crop(
    image: AnyImage,
    rng: np.random.Generator,
    *,
    area: tuple[float, float] = (0.05, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    attempts: int = 100,
) -> AnyImage:
    """Cut out a random part of the image (Szegedy et al. 2015, section 6); resizing is left to do.

    Returns the whole image when no crop within the bounds was found; see `sample_crop`.
    """
    height, width = image.shape[:2]
    box = sample_crop(height, width, rng, area=area, aspect=aspect, attempts=attempts)
    return crop(image, box) if box else image


def sample_crop(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
    attempts: int,
    min_covered: float = 0.0,
) -> Box | None:
    """Draw the box of an Inception crop with the distribution of TensorFlow's sampler.

    The aspect ratio (width over height) is uniform in `aspect`; then the crop's height, not its
    area, is uniform between the heights that give the smallest and the largest area. The last
    possible offset is never drawn. (tensorflow/tensorflow, `sample_distorted_bounding_box_op.cc`)

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        rng: Source of randomness.
        area: Least and largest part of the image's area.
        aspect: Least and largest width over height.
        attempts: Number of draws before giving up.
        min_covered: Refuse crops of a smaller part of the image than this.

    Returns:
        The box, or None when every attempt fell outside the bounds.

    """
    least, most = (fraction * height * width for fraction in area)
    for _ in range(attempts):
        ratio = rng.uniform(*aspect)
        low = round(math.sqrt(least / ratio))
        high = min(round(math.sqrt(most / ratio)), math.floor((width + 0.5) / ratio), height)
        rows = int(rng.integers(low, high + 1)) if low < high else high
        rows += (rows * round(rows * ratio) < least) - (rows * round(rows * ratio) > most)
        columns = round(rows * ratio)
        fits = 0 < rows <= height and 0 < columns <= width and least <= rows * columns <= most
        if fits and rows * columns >= min_covered * height * width:
            top = int(rng.integers(max(height - rows, 1)))
            left = int(rng.integers(max(width - columns, 1)))
            return Box(top, left, rows, columns)
    return None


def center_crop(image: AnyImage, size: int, *, padding: int = 32) -> AnyImage:
    """Cut out the central square of side `size / (size + padding) x shorter side`.

    Cropping before resizing to `size` drops a border that would be `padding` pixels wide in all.
    The side is computed in float32 and rounded down, the offset too (google/automl).
    """
    height, width = image.shape[:2]
    side = int(np.float32(size / (size + padding)) * np.float32(min(height, width)))
    side = max(side, 1)
    return crop(image, Box((height - side) // 2, (width - side) // 2, side, side))


def evaluation_crop(image: AnyImage, size: int) -> AnyImage:
    """Cut as EfficientNetV2 is evaluated: centrally below 320 px, else the whole image, squashed."""
    return center_crop(image, size) if size < 320 else image


def random_flip(image: AnyImage, rng: np.random.Generator, *, probability: float = 0.5) -> AnyImage:
    """Mirror the image left to right with the given probability."""
    if rng.random() >= probability:
        return image
    raw = np.ascontiguousarray(image).view(np.uint8)  # OpenCV knows few dtypes, and mirrors all bytes
    return cv2.flip(raw, 1).view(image.dtype).reshape(image.shape)


def normalize(
    image: AnyImage, mean: float | Sequence[float] = 128.0, std: float | Sequence[float] = 128.0
) -> FloatImage:
    """Return `(image - mean) / std`, in float32; mean and std for all channels or for each."""
    centred = image.astype(np.float32) - np.asarray(mean, np.float32)
    return centred / np.asarray(std, np.float32)


@contextlib.contextmanager
def _open(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Read the header; every failure until the end of the block is one of the file."""
    if not data:
        raise DamagedDataError("the image file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise DamagedDataError(
                    f"the image has {image.width} x {image.height} pixels, over {max_pixels} allowed"
                )
            yield image
    except DamagedDataError:
        raise
    except Image.UnidentifiedImageError as error:
        raise DamagedDataError(f"not an image of a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's readers raise nearly every type on damaged bytes
        raise DamagedDataError(f"the image cannot be decoded ({error})") from error


def _reduction(image: Image.Image, shrink: float) -> int:
    """By how much to shrink an image while decoding it, if it is to become smaller by `shrink`."""
    steps = (8, 4, 2) if image.format == "JPEG" else ()
    return next((step for step in steps if step <= shrink), 1)


def _decode(image: Image.Image, data: bytes, reduction: int) -> RGBImage:
    """Pixels of an open image; a JPEG's ordinary ones by OpenCV, which gives the same in less time."""
    if image.format == "JPEG" and image.mode in ("L", "RGB") and data.endswith(_END_OF_JPEG):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _JPEG_FLAGS[reduction])
        if pixels is not None:
            return pixels
    if reduction > 1:
        image.draft(None, (image.width // reduction, image.height // reduction))
    return np.asarray(_to_rgb(image))


def _resize_part(image: AnyImage, part: Sequence[float], size: tuple[int, int]) -> FloatImage:
    """Resize a part whose edges (top, left, height, width) may lie between pixels, bilinearly."""
    top, left, height, width = part
    image = image[int(top) : math.ceil(top + height), int(left) : math.ceil(left + width)]
    step_y, step_x = height / size[0], width / size[1]
    matrix = np.array(
        [[step_x, 0, left % 1 + step_x / 2 - 0.5], [0, step_y, top % 1 + step_y / 2 - 0.5]], np.float32
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    resized = cv2.warpAffine(
        image.astype(np.float32), matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return resized.reshape(*size, image.shape[2])


def _to_rgb(image: Image.Image) -> Image.Image | RGBImage:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        return _from_16_bits(np.asarray(image))
    if image.mode == "F":
        raise DamagedDataError("floating-point pixels have no defined range; convert to 8 bits")
    if image.has_transparency_data:
        grey = Image.new("RGBA", image.size, (128, 128, 128, 255))
        return Image.alpha_composite(grey, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(values: Int[np.ndarray, "height width"]) -> RGBImage:
    if values.min() < 0 or values.max() > 65535:
        raise DamagedDataError("pixels of more than 16 bits; convert to 8 bits")
    grey = np.round(values / 257).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


class _Taps(NamedTuple):
    """For each output pixel of one axis, the input pixels it is made of and their weights."""

    pixel: Int[np.ndarray, "taps out"]
    weight: Float32[np.ndarray, "taps out"]


def _bicubic_taps(in_size: int, out_size: int, a: float = -0.75) -> _Taps:
    position = np.arange(out_size) * (in_size / out_size)
    index = np.floor(position) + np.arange(-1, 3)[:, None]
    distance = np.abs(position - index)
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    weight = np.where(distance <= 1, near, far).astype(np.float32)
    return _Taps(np.clip(index, 0, in_size - 1).astype(np.intp), weight)


def _resample(image: AnyImage, rows: _Taps, columns: _Taps) -> FloatImage:
    """Apply the taps of both axes, a band of rows at a time so that temporaries stay in cache."""
    height, width, channels = image.shape
    flat = np.ascontiguousarray(image).reshape(height, width * channels)
    column_index = (columns.pixel[:, :, None] * channels + np.arange(channels)).reshape(
        len(columns.pixel), -1
    )
    column_weight = np.repeat(columns.weight, channels, axis=1)
    out = np.empty((rows.pixel.shape[1], column_index.shape[1]), np.float32)
    band = max(1, 40_000 // (width * channels))
    for start in range(0, len(out), band):
        part = slice(start, start + band)
        lines = _weighted_sum(flat, rows.pixel[:, part], rows.weight[:, part, None], axis=0)
        out[part] = _weighted_sum(lines, column_index, column_weight, axis=1)
    return out.reshape(len(out), -1, channels)


def _weighted_sum(
    values: Shaped[np.ndarray, "rows columns"], index: np.ndarray, weight: np.ndarray, axis: int
) -> Float32[np.ndarray, "rows_out columns_out"]:
    total = _weighted(values, index[0], weight[0], axis)
    for tap in range(1, len(index)):
        total += _weighted(values, index[tap], weight[tap], axis)
    return total


def _weighted(values: np.ndarray, index: np.ndarray, weight: np.ndarray, axis: int) -> np.ndarray:
    part = values.take(index, axis).astype(np.float32, copy=False)  # take has copied already
    part *= weight
    return part


def _resize_antialiased(image: AnyImage, size: tuple[int, int]) -> FloatImage:
    """Resize each channel with Pillow's triangle filter, in floating point."""
    channels = [
        np.asarray(
            Image.fromarray(image[:, :, channel].astype(np.float32)).resize(
                (size[1], size[0]), Image.Resampling.BILINEAR
            )
        )
        for channel in range(image.shape[2])
    ]
    return np.stack(channels, axis=2)
