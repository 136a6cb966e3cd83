import jax
import numpy as np
import pytest
from sklearn import covariance, preprocessing

from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import MeshSettings, create_mesh
from offsites_jax.projects.one_class.detectors import patches
from offsites_jax.projects.one_class.detectors.gaussian import Gaussian
from offsites_jax.projects.one_class.detectors.patches import (
    LocationGaussians,
    LowRankLocationGaussians,
    apply_patches,
    fit_patches,
    score_patches,
)
from offsites_jax.projects.one_class.scorers import load, save

LOCATIONS, DIM = 21, 12
FEW, MANY = 5, 30  # images: the first are kept by their rows, the others by a covariance


@pytest.fixture(scope="module")
def mesh():
    return create_mesh(MeshSettings(data=8))


def make_patches(count, seed):
    """Each location has a mean and a covariance of its own."""
    shape = np.random.default_rng(1)
    means = shape.random((LOCATIONS, 1, DIM)) * 2 + 0.5
    mixes = shape.standard_normal((LOCATIONS, DIM, DIM)) * 0.2
    noise = np.random.default_rng(seed).standard_normal((LOCATIONS, count, DIM))
    return (means + noise @ mixes).astype(np.float32)


def unit(features):
    return preprocessing.normalize(features.astype(np.float64))


def by_sklearn(train, test):
    scores = [
        0.5 * covariance.LedoitWolf().fit(unit(normal)).mahalanobis(unit(other))
        for normal, other in zip(train, test, strict=True)
    ]
    return np.array(scores)


@pytest.mark.parametrize(("count", "form"), [(FEW, LowRankLocationGaussians), (MANY, LocationGaussians)])
def test_each_location_has_the_ledoit_wolf_gaussian_of_scikit_learn(count, form, mesh, monkeypatch, tmp_path):
    train, test = make_patches(count, 2), make_patches(7, 3)
    scorer = fit_patches(train, shared=False)
    assert isinstance(scorer, form)
    scores = score_patches(scorer, test)
    assert scores.shape == (LOCATIONS, 7)
    np.testing.assert_allclose(scores, by_sklearn(train, test), rtol=1e-4)

    monkeypatch.setattr(patches, "_GROUP_FLOATS", 8 * 500)  # groups of locations
    split = fit_patches(train, shared=False, mesh=mesh)
    np.testing.assert_allclose(score_patches(split, test, mesh), scores, rtol=1e-4)

    np.testing.assert_allclose(jax.jit(apply_patches)(scorer, test), scores, rtol=1e-4)
    save(scorer, tmp_path / "scorer")
    np.testing.assert_array_equal(score_patches(load(tmp_path / "scorer"), test), scores)


def test_both_forms_of_a_covariance_give_the_same_scores():
    train, test = make_patches(FEW, 2)[:4], make_patches(7, 3)[:4]
    thin = fit_patches(train, shared=False, covariance="full", normalize=False)
    assert isinstance(thin, LowRankLocationGaussians)
    dense = np.einsum("lnd,lne->lde", thin.rows, thin.rows, dtype=np.float64)
    dense += thin.isotropic[:, None, None] * np.eye(DIM)
    offsets = test.astype(np.float64) - thin.mean[:, None]
    expected = 0.5 * np.einsum("lmd,lde,lme->lm", offsets, np.linalg.inv(dense), offsets)
    np.testing.assert_allclose(score_patches(thin, test), expected, rtol=1e-4)


def test_one_gaussian_for_all_locations_is_that_of_all_patches():
    train, test = make_patches(FEW, 2), make_patches(7, 3)
    scorer = fit_patches(train, shared=True)
    assert isinstance(scorer, Gaussian)
    fitted = covariance.LedoitWolf().fit(unit(train.reshape(-1, DIM)))
    expected = 0.5 * fitted.mahalanobis(unit(test.reshape(-1, DIM))).reshape(LOCATIONS, 7)
    np.testing.assert_allclose(score_patches(scorer, test), expected, rtol=1e-5)
    np.testing.assert_allclose(apply_patches(scorer, test), expected, rtol=1e-5)


def test_a_place_that_never_varies_does_not_outweigh_the_others():
    train, test = make_patches(MANY, 2), make_patches(7, 3)
    train[4] = test[4] = train[4, 0]
    test[4, 1] += 0.01  # a speck on the saturated background of one image
    scores = score_patches(fit_patches(train, shared=False), test)
    assert scores[4, 0] < 1e-3
    assert scores[4, 0] < scores[4, 1] < scores.max()


def test_what_does_not_fit_is_named():
    train = make_patches(FEW, 2)
    scorer = fit_patches(train, shared=False)
    with pytest.raises(UserError, match="20 locations and 12 columns, but it was fitted to 21 and 12"):
        score_patches(scorer, train[:20])
    with pytest.raises(UserError, match=r"features of shape \[21, 12\]; give \[locations, images, columns\]"):
        fit_patches(train[:, 0], shared=True)
    with pytest.raises(UserError, match="needs two normal images"):
        fit_patches(train[:, :1], shared=False)
    train[3, 2, 1] = np.nan
    with pytest.raises(UserError, match="patch Gaussians: 1 of 105 features hold NaN"):
        fit_patches(train, shared=False)
