"""Images: decoding odd files, resizing against JAX, crops against their stated bounds."""

import io
import json
import pathlib
import struct
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from offsites_jax.data import image as images
from offsites_jax.errors import DamagedDataError

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (11, 17, 3), np.uint8)
BOUNDS = {"area": (0.05, 1.0), "aspect": (3 / 4, 4 / 3), "attempts": 100}


def encode(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def smooth(height, width):
    """A picture that survives JPEG and palettes."""
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * y + 20, 3 * x + 30, 2 * (x + y)], axis=2).astype(np.uint8)


class TestDecode:
    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
    def test_lossless_colour_is_exact(self, kind):
        got = images.decode(encode(Image.fromarray(PICTURE), kind))
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, PICTURE)

    @pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
    def test_lossy_colour_is_close(self, kind):
        picture = smooth(32, 48)
        got = images.decode(encode(Image.fromarray(picture), kind, quality=95)).astype(int)
        assert np.abs(got - picture).mean() < 3

    @pytest.mark.parametrize("mode", ["RGB", "L"])
    @pytest.mark.parametrize("size", [(64, 48), (33, 21), (1, 1)])
    def test_jpegs_have_the_pixels_pillow_gives(self, size, mode):
        picture = Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).convert(mode)
        kinds = [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}]
        for options in [*kinds, {"keep_rgb": True}] if mode == "RGB" else kinds:
            data = encode(picture, "JPEG", **options)
            np.testing.assert_array_equal(images.decode(data), Image.open(io.BytesIO(data)).convert("RGB"))

    @pytest.mark.parametrize("factor", [2, 4, 8])
    def test_reduced_jpegs_have_the_pixels_pillow_gives(self, factor):
        data = encode(Image.fromarray(smooth(67, 91)), "JPEG")
        size = (67 // factor, 91 // factor)
        wanted = Image.open(io.BytesIO(data))
        wanted.draft(None, size[::-1])
        np.testing.assert_array_equal(images.decode(data, min_size=size), wanted)
        cmyk = encode(Image.fromarray(smooth(67, 91)).convert("CMYK"), "JPEG")
        assert images.decode(cmyk, min_size=size).shape == (*wanted.size[::-1], 3)

    def test_grey_is_repeated(self):
        grey = PICTURE[:, :, 0]
        got = images.decode(encode(Image.fromarray(grey)))
        np.testing.assert_array_equal(got, np.repeat(grey[:, :, None], 3, axis=2))

    def test_sixteen_bits_are_scaled(self):
        values = np.array([[0, 257, 128 * 257, 65535, 300]], np.uint16)
        got = images.decode(encode(Image.fromarray(values)))
        np.testing.assert_array_equal(got[0, :, 0], [0, 1, 128, 255, 1])
        assert got.shape == (1, 5, 3)

    def test_alpha_is_laid_on_grey(self):
        alpha = RNG.integers(0, 256, (11, 17, 1), np.uint8)
        got = images.decode(encode(Image.fromarray(np.concatenate([PICTURE, alpha], axis=2))))
        opacity = alpha / 255
        wanted = PICTURE * opacity + 128 * (1 - opacity)
        assert np.abs(got - wanted).max() <= 1

    def test_palettes_and_their_transparent_colour(self):
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 200, 100, 50])
        image.putdata([0, 1])
        opaque = images.decode(encode(image))
        np.testing.assert_array_equal(opaque, [[[10, 20, 30], [200, 100, 50]]])
        clear = images.decode(encode(image, transparency=0))
        np.testing.assert_array_equal(clear, [[[128, 128, 128], [200, 100, 50]]])

    def test_cmyk(self):
        inks = np.full((8, 8, 4), (0, 255, 255, 0), np.uint8)
        got = images.decode(encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=100)).astype(int)
        assert np.abs(got - [255, 0, 0]).max() <= 4

    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
    def test_first_frame_of_an_animation(self, kind):
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(images.decode(data)[4, 4], [255, 0, 0])

    def test_exif_rotation_is_not_applied(self):
        exif = Image.Exif()
        exif[0x0112] = 6  # Orientation: rotate by 90 degrees
        data = encode(Image.fromarray(smooth(16, 32)), "JPEG", exif=exif)
        assert images.decode(data).shape == (16, 32, 3)

    def test_draft_decoding_is_smaller_but_large_enough(self):
        picture = smooth(48, 64).repeat(8, axis=0).repeat(8, axis=1)
        data = encode(Image.fromarray(picture), "JPEG")
        got = images.decode(data, min_size=(90, 120))
        assert got.shape == (96, 128, 3)
        wanted = images.resize(picture, (96, 128), antialias=True)
        assert np.abs(got - wanted).mean() < 4

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "empty"),
            (b"<html>404</html>", "not an image of a known format"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
            (encode(Image.fromarray(smooth(64, 64)), "JPEG")[:700], "cannot be decoded"),
            (encode(Image.fromarray(PICTURE))[:300], "cannot be decoded"),
            (encode(Image.fromarray(PICTURE[:, :, 0].astype(np.float32)), "TIFF"), "no defined range"),
        ],
    )
    def test_damaged_files_are_one_clear_line(self, data, message):
        with pytest.raises(DamagedDataError, match=message) as error:
            images.decode(data)
        assert "\n" not in str(error.value)

    def test_bombs_are_refused_before_decoding(self):
        def chunk(name, body):
            return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

        def bomb(side):
            header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
            return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")

        with pytest.warns(Image.DecompressionBombWarning), pytest.raises(DamagedDataError, match="12000 x"):
            images.decode(bomb(12_000))
        with pytest.raises(DamagedDataError, match="3600000000 pixels"):
            images.decode(bomb(60_000))
        with pytest.raises(DamagedDataError, match="3600000000 pixels"):
            images.decode_inception_crop(bomb(60_000), (8, 8), RNG, fast_decode=True)
        with pytest.raises(DamagedDataError, match="over 100 allowed"):
            images.decode(encode(Image.fromarray(PICTURE)), max_pixels=100)

    def test_wide_images_are_fine(self):
        wide = np.tile(smooth(2, 60), (1, 1000, 1))
        got = images.decode(encode(Image.fromarray(wide)))
        np.testing.assert_array_equal(got, wide)
        assert images.resize(images.inception_crop(got, RNG), (32, 32)).shape == (32, 32, 3)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16"])
    def test_every_mode_becomes_three_channels(self, mode):
        value = 255 if mode == "1" else 204  # which the standard palette has, too
        image = Image.fromarray(np.full((4, 6, 3), value, np.uint8)).convert(mode.replace("I;16", "L"))
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image) * np.uint16(257))
        got = images.decode(encode(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"))
        assert got.shape == (4, 6, 3)
        assert np.abs(got.astype(int) - value).max() <= 1

    @pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on damaged TIFF tags
    def test_flipped_bytes_never_raise_anything_else(self):
        rng = np.random.default_rng(1)
        for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
            whole = np.frombuffer(encode(Image.fromarray(smooth(24, 24)), kind), np.uint8)
            for _ in range(60):
                broken = whole.copy()
                broken[rng.integers(len(broken), size=4)] = rng.integers(256, size=4)
                try:
                    assert images.decode(broken.tobytes(), max_pixels=10**6).shape[2] == 3
                except DamagedDataError:
                    continue


class TestFastDecoding:
    @staticmethod
    def jpeg(height, width):
        """A slow gradient, in which position can be read off the colour."""
        y, x = np.mgrid[:height, :width]
        picture = np.stack([255 * y / height, 255 * x / width, 0 * x], axis=2).astype(np.uint8)
        return encode(Image.fromarray(picture), "JPEG", quality=98, subsampling=0)

    def test_off_it_is_decoding_cropping_and_resizing(self):
        data = self.jpeg(60, 80)
        got = images.decode_inception_crop(data, (24, 20), np.random.default_rng(5))
        part = images.inception_crop(images.decode(data), np.random.default_rng(5))
        np.testing.assert_array_equal(got, images.resize(part, (24, 20)))

    @pytest.mark.parametrize("size", [(48, 64), (30, 30), (13, 17)])
    def test_the_same_part_is_seen(self, size):
        data = self.jpeg(397, 523)  # multiples of nothing
        for seed in range(20):
            exact, fast = (
                images.decode_inception_crop(data, size, np.random.default_rng(seed), fast_decode=fast)
                for fast in (False, True)
            )
            # A shift by one pixel of the source is 0.64 and 0.49 levels; JPEG rounds each to one.
            assert np.abs((fast - exact).mean(axis=(0, 1))).max() < 0.35
            assert np.abs(fast - exact).max() < 4

    def test_reduction_stops_at_the_wanted_size(self, monkeypatch):
        decode, reductions = images._decode, []
        monkeypatch.setattr(images, "_decode", lambda *args: reductions.append(args[-1]) or decode(*args))
        data = self.jpeg(480, 640)
        whole = {"area": (1.0, 1.0), "aspect": (4 / 3, 4 / 3)}
        for size in ((480, 640), (241, 321), (240, 320), (121, 161), (120, 160), (60, 80), (6, 8)):
            images.decode_inception_crop(data, size, RNG, **whole, fast_decode=True)
        assert reductions == [1, 1, 2, 2, 4, 8, 8]

    def test_other_formats_are_decoded_in_full(self):
        data = encode(Image.fromarray(smooth(64, 64)))
        exact, fast = (
            images.decode_inception_crop(data, (4, 4), np.random.default_rng(1), fast_decode=fast)
            for fast in (False, True)
        )
        np.testing.assert_array_equal(fast, exact)

    def test_parts_between_pixels(self):
        """A plane is interpolated exactly wherever the part begins."""
        y, x = np.mgrid[:20, :30]
        plane = (3.0 * x + 5.0 * y)[:, :, None]
        got = images._resize_part(plane, (3.25, 7.6, 10.5, 12.8), (4, 5))
        rows = 3.25 + (np.arange(4) + 0.5) * 10.5 / 4 - 0.5
        columns = 7.6 + (np.arange(5) + 0.5) * 12.8 / 5 - 0.5
        np.testing.assert_allclose(got[..., 0], 5 * rows[:, None] + 3 * columns, atol=0.15)

    def test_truncated_files_are_found(self):
        with pytest.raises(DamagedDataError, match="cannot be decoded"):
            images.decode_inception_crop(self.jpeg(400, 400)[:-300], (40, 40), RNG, fast_decode=True)


class TestResize:
    @pytest.mark.parametrize("antialias", [False, True])
    @pytest.mark.parametrize("size", [(5, 5), (11, 17), (40, 23), (7, 64), (1, 1)])
    def test_equals_jax(self, size, antialias):
        got = images.resize(PICTURE, size, antialias=antialias)
        wanted = jax.image.resize(PICTURE.astype(np.float32), (*size, 3), "bilinear", antialias=antialias)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, atol=2e-3)

    def test_many_bands_and_one_channel(self):
        wide = RNG.random((60, 9000, 1), np.float32)
        wanted = jax.image.resize(wide, (50, 70, 1), "bilinear", antialias=False)
        np.testing.assert_allclose(images.resize(wide, (50, 70)), wanted, atol=2e-3)

    def test_a_view_is_resized_like_its_copy(self):
        view = PICTURE[2:9, 12:3:-1]
        np.testing.assert_array_equal(images.resize(view, (6, 6)), images.resize(view.copy(), (6, 6)))

    def test_legacy_bicubic_is_the_keys_kernel_without_half_pixels(self):
        def keys(t, a=-0.75):
            t = abs(t)
            if t <= 1:
                return (a + 2) * t**3 - (a + 3) * t**2 + 1
            return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

        def matrix(n, m):
            weights = np.zeros((m, n))
            for out in range(m):
                at = out * n / m
                for pixel in range(int(at) - 1, int(at) + 3):
                    weights[out, min(max(pixel, 0), n - 1)] += keys(at - pixel)
            return weights

        wanted = np.einsum("ay,yxc,bx->abc", matrix(11, 14), PICTURE, matrix(17, 6))
        np.testing.assert_allclose(images.resize_legacy_bicubic(PICTURE, (14, 6)), wanted, atol=1e-3)


class TestCrops:
    def test_every_box_is_inside_and_within_its_bounds(self):
        boxes = [images.sample_crop(375, 500, RNG, **BOUNDS) for _ in range(2000)]
        top, left, height, width = np.array(boxes).T
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (top + height <= 375).all()
        assert (left + width <= 500).all()
        area = height * width / (375 * 500)
        assert (area >= 0.05).all()
        # Rounding the width moves it by half a pixel at most.
        assert ((width + 0.5) / height >= 3 / 4).all()
        assert ((width - 0.5) / height <= 4 / 3).all()
        assert area.min() < 0.06
        assert area.max() > 0.95

    def test_height_is_uniform_given_the_aspect(self):
        """At a fixed aspect the height runs evenly from sqrt(area) bounds to the largest that fits."""
        bounds = BOUNDS | {"aspect": (1.0, 1.0)}
        heights = [images.sample_crop(400, 600, RNG, **bounds).height for _ in range(20_000)]
        low, high = round(np.sqrt(0.05 * 400 * 600)), 400
        steps = np.sort(heights)
        uniform = (steps - low + 1) / (high - low + 1)
        empirical = np.searchsorted(steps, steps, side="right") / len(steps)
        assert np.abs(uniform - empirical).max() < 0.02

    def test_offsets_are_uniform_up_to_the_last_but_one(self):
        bounds = {"area": (0.25, 0.25), "aspect": (1.0, 1.0), "attempts": 1}
        boxes = [images.sample_crop(20, 20, RNG, **bounds) for _ in range(5000)]
        tops = np.bincount([box.top for box in boxes])
        assert len(tops) == 10
        assert np.abs(tops / 5000 - 0.1).max() < 0.02

    def test_crops_are_distributed_as_those_of_tensorflow(self):
        """Against quantiles of 20,000 crops drawn by TensorFlow (tools/golden/augment.py)."""
        recorded = json.loads((pathlib.Path(__file__).parent / "golden/augment.json").read_text())["crops"]
        rng, bounds = np.random.default_rng(0), BOUNDS | {"aspect": (0.75, 1.33)}  # TensorFlow's default
        boxes = [images.sample_crop(375, 500, rng, **bounds) for _ in range(20_000)]
        top, left, height, width = np.array(boxes).T
        drawn = {
            "area": height * width / (375 * 500),
            "aspect": width / height,
            "top": top / np.maximum(375 - height, 1),
            "left": left / np.maximum(500 - width, 1),
        }
        for name, values in drawn.items():
            at = np.array(recorded[name])
            # Where many values are equal, the distribution function jumps from `below` to `upto`.
            below, upto = (np.searchsorted(np.sort(values), at, side) / 20_000 for side in ("left", "right"))
            level = np.linspace(0, 1, len(at))
            distance = np.maximum(level - upto, below - level).max()
            assert distance < 0.02, (name, distance)

    def test_gives_up_where_nothing_fits(self):
        impossible = {"area": (0.9, 1.0), "aspect": (1.0, 1.0), "attempts": 10}
        assert images.sample_crop(10, 100, RNG, **impossible) is None
        image = np.zeros((10, 100, 3), np.uint8)
        assert images.inception_crop(image, RNG, **impossible).shape == (10, 100, 3)

    def test_small_crops_can_be_refused(self):
        boxes = [images.sample_crop(50, 50, RNG, **BOUNDS, min_covered=0.5) for _ in range(300)]
        assert min(box.height * box.width for box in boxes) >= 1250

    def test_inception_crop_cuts_what_the_box_says(self):
        image = np.arange(40 * 30).reshape(40, 30, 1)
        box = images.sample_crop(40, 30, np.random.default_rng(7), **BOUNDS)
        got = images.inception_crop(image, np.random.default_rng(7))
        assert got[0, 0, 0] == box.top * 30 + box.left
        assert got.shape == (box.height, box.width, 1)

    @pytest.mark.parametrize(
        ("shape", "size", "side", "corner"),
        [((375, 500), 224, 328, (23, 86)), ((256, 256), 224, 224, (16, 16)), ((10, 31), 288, 9, (0, 11))],
    )
    def test_center_crop(self, shape, size, side, corner):
        y, x = np.mgrid[: shape[0], : shape[1]]
        got = images.center_crop(np.stack([y, x], axis=2), size)
        assert got.shape == (side, side, 2)
        assert tuple(got[0, 0]) == corner

    def test_evaluation_squashes_from_320_on(self):
        image = np.zeros((375, 500, 3), np.uint8)
        assert images.evaluation_crop(image, 319).shape[:2] == (340, 340)
        assert images.evaluation_crop(image, 320) is image


def test_flip_mirrors_half_of_the_images():
    flipped = [images.random_flip(PICTURE, RNG)[0, 0, 0] == PICTURE[0, -1, 0] for _ in range(1000)]
    assert 440 < sum(flipped) < 560
    for picture in (PICTURE, PICTURE[:, :, :1], PICTURE[::2, 3:9], PICTURE.astype(np.int64), PICTURE / 3):
        got = images.random_flip(picture, RNG, probability=1.0)
        assert got.dtype == picture.dtype
        np.testing.assert_array_equal(got, picture[:, ::-1])


def test_normalize():
    got = images.normalize(PICTURE)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, (PICTURE - 128.0) / 128)
    mean, std = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)
    np.testing.assert_allclose(
        images.normalize(PICTURE, mean, std), (PICTURE - np.array(mean)) / std, rtol=1e-6
    )
