"""Dense maps against one window at a time; upsampling against torch."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import covariance, preprocessing

from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import MeshSettings, create_mesh
from offsites_jax.projects.one_class.detectors.patches import fit_patches
from offsites_jax.projects.one_class.localization import dense
from offsites_jax.projects.one_class.localization.dense import (
    Windows,
    dense_map,
    image_scores,
    patch_features,
    upsample,
    window_corners,
    window_features,
)
from offsites_jax.projects.one_class.model import ModelConfig, create_network

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "upsampling.npz"
WINDOWS = Windows(size=12, stride=4, at_once=5)
SHAPE = 28, 24  # pixels: 5 x 4 windows
DIM = 8


@functools.cache
def network():
    config = ModelConfig("resnet_10", width=0.0625, head=(), overrides={"depths": (1, 1)})
    return create_network(config, WINDOWS.size, 0, jnp.float32)


@functools.cache
def variables():
    """Random weights, and statistics that make the evaluation mode differ from the training mode."""
    init = jax.jit(functools.partial(network().init, train=False))
    fresh = init(jax.random.key(0), jnp.zeros((1, 12, 12, 3)))
    rng = np.random.default_rng(5)
    noisy = jax.tree.map(lambda leaf: leaf + 0.1 * rng.random(leaf.shape, np.float32), fresh["batch_stats"])
    return {**fresh, "batch_stats": noisy}


def pictures(count=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE, 3), np.uint8)


@functools.cache
def one_by_one():
    """Features [locations, images, columns], each window by itself."""
    apply = jax.jit(functools.partial(network().apply, train=False))
    rows, columns = range(0, SHAPE[0] - 11, 4), range(0, SHAPE[1] - 11, 4)
    images = pictures()
    found = [
        [
            np.array(
                apply(variables(), np.float32(image[None, top : top + 12, left : left + 12]) / 255)["pooled"][
                    0
                ]
            )
            for image in images
        ]
        for top in rows
        for left in columns
    ]
    return np.array(found)


def test_the_published_grids():
    assert Windows().grid(256, 256) == (57, 57)
    assert Windows(size=64).grid(256, 256) == (49, 49)
    assert Windows().grid(32, 40) == (1, 3)
    corners = window_corners(Windows(), 256, 256)
    assert corners.shape == (57 * 57, 2)
    np.testing.assert_array_equal(corners[[0, 1, 57, -1]], [[0, 0], [0, 4], [4, 0], [224, 224]])


@pytest.mark.parametrize("at_once", [1, 5, 7, 100])
def test_features_are_those_of_one_window_at_a_time(at_once):
    windows = Windows(12, 4, at_once)
    found = patch_features(network(), variables(), pictures(), windows)
    assert found.shape == (20, 3, DIM)
    np.testing.assert_allclose(found, one_by_one(), rtol=1e-5, atol=1e-6)


def test_a_mesh_gives_the_same_features():
    mesh = create_mesh(MeshSettings(data=8))
    found = patch_features(network(), variables(), pictures(), WINDOWS, mesh)
    np.testing.assert_allclose(found, one_by_one(), rtol=1e-5, atol=1e-6)


def test_never_more_than_a_chunk_of_windows_exists():
    image = jax.ShapeDtypeStruct((72, 72, 3), np.uint8)
    windows = Windows(12, 4, 16)
    traced = jax.make_jaxpr(lambda image: window_features(network(), variables(), image, windows))(image)
    sizes = [np.prod(value.aval.shape) for value in values(traced.jaxpr) if value.aval.dtype == np.float32]
    chunk = 16 * 12 * 12 * 64  # in front of the first stage; the pixels of all 256 windows alone are 110,592
    assert max(sizes) <= chunk
    pixels = [value.aval for value in values(traced.jaxpr) if value.aval.shape[1:] == (12, 12, 3)]
    assert {(aval.shape[0], aval.dtype.name) for aval in pixels} == {(16, "uint8"), (16, "float32")}


def test_windows_agree_only_where_padding_has_not_reached():
    """Why convolutions are not shared: past the third stage of a ResNet-18 no place is the same."""
    config = ModelConfig("resnet_18", width=0.0625, head=())
    net = create_network(config, 32, 0, jnp.float32)
    variables = jax.jit(functools.partial(net.init, train=False))(
        jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    )
    apply = jax.jit(functools.partial(net.apply, train=False))
    image = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    whole, window = apply(variables, image), apply(variables, image[:, 16:48, 16:48])
    agreeing = []
    for level in range(3):
        one = np.array(window[f"reduction_{level}"][0])
        same_place = slice(16 >> level, 48 >> level)
        other = np.array(whole[f"reduction_{level}"][0, same_place, same_place])
        same = np.isclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(one).max()).all(-1)
        agreeing.append(int(same.sum()))
        if level < 2:
            inner = same.shape[0] - 2 * (5, 6)[level]
            middle = slice((5, 6)[level], (5, 6)[level] + inner)
            assert same[middle, middle].all()
    assert agreeing == [22**2, 4**2, 0]


def values(jaxpr):
    """All arrays that a program holds at some time."""
    for equation in jaxpr.eqns:
        yield from equation.outvars
        for parameter in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "jaxpr")
        ):
            inner = getattr(parameter, "jaxpr", None)
            if inner is not None:
                yield from values(inner)


def distances(train, test):
    """Half Mahalanobis distances by scikit-learn."""
    train, test = (preprocessing.normalize(rows.astype(np.float64)) for rows in (train, test))
    return 0.5 * covariance.LedoitWolf().fit(train).mahalanobis(test)


@pytest.mark.parametrize("shared", [True, False])
def test_a_map_holds_every_window_s_score(shared, monkeypatch):
    monkeypatch.setattr(dense, "_GROUP_BYTES", 2 * 20 * DIM * 4)  # two images at a time
    normal = patch_features(network(), variables(), pictures(9, seed=1), WINDOWS)
    maps = dense_map(network(), variables(), fit_patches(normal, shared=shared), pictures(), WINDOWS)
    test = one_by_one()
    if shared:
        expected = distances(normal.reshape(-1, DIM), test.reshape(-1, DIM)).reshape(20, 3)
    else:
        expected = np.array([distances(*pair) for pair in zip(normal, test, strict=True)])
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected.T.reshape(3, 5, 4), rtol=2e-3)
    np.testing.assert_array_equal(image_scores(maps), maps.reshape(3, -1).max(1))


@pytest.mark.parametrize("case", ["published", "odd", "even"])
def test_upsampling_is_torch_s_transposed_convolution(case):
    golden = np.load(GOLDEN)
    size, stride, sigma, thin = golden[f"{case}/about"]
    windows, maps = Windows(int(size), int(stride)), golden[f"{case}/maps"]
    thin = (slice(None), *(slice(None, None, int(thin)),) * 2)
    heat = upsample(maps, windows, sigma=sigma)
    assert windows.grid(*heat.shape[1:]) == maps.shape[1:]
    np.testing.assert_allclose(heat[thin], golden[f"{case}/heat"], rtol=1e-5, atol=1e-5)
    heat = upsample(maps, windows, sigma=sigma, normalize_borders=True)
    np.testing.assert_allclose(heat[thin], golden[f"{case}/normalized"], rtol=1e-5)


def test_the_default_sigma_is_12_pixels_for_32():
    maps = np.random.default_rng(0).random((1, 3, 3))
    np.testing.assert_array_equal(upsample(maps), upsample(maps, Windows(), sigma=12))


def test_heat_falls_off_at_the_rim_unless_normalised():
    ones = np.ones((1, 57, 57))
    heat = upsample(ones)[0]
    assert heat.shape == (256, 256)
    assert heat[0, 0] < 0.1 * heat[128, 128]
    np.testing.assert_allclose(upsample(7 * ones, normalize_borders=True), 7, rtol=1e-6)


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"do not cover 250 pixels; resize images to 248"):
        Windows().grid(256, 250)
    with pytest.raises(UserError, match="do not cover 20 pixels; resize images to 32"):
        Windows().grid(20, 256)
    with pytest.raises(UserError, match=r"windows.stride is 0"):
        Windows(stride=0)
    with pytest.raises(UserError, match=r"images of float32\[3, 28, 24, 3\]; give uint8"):
        patch_features(network(), variables(), pictures().astype(np.float32), WINDOWS)
    with pytest.raises(UserError, match="sigma is 0"):
        upsample(np.ones((1, 2, 2)), WINDOWS, sigma=0)
