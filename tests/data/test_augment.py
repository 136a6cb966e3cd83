"""RandAugment and AutoAugment: against TensorFlow and Pillow, and between host and device.

The conventions are google/automl's; reference numbers are made by tools/golden/augment.py, where TensorFlow
and Pillow work by them.
"""

import functools
import json
import math
import pathlib
import re
import zlib

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image, ImageEnhance, ImageOps

from offsites_jax.data import augment
from offsites_jax.data.augment import device
from offsites_jax.data.augment.draws import INDEX, OPS, POLICIES

GOLDEN = pathlib.Path(__file__).parent / "golden"
RECORDED = json.loads((GOLDEN / "augment.json").read_text())
SHAPES = {"small": (24, 40, 3), "large": (231, 300, 3)}


def picture(name):
    """As in tools/golden/augment.py."""
    height, width, _ = shape = SHAPES[name]
    y, x = np.mgrid[:height, :width]
    base = np.stack([255 * x / width, 255 * y / height, 90 + 40 * (x + y) / (height + width)], axis=2)
    noise = np.random.default_rng(0).integers(-40, 41, shape)
    return np.clip(base.astype(np.int64) + noise, 0, 255).astype(np.uint8)


SMALL, LARGE = picture("small"), picture("large")
SQUARE = np.random.default_rng(3).integers(0, 256, (19, 27, 3), np.uint8)


class Scripted:
    """A generator whose next operation, sign and centre are known."""

    def __init__(self, choice, sign="+", center=(0.5, 0.5)):
        self.choice, self.uniform, self.center = choice, {"+": 0.0, "-": 0.999}[sign], center

    def integers(self, _):
        return self.choice

    def random(self, size=None, dtype=None):
        return np.array(self.center, dtype) if size else self.uniform


def one(name, magnitude, sign="+", center=(0.5, 0.5), **options):
    rng = Scripted(INDEX[name], sign, center)
    return augment.draw_randaugment(rng, magnitude=magnitude, num_ops=1, **options)


def checksum(image):
    return zlib.crc32(np.ascontiguousarray(image).tobytes())


class TestAgainstTensorFlowAndPillow:
    """Numbers recorded by tools/golden/augment.py, which formulates every operation once more."""

    @pytest.mark.parametrize("name", [n for n in OPS[:-1] if n not in ("Color", "Sharpness")])
    def test_exact_operations_at_all_magnitudes(self, name):
        recorded = {k: v for k, v in RECORDED["checksums"].items() if k.split()[0] == name}
        assert len(recorded) >= 8
        center = (17.5 / 231, 203.5 / 300)
        for key, wanted in recorded.items():
            _, magnitude, sign = key.split()
            magnitude = 25 / 3 if magnitude == "8.333" else float(magnitude)
            assert checksum(augment.apply(LARGE, one(name, magnitude, sign, center))) == wanted, key

    @pytest.mark.parametrize("name", ["Color", "Sharpness"])
    def test_operations_with_rounded_sums(self, name):
        """Exact, but where a sum of nine pixels is a whole number, which float32 may miss by one level."""
        with np.load(GOLDEN / "augment.npz") as recorded:
            pictures = {key: recorded[key].astype(int) for key in recorded if key.startswith(name)}
        assert len(pictures) == 8
        for key, wanted in pictures.items():
            magnitude = 25 / 3 if "8.333" in key else float(key.split()[1])
            got = augment.apply(SMALL, one(name, magnitude)).astype(int)
            factor = 0.18 * magnitude + 0.1
            whole = whole_sums(SMALL) if name == "Sharpness" else np.zeros(SMALL.shape, bool)
            assert (got == wanted)[~whole].all(), key
            assert np.abs(got - wanted).max() <= math.ceil(abs(factor - 1)), key

    def test_policies(self):
        assert [list(map(list, policy)) for policy in POLICIES] == RECORDED["policies"]
        got = [augment.apply(SMALL, augment.draw_autoaugment(Scripted(i))) for i in range(25)]
        assert [checksum(image) for image in got] == RECORDED["policy_checksums"]
        lifted = augment.draw_autoaugment(Scripted(15))
        assert OPS[lifted.op[1]] == "TranslateY"
        assert lifted.arguments[1, 0] == 225, "magnitude 9 of at most 250 pixels"


def whole_sums(image):
    pixels = np.pad(image.astype(int), ((1, 1), (1, 1), (0, 0)))
    height, width, _ = image.shape
    parts = [pixels[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return (sum(parts) + 4 * parts[4]) % 13 == 0


def images_of_all_kinds():
    rng = np.random.default_rng(5)
    dark = np.full((9, 9, 3), 7, np.uint8)
    two_levels = np.where(rng.random((12, 31, 3)) < 0.1, 40, 200).astype(np.uint8)
    return [SQUARE, SMALL, dark, two_levels, SQUARE[:1, :1], SQUARE[:2, :5]]


@pytest.mark.parametrize(
    ("name", "magnitude", "pillow", "tolerance"),
    [
        ("Invert", 5, ImageOps.invert, 0),
        ("Equalize", 5, ImageOps.equalize, 0),
        ("AutoContrast", 5, ImageOps.autocontrast, 1),  # in float64 there
        ("Posterize", 5, lambda image: ImageOps.posterize(image, 2), 0),
        ("Solarize", 4, lambda image: ImageOps.solarize(image, 102), 0),
        ("Brightness", 7, lambda image: ImageEnhance.Brightness(image).enhance(1.36), 0),
        ("Brightness", 2, lambda image: ImageEnhance.Brightness(image).enhance(0.46), 0),
        ("Color", 2, lambda image: ImageEnhance.Color(image).enhance(0.46), 1),  # greys are rounded there
        ("Sharpness", 2, lambda image: ImageEnhance.Sharpness(image).enhance(0.46), 1),
    ],
)
def test_equals_pillow(name, magnitude, pillow, tolerance):
    for image in images_of_all_kinds():
        got = augment.apply(image, one(name, magnitude)).astype(int)
        assert np.abs(got - np.asarray(pillow(Image.fromarray(image)))).max() <= tolerance


def test_quarter_turns_and_whole_shifts_move_pixels_exactly():
    turned = augment.apply(SQUARE[:, :19], one("Rotate", 30))
    np.testing.assert_array_equal(turned, np.rot90(SQUARE[:, :19], 1))
    shifted = augment.apply(SQUARE, one("TranslateX", 0.3))
    np.testing.assert_array_equal(shifted[:, :-3], SQUARE[:, 3:])
    assert (shifted[:, -3:] == 128).all()
    lifted = augment.apply(SQUARE, one("TranslateY", 0.3, "-"))
    np.testing.assert_array_equal(lifted[3:], SQUARE[:-3])


class TestOutOfRange:
    RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)

    @pytest.mark.parametrize("magnitude", [10, 15, 20])
    def test_saturated_solarize_is_the_identity(self, magnitude):
        draw = one("Solarize", magnitude, out_of_range="saturate")
        np.testing.assert_array_equal(augment.apply(self.RAMP, draw), self.RAMP)

    @pytest.mark.parametrize(("magnitude", "kept"), [(0, 1), (2, 1), (5, 2), (20, 8), (25, 8)])
    def test_saturated_posterize_keeps_one_to_eight_bits(self, magnitude, kept):
        got = augment.apply(self.RAMP, one("Posterize", magnitude, out_of_range="saturate"))
        assert len(np.unique(got)) == 2**kept

    def test_as_published_magnitude_ten_solarizes_everything(self):
        np.testing.assert_array_equal(augment.apply(self.RAMP, one("Solarize", 10)), 255 - self.RAMP)
        assert len(np.unique(augment.apply(self.RAMP, one("Posterize", 25)))) == 2


def test_grey_images_are_treated_as_each_channel_of_their_colour_twins():
    grey = SQUARE[:, :, :1]
    for name in OPS:
        got = augment.apply(grey, one(name, 8))
        wanted = augment.apply(np.repeat(grey, 3, axis=2), one(name, 8))
        assert got.shape == grey.shape
        np.testing.assert_array_equal(np.repeat(got, 3, axis=2), wanted, err_msg=name)
    np.testing.assert_array_equal(augment.apply(grey, one("Color", 8)), grey)


def test_images_given_are_not_changed_and_may_be_views():
    view = LARGE[5:40, 60:10:-1]
    before = view.copy()
    for name in OPS:
        from_view, from_copy = (augment.apply(image, one(name, 7)) for image in (view, before))
        np.testing.assert_array_equal(from_view, from_copy)
    np.testing.assert_array_equal(view, before)


class TestDraws:
    def test_operations_and_signs_are_evenly_drawn(self):
        rng = np.random.default_rng(0)
        draws = [augment.draw_randaugment(rng, magnitude=9) for _ in range(4000)]
        counts = np.bincount(np.ravel([draw.op for draw in draws]), minlength=17)
        assert counts[16] == 0
        chi_squared = np.sum((counts[:16] - 500) ** 2) / 500
        assert chi_squared < 37.7, "above the 0.999 quantile of 15 degrees of freedom"
        shears = [draw.arguments[draw.op == INDEX["ShearX"], 0] for draw in draws]
        assert abs(np.mean(np.concatenate(shears) > 0) - 0.5) < 0.1

    def test_operations_of_a_policy_take_place_as_often_as_it_says(self):
        rng = np.random.default_rng(1)
        ops = np.array([augment.draw_autoaugment(rng).op for _ in range(20_000)])
        for name in ("Invert", "Posterize", "Equalize", "Identity"):
            steps = [step for policy in POLICIES for step in policy]
            chance = [p if name != "Identity" else 1 - p for n, p, _ in steps if name in (n, "Identity")]
            assert abs(np.sum(ops == INDEX[name]) / 20_000 - sum(chance) / 25) < 0.02, name

    def test_the_generator_decides_everything(self):
        for draw in (augment.draw_autoaugment, functools.partial(augment.draw_randaugment, magnitude=12)):
            twice = [augment.apply(SMALL, draw(np.random.default_rng(9))) for _ in range(2)]
            np.testing.assert_array_equal(*twice)
        seeds = map(np.random.default_rng, range(20))
        draws = [augment.draw_randaugment(rng, magnitude=5) for rng in seeds]
        assert len({checksum(augment.apply(LARGE, draw)) for draw in draws}) > 15

    def test_number_of_operations(self):
        draw = augment.draw_randaugment(np.random.default_rng(0), magnitude=5, num_ops=4)
        assert draw.op.shape == (4,)
        assert draw.arguments.shape == (4, 3)

    def test_joined_draws_follow_one_another(self):
        rng = np.random.default_rng(5)
        draws = [augment.draw_randaugment(rng, magnitude=9, num_ops=count) for count in (1, 3, 2)]
        one_by_one = SMALL
        for draw in draws:
            one_by_one = augment.apply(one_by_one, draw)
        np.testing.assert_array_equal(augment.apply(SMALL, augment.joined(draws)), one_by_one)


class TestCutout:
    def test_covers_a_square_around_a_uniform_centre(self):
        rng = np.random.default_rng(2)
        holes = np.zeros((20, 30))
        for _ in range(4000):
            holes += augment.cutout(np.zeros((20, 30, 1), np.uint8), rng, 2)[:, :, 0] == 128
        inner = holes[1:-1, 1:-1] / 4000
        assert abs(inner.mean() - 4 / 600) < 4e-4
        assert np.abs(inner - 4 / 600).max() < 0.006
        assert holes[:, -1].mean() < 0.75 * inner.mean() * 4000, "cut off at the border"

    def test_drawn_ahead_it_covers_the_same(self):
        for seed in range(20):
            draw = augment.draw_cutout(np.random.default_rng(seed), 8)
            covered = augment.cutout(SMALL, np.random.default_rng(seed), 8)
            np.testing.assert_array_equal(augment.apply(SMALL, draw), covered)

    def test_noise_is_the_upper_half_and_the_rest_is_kept(self):
        got = augment.cutout(np.zeros((64, 64, 3), np.uint8), np.random.default_rng(0), 128, fill="noise")
        covered = got[got > 0]
        assert covered.size >= 64 * 64 * 3 / 4
        assert covered.min() == 128
        assert covered.max() == 255
        assert abs(covered.mean() - 191.5) < 1.5


def drawn_batch():
    rng = np.random.default_rng(11)
    draws = [one(name, m, s) for name in OPS for m in (2, 10, 23) for s in "+-"]
    draws = [augment.Draw(np.repeat(d.op, 2), np.repeat(d.arguments, 2, axis=0)) for d in draws]
    for magnitude in (5, 25 / 3, 15):
        for mode in ("automl", "saturate"):
            draws += [augment.draw_randaugment(rng, magnitude=magnitude, out_of_range=mode) for _ in range(8)]
    draws += [augment.draw_autoaugment(rng) for _ in range(10)]
    return draws[: len(draws) // 8 * 8]


def stacked(draws):
    return augment.Draw(*map(np.stack, zip(*draws, strict=True)))


class TestDevice:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_equals_the_host(self, channels):
        draws = drawn_batch()
        rng = np.random.default_rng(4)
        smooth = picture("small")[..., :channels]
        images = np.stack([smooth if i % 2 else rng.permuted(smooth, axis=0) for i in range(len(draws))])
        got = np.asarray(jax.jit(device.apply_batch)(images, stacked(draws))).astype(int)
        assert got.dtype == int
        wanted = [augment.apply(image, draw) for image, draw in zip(images, draws, strict=True)]
        assert np.abs(got - wanted).max() <= 1

    def test_both_ways_to_count_levels_are_right(self):
        wanted = np.stack([np.bincount(SMALL[..., c].ravel(), minlength=256) for c in range(3)], axis=1)
        for count in (device._count_by_comparing, device._count_by_adding):
            np.testing.assert_array_equal(count(jax.numpy.asarray(SMALL)), wanted)

    def test_devices_exchange_nothing(self):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        rows = NamedSharding(mesh, PartitionSpec("data"))
        draws = stacked([augment.draw_randaugment(np.random.default_rng(i), magnitude=10) for i in range(16)])
        images = np.repeat(SQUARE[None], 16, axis=0)
        program = jax.jit(device.apply_batch, in_shardings=rows, out_shardings=rows)
        text = program.lower(images, draws).compile().as_text()
        assert not re.findall(r"all-reduce|all-gather|all-to-all|collective-permute", text)
