"""Pretext tasks: which rows a batch becomes, in what order, with which labels, on any mesh."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class import losses
from offsites_jax.projects.one_class.augment import Augmentation
from offsites_jax.projects.one_class.color import Jitter
from offsites_jax.projects.one_class.views import pretexts
from offsites_jax.projects.one_class.views.cutpaste import Scar
from offsites_jax.projects.one_class.views.pretexts import PretextConfig, PretextName

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), np.uint8)
UNITS = IMAGES * np.float32(1 / 255)
KEY = jax.random.key(0)
SMALL = {"scar": Scar(width=(2, 4), length=(6, 10))}
PLAIN = {**SMALL, "colors": Jitter()}
DEFECTS = [name for name in get_args(PretextName) if name not in ("rotation", "contrastive")]


@functools.cache
def maker(config):
    return jax.jit(lambda key, images, copies=None: pretexts.make_rows(key, images, config, copies))


def rows_of(config, copies=None):
    rows, labels = maker(config)(KEY, IMAGES, copies)
    per_image = pretexts.rows_per_image(config)
    assert rows.shape == (8 * per_image, *rows.shape[1:])
    return np.asarray(rows).reshape(8, per_image, *rows.shape[1:]), np.asarray(labels).reshape(8, per_image)


def changed_share(rows):
    return (rows != UNITS).any(-1).mean((1, 2))


def test_rotation_turns_by_its_label():
    rows, labels = rows_of(PretextConfig("rotation"))
    for image, turns, own in zip(UNITS, rows, labels, strict=True):
        np.testing.assert_array_equal(own, [0, 1, 2, 3])
        for number, row in enumerate(turns):
            np.testing.assert_array_equal(row, np.rot90(image, number))


def test_rotation_draws_a_view_for_each_turn():
    rows, _ = rows_of(PretextConfig("rotation", Augmentation(jitter=Jitter(brightness=0.4))))
    added = np.stack([np.rot90(rows[0, k], -k) - UNITS[0] for k in range(4)])
    np.testing.assert_allclose(
        added, np.broadcast_to(added.mean((1, 2, 3), keepdims=True), added.shape), atol=1e-6
    )
    assert len(np.unique(added.mean((1, 2, 3)).round(4))) == 4


def test_contrastive_views_of_an_image_are_neighbours():
    rows, labels = rows_of(PretextConfig("contrastive", Augmentation(jitter=Jitter(brightness=0.4))))
    np.testing.assert_array_equal(labels, np.arange(8)[:, None].repeat(2, 1))
    added = rows - UNITS[:, None]
    assert np.ptp(added, axis=(2, 3, 4)).max() < 1e-5
    assert len(np.unique(added.mean((2, 3, 4)).round(5))) == 16


@pytest.mark.parametrize("union", ["rot", "hflip", "vflip", "3"])
def test_a_whole_union_has_each_copy_as_another_instance(union):
    rows, labels = rows_of(PretextConfig("contrastive", union=union, whole_union=True))
    image = UNITS[3]
    copies = {
        "rot": [np.rot90(image, k) for k in range(4)],
        "hflip": [image, image[:, ::-1]],
        "vflip": [image, image[::-1]],
        "3": [image, image[:, ::-1], np.rot90(image)],
    }[union]
    np.testing.assert_array_equal(rows[3], np.repeat(copies, 2, axis=0))
    np.testing.assert_array_equal(labels.ravel(), np.arange(8 * len(copies)).repeat(2))


def test_one_copy_each_is_the_one_the_data_says_or_a_drawn_one():
    config = PretextConfig("contrastive", union="rot")
    rows, _ = rows_of(config, np.arange(8) % 4)
    for number, pair in enumerate(rows):
        wanted = np.rot90(UNITS[number], number % 4)
        np.testing.assert_array_equal(pair, [wanted, wanted])
    drawn, _ = rows_of(config)
    turns = [
        next(k for k in range(4) if (pair[0] == np.rot90(image, k)).all())
        for image, pair in zip(UNITS, drawn, strict=True)
    ]
    assert len(set(turns)) > 1


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_row_follows_its_image(name):
    config = PretextConfig(name, **PLAIN)
    rows, labels = rows_of(config)
    np.testing.assert_array_equal(labels, np.tile(np.arange(rows.shape[1]), (8, 1)))
    np.testing.assert_array_equal(rows[:, 0], UNITS)
    for number in range(1, rows.shape[1]):
        share = changed_share(rows[:, number])
        assert (share > 0).all()
        assert share.max() < 0.5
    assert pretexts.num_classes(config) == rows.shape[1] == (3 if name == "cutpaste_3way" else 2)


def test_all_rows_of_an_image_share_one_view():
    view = Augmentation(translate=0.125, jitter=Jitter(brightness=0.2))
    rows, _ = rows_of(PretextConfig("cutpaste_3way", view, **PLAIN))
    for image in rows:
        same = (image[1:] == image[0]).all(-1).mean((1, 2))
        assert (same > 0.7).all()


def test_a_union_is_one_of_the_two_each_as_often():
    config = PretextConfig("cutpaste_union", **PLAIN)
    keys = jax.random.split(KEY, 50)
    rows = np.asarray(jax.jit(jax.vmap(lambda key: pretexts.make_rows(key, IMAGES, config)[0]))(keys))
    pairs = rows.reshape(400, 2, 20, 20, 3)
    changed = (pairs[:, 0] != pairs[:, 1]).any(-1)
    is_box = changed.sum((1, 2)) == changed.any(1).sum(1) * changed.any(2).sum(1)
    is_large = changed.sum((1, 2)) > 4.5 * 10.5  # no scar is
    assert is_box[is_large].mean() > 0.95
    assert 0.1 < is_large.mean() < 0.25


def test_a_window_is_cut_before_the_defect_is_made():
    rows, _ = rows_of(PretextConfig("cutpaste", window=9, **PLAIN))
    assert rows.shape == (8, 2, 9, 9, 3)
    for image, (normal, pasted) in zip(UNITS, rows, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(image, (9, 9, 3)).reshape(-1, 9, 9, 3)
        assert (windows == normal).all((1, 2, 3)).any()
        window_pixels = {tuple(pixel) for pixel in normal.reshape(-1, 3)}
        assert {tuple(pixel) for pixel in pasted.reshape(-1, 3)} <= window_pixels


@pytest.mark.parametrize("name", ["contrastive", "cutpaste_3way"])
def test_rows_do_not_depend_on_the_mesh(name):
    view = Augmentation(min_crop=0.5, flip=True, jitter=Jitter(0.4, 0.4, 0.4, 0.4), grey=0.2)
    config = PretextConfig(name, view, **SMALL)
    alone, labels = maker(config)(KEY, IMAGES)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    make = jax.jit(
        lambda key, images: pretexts.make_rows(key, images, config),
        in_shardings=(whole, split),
        out_shardings=split,
    ).lower(KEY, IMAGES)
    compiled = make.compile()
    rows, labels_8 = compiled(jax.device_put(KEY, whole), jax.device_put(IMAGES, split))
    np.testing.assert_allclose(rows, alone, atol=1e-6)
    np.testing.assert_array_equal(labels_8, labels)
    assert "all-gather" not in compiled.as_text(), "each device makes the rows of its own images"


def test_losses_of_rows():
    rng = np.random.default_rng(1)
    outputs = {
        "embeds": jnp.array(rng.standard_normal((8, 4))),
        "logits": jnp.array(rng.standard_normal((8, 2))),
    }
    labels = jnp.arange(8) % 2
    row_losses = jax.jit(pretexts.row_losses, static_argnums=2)
    got = row_losses(outputs, labels, PretextConfig("cutpaste"))
    np.testing.assert_allclose(got, losses.cross_entropy(outputs["logits"], labels), rtol=1e-6)
    for settings in ({}, {"negatives": "ntxent"}, {"chunk": 2}):
        config = PretextConfig("contrastive", temperature=0.5, **settings)
        wanted = jax.jit(losses.contrastive, static_argnums=2)(outputs["embeds"], 0.5, config.negatives)
        np.testing.assert_allclose(row_losses(outputs, labels, config), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "rotation", "union": "rot"}, "pretext.union is 'rot': only pretext 'contrastive'"),
        ({"name": "rotation", "window": 8}, "pretext.window is 8"),
        ({"name": "contrastive", "temperature": 0.0}, "pretext.temperature is 0.0"),
        ({"name": "contrastive", "chunk": 8, "negatives": "ntxent"}, "pretext.chunk is 8"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        PretextConfig(**settings)
