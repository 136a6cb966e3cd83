"""GradCAM against its closed form, integrated gradients against one, and their completeness."""

import functools

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import MeshSettings, create_mesh
from offsites_jax.projects.one_class.detectors.gaussian import Gaussian
from offsites_jax.projects.one_class.localization.explain import (
    class_activation,
    grad_cam,
    integrated_gradients,
    mean_image,
)
from offsites_jax.projects.one_class.model import ModelConfig, create_network
from offsites_jax.projects.one_class.scorers import ScorerSettings, fit

SIDE = 16


@functools.cache
def network():
    config = ModelConfig("resnet_10", width=0.125, head=(), overrides={"depths": (1, 1)})
    return create_network(config, SIDE, 0, jnp.float32)


@functools.cache
def variables():
    init = jax.jit(functools.partial(network().init, train=False))
    return init(jax.random.key(1), jnp.zeros((1, SIDE, SIDE, 3)))


@functools.cache
def apply():
    call = jax.jit(functools.partial(network().apply, train=False))
    return functools.partial(call, variables())


def pictures(count, seed):
    """Smooth random pictures."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return np.stack([cv2.resize(image, (SIDE, SIDE)) for image in coarse])


@functools.cache
def features():
    return np.array(apply()(pictures(40, seed=0).astype(np.float32) / 255)["pooled"])


def closed_form(maps, scorer, normalize):
    """ReLU(Σ_k w_k A_k), w = Σ⁻¹(f-μ)/(HW), through f = z/‖z‖ where features are normalised; in float64."""
    maps = maps.astype(np.float64)
    lower = scorer.cholesky.astype(np.float64)
    cams = []
    for one in maps:
        z = one.mean((0, 1))
        length = np.linalg.norm(z) if normalize else 1.0
        weight = np.linalg.solve(lower @ lower.T, z / length - scorer.mean)
        if normalize:
            weight = (weight - (weight @ z) * z / length**2) / length
        weight /= one[..., 0].size
        cams.append(np.maximum(one @ weight, 0))
    return np.array(cams)


@pytest.mark.parametrize("normalize", [False, True])
def test_grad_cam_of_a_gaussian_has_a_closed_form(normalize):
    rng = np.random.default_rng(3)
    scorer = Gaussian.fit(rng.gamma(2, 1, (200, 6)).astype(np.float32), normalize=normalize)
    maps = rng.gamma(2, 1, (4, 3, 5, 6)).astype(np.float32)
    expected = closed_form(maps, scorer, normalize)
    assert (expected > 0).mean() > 0.2
    assert (expected == 0).mean() > 0.1
    single = class_activation(jnp.asarray(maps), scorer)
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-5 * expected.max())
    with jax.enable_x64(True):  # the formula itself, without the rounding of float32
        double = class_activation(jnp.asarray(maps, jnp.float64), scorer)
    np.testing.assert_allclose(double, expected, rtol=1e-6, atol=1e-12)


def test_grad_cam_is_enlarged_bilinearly_to_the_image():
    scorer, images = Gaussian.fit(features()), pictures(5, seed=2)
    maps = np.array(apply()(images.astype(np.float32) / 255)["map"])
    small = closed_form(maps, scorer, True)
    assert small.shape == (5, 8, 8)
    expected = [cv2.resize(cam, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) for cam in small]
    found = grad_cam(network(), variables(), scorer, images)
    assert found.dtype == np.float32
    assert found.max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * found.max())
    mesh = create_mesh(MeshSettings(data=8))
    split = grad_cam(network(), variables(), scorer, images, mesh)
    np.testing.assert_allclose(split, found, rtol=1e-4, atol=1e-4 * found.max())


class Pixels(nn.Module):
    """Features that are the pixels."""

    def __call__(self, images, *, train):
        assert not train
        return {"pooled": images.reshape(len(images), -1)}


@pytest.mark.parametrize("steps", [1, 7, 64])
def test_integrated_gradients_of_a_quadratic_score_are_exact(steps):
    """Along a straight way the gradient of a quadratic is that at its middle, on the average."""
    rng = np.random.default_rng(4)
    scorer = Gaussian.fit(rng.random((300, 12), np.float32), normalize=False)
    images = rng.integers(0, 256, (3, 2, 2, 3), np.uint8)
    baseline = rng.random((2, 2, 3), np.float32)
    found = integrated_gradients(Pixels(), {}, scorer, images, baseline, steps=steps)
    x, b = images.reshape(3, 12) / 255, baseline.reshape(12).astype(np.float64)
    lower = scorer.cholesky.astype(np.float64)
    expected = (x - b) * np.linalg.solve(lower @ lower.T, ((x + b) / 2 - scorer.mean).T).T
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.values.reshape(3, 12), expected, rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_allclose(found.heat, found.values.sum(-1))
    np.testing.assert_allclose(found.scores, scorer.score(np.float32(x)), rtol=1e-5)
    assert found.baseline_score == pytest.approx(scorer.score(np.float32(b)[None])[0], rel=1e-4)
    assert found.gap.max() < 1e-4


@pytest.mark.parametrize("name", ["gde", "kde", "ocsvm"])
def test_attributions_add_up_to_the_score(name):
    scorer = fit(ScorerSettings(name), features())
    baseline = mean_image(pictures(40, seed=0))
    found = integrated_gradients(network(), variables(), scorer, pictures(3, seed=5), baseline)
    expected = np.array(apply()(pictures(3, seed=5).astype(np.float32) / 255)["pooled"])
    np.testing.assert_allclose(found.scores, scorer.score(expected), rtol=1e-3)
    change = found.scores - found.baseline_score
    np.testing.assert_allclose(found.values.sum((1, 2, 3)), change, rtol=0.01)
    assert found.gap.max() < 0.01


def test_the_baseline_is_the_mean_of_the_images():
    images = np.stack([np.full((2, 2, 3), 51, np.uint8), np.full((2, 2, 3), 102, np.uint8)])
    np.testing.assert_allclose(mean_image(images), 0.3)


def test_what_does_not_fit_is_refused_in_one_line():
    images = pictures(1, seed=0)
    narrow = Gaussian.fit(features()[:, :5])
    with pytest.raises(UserError, match="features of 16 columns but the gde scorer was fitted to 5"):
        grad_cam(network(), variables(), narrow, images)
    scorer = Gaussian.fit(features())
    with pytest.raises(UserError, match=r"a baseline of \[8, 8, 3\] for images of \[16, 16, 3\]"):
        integrated_gradients(network(), variables(), scorer, images, np.zeros((8, 8, 3)))
    with pytest.raises(UserError, match="steps is 0"):
        integrated_gradients(network(), variables(), scorer, images, mean_image(images), steps=0)
