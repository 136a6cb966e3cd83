"""Made-up defects: what is pasted comes from the image, lies inside it, and has the sizes asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.color import Jitter
from offsites_jax.projects.one_class.views import cutpaste
from offsites_jax.projects.one_class.views.cutpaste import Confetti, Patch, Scar

HEIGHT, WIDTH = 40, 52
KEYS = jax.random.split(jax.random.key(0), 1000)
PLAIN = Jitter()
RNG = np.random.default_rng(0)


def coordinates(height=HEIGHT, width=WIDTH):
    """An image whose pixels say where they are; the third channel is 1."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([rows, columns, np.ones_like(rows)], -1).astype(np.float32)


def mapped(function, image, *static, keys=KEYS):
    make = jax.jit(jax.vmap(lambda key, image: function(key, image, *static), (0, None)))
    return np.asarray(make(keys, image))


def extents(changed):
    """First and one past the last changed row and column of each image."""
    rows, columns = changed.any(2), changed.any(1)
    return (
        rows.argmax(1), rows.shape[1] - rows[:, ::-1].argmax(1),
        columns.argmax(1), columns.shape[1] - columns[:, ::-1].argmax(1),
    )  # fmt: skip


def test_a_patch_is_a_shifted_rectangle_of_the_image():
    image = coordinates()
    got = mapped(cutpaste.cutpaste, image, Patch(), PLAIN)
    changed = (got != image).any(-1)
    assert changed.any((1, 2)).mean() > 0.99
    for one, where in zip(got, changed, strict=True):
        if where.any():
            rows, columns = np.nonzero(where)
            box = np.ix_(range(rows.min(), rows.max() + 1), range(columns.min(), columns.max() + 1))
            assert where[box].all(), "a whole rectangle"
            shift = one[where][:, :2] - image[where][:, :2]
            assert (shift == shift[0]).all()
            assert (one[where][:, :2] >= 0).all()
            assert (one[where][:, :2] < (HEIGHT, WIDTH)).all()


def test_sizes_of_patches_follow_the_laws_of_area_and_aspect():
    keys = jax.random.split(jax.random.key(1), 40_000)
    draw = jax.jit(jax.vmap(lambda key: cutpaste.draw_sides(key, (2000, 2000), Patch())))
    height, width = map(np.asarray, draw(keys))
    area, aspect = height * width / 2000**2, width / height
    np.testing.assert_allclose(
        np.quantile(area, [0, 0.25, 0.5, 0.75, 1]), np.linspace(0.02, 0.15, 5), atol=2e-3
    )
    assert 0.49 < (aspect < 1).mean() < 0.51
    for part, ends in ((aspect[aspect < 1], (0.3, 1)), (aspect[aspect > 1], (1, 3.3))):
        quantiles = np.quantile(part, [0.001, 0.25, 0.5, 0.75, 0.999])
        np.testing.assert_allclose(quantiles, np.linspace(*ends, 5), rtol=0.02)
    assert abs(np.corrcoef(area, aspect)[0, 1]) < 0.02


def test_corners_reach_every_place_inside():
    keys = jax.random.split(jax.random.key(2), 2000)
    sides = jnp.int32(5), jnp.int32(9)
    corners = jax.jit(jax.vmap(lambda key: cutpaste.draw_corners(key, (8, 12), sides, 1)[0]))(keys)
    places, counts = np.unique(corners, axis=0, return_counts=True)
    np.testing.assert_array_equal(places, [(top, left) for top in range(4) for left in range(4)])
    assert counts.min() > 0.7 * 2000 / 16


def test_what_is_pasted_is_jittered_and_nothing_else():
    image = RNG.uniform(0, 1, (HEIGHT, WIDTH, 3)).astype(np.float32)
    got = mapped(cutpaste.cutpaste, image, Patch(), Jitter(brightness=0.1))
    plain = mapped(cutpaste.cutpaste, image, Patch(), PLAIN)
    inside = (plain != image).any(-1)
    pasted_elsewhere = inside.any((1, 2))
    assert pasted_elsewhere.mean() > 0.99
    for one, before, where in zip(*(x[pasted_elsewhere] for x in (got, plain, inside)), strict=True):
        np.testing.assert_array_equal(one[~where], image[~where])
        difference = one - before
        assert np.ptp(difference[where]) < 1e-5
        assert 0 < abs(difference[where].mean()) < 0.1


@pytest.mark.parametrize("fill", ["grey", "mean", "color"])
def test_cutout_fills_one_rectangle_with_one_colour(fill):
    image = RNG.uniform(0, 1, (HEIGHT, WIDTH, 3)).astype(np.float32)
    got = mapped(cutpaste.cutout, image, Patch(), fill)
    changed = (got != image).any(-1)
    top, bottom, left, right = extents(changed)
    area = changed.sum((1, 2))
    np.testing.assert_array_equal(area, (bottom - top) * (right - left))
    assert 0.015 * HEIGHT * WIDTH < area.min() < 0.03 * HEIGHT * WIDTH
    assert 0.14 * HEIGHT * WIDTH < area.max() < 0.16 * HEIGHT * WIDTH
    colors = np.array([one[where] for one, where in zip(got, changed, strict=True)], object)
    first = np.array([color[0] for color in colors], np.float32)
    assert all((color == color[0]).all() for color in colors)
    if fill == "grey":
        np.testing.assert_array_equal(first, 0.5)
    elif fill == "mean":
        np.testing.assert_allclose(first, np.broadcast_to(image.mean((0, 1)), first.shape), atol=1e-6)
    else:
        np.testing.assert_allclose(np.quantile(first, [0, 0.5, 1], axis=0).T, [[0, 0.5, 1]] * 3, atol=0.06)


def angles_and_sides(mask):
    """Angle in degrees and length and width of a filled rectangle, from its second moments."""
    rows, columns = np.nonzero(mask)
    values, vectors = np.linalg.eigh(np.cov(np.stack([rows, columns]), bias=True))
    down, right = vectors[:, 1] * np.sign(vectors[0, 1])
    return np.degrees(np.arctan2(right, down)), *np.sqrt(12 * values[::-1])


def test_scars_have_the_sizes_and_angles_asked_for():
    scar = Scar(width=(3, 6), length=(18, 24), rotation=30)
    image = np.full((HEIGHT, WIDTH, 1), -1, np.float32)
    got = mapped(cutpaste.color_scar, image, scar)
    found = np.array([angles_and_sides(one) for one in (got != -1)[..., 0]])
    angle, length, width = found.T
    np.testing.assert_allclose(np.quantile(angle, [0, 0.25, 0.5, 0.75, 1]), np.linspace(-30, 30, 5), atol=2.5)
    np.testing.assert_allclose([length.min(), length.max()], [18, 24], atol=0.8)
    np.testing.assert_allclose([width.min(), width.max()], [3, 6], atol=0.5)
    assert set(np.rint(width)) == {3, 4, 5, 6}
    top, bottom, left, right = extents((got != -1)[..., 0])
    assert (top.min(), left.min(), bottom.max(), right.max()) == (0, 0, HEIGHT, WIDTH)
    # Whole boxes: none is cut off by the border, which would show as a smaller area.
    area = (got != -1).sum((1, 2, 3))
    assert (np.abs(area - np.rint(length) * np.rint(width)) < 0.2 * area).all()


def test_a_scar_is_a_turned_piece_of_the_image():
    """Where pixels come from is where they are, turned and shifted, down to whole pixels."""
    image = coordinates(200, 200)
    scar = Scar(width=(60, 70), length=(90, 110))
    got = mapped(cutpaste.cutpaste_scar, image, scar, PLAIN, keys=KEYS[:80])
    assert (got[..., 2] == 1).all(), "nothing but pixels of the image"
    angles = []
    for one in got:
        where = (one != image).any(-1)
        source = one[where][:, :2]
        turned = np.linalg.lstsq(image[where], source)[0]  # for a step down, for one sideways, at 0
        np.testing.assert_allclose(turned[0], turned[1, ::-1] * (1, -1), atol=0.02)
        np.testing.assert_allclose(np.hypot(*turned[0]), 1, atol=0.02)
        assert np.abs(source - image[where] @ turned).max() < 1
        angles.append(np.degrees(np.arctan2(-turned[0, 1], turned[0, 0])))
    np.testing.assert_allclose([min(angles), max(angles)], [-45, 45], atol=6)


def test_confetti_are_squares_of_as_many_colours_as_drawn():
    image = np.full((HEIGHT, WIDTH, 3), -1, np.float32)
    got = mapped(cutpaste.confetti, image, Confetti(count=(2, 3), side=(0.2, 0.3)), keys=KEYS[:300])
    colors = [len(np.unique(one.reshape(-1, 3), axis=0)) - 1 for one in got]
    assert set(colors) <= {1, 2, 3}  # one may hide another
    assert 0.35 < np.mean(np.array(colors) == 3) < 0.5
    areas = [
        (one == color).all(-1).sum() for one in got for color in np.unique(one.reshape(-1, 3), axis=0)[1:]
    ]
    assert max(areas) < (0.3 * HEIGHT + 1.5) ** 2
    assert np.median(areas) > (0.2 * HEIGHT) ** 2


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (cutpaste.cutpaste, (Patch(), PLAIN)),
        (cutpaste.cutpaste_scar, (Scar(), PLAIN)),
        (cutpaste.confetti, (Confetti(),)),
    ],
)
def test_a_key_decides_all_whatever_the_batch(make, settings):
    image = RNG.uniform(0, 1, (HEIGHT, WIDTH, 3)).astype(np.float32)
    got = mapped(make, image, *settings)
    alone = jax.jit(lambda key, image: make(key, image, *settings))
    for number in range(0, 1000, 20):
        np.testing.assert_array_equal(got[number], alone(KEYS[number], image))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Patch(area=(0.2, 0.1)), "patch.area is"),
        (lambda: Patch(aspect=(1.2, 3.0)), "patch.aspect is"),
        (lambda: Patch(area=(0.02, 0.5)), "the longest patch does not fit"),
        (lambda: Scar(width=(0, 4)), "scar.width is"),
        (lambda: Scar(rotation=200), "scar.rotation is"),
        (lambda: Confetti(count=(0, 4)), "confetti.count is"),
        (lambda: Confetti(side=(0.1, 0.7)), "confetti.side is"),
        (lambda: cutpaste.color_scar(KEYS[0], np.zeros((24, 24, 3)), Scar()), "scar.length.*needs 31 pixels"),
    ],
)
def test_what_cannot_be(make, message):
    with pytest.raises(UserError, match=message):
        make()
