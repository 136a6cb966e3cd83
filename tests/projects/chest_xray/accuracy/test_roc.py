"""Areas and their variance against scikit-learn and the definition of DeLong, pair by pair."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.accuracy.roc import (
    auc,
    delong,
    delong_difference,
    placements,
    roc_curve,
)


def made(seed, cases=200, levels=None, shift=1.0):
    """Labels and scores of two models; few levels make ties."""
    rng = np.random.default_rng(seed)
    labels = rng.random(cases) < 0.3
    common = rng.normal(size=cases)
    scores = [common + rng.normal(size=cases) + shift * labels for _ in range(2)]
    if levels:
        scores = [np.round(score * levels) / levels for score in scores]
    return labels, *scores


def by_definition(labels, scores):
    """V10 and V01 by comparing all pairs: the kernel of Mann and Whitney."""
    positives, negatives = scores[labels][:, None], scores[~labels][None]
    kernel = (positives > negatives) + (positives == negatives) / 2
    return kernel.mean(axis=1), kernel.mean(axis=0)


@pytest.mark.parametrize("levels", [None, 4, 1])
def test_area_is_scikit_learns_and_components_are_the_definition(levels):
    for seed in range(5):
        labels, scores, _ = made(seed, levels=levels)
        assert auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)
        for found, expected in zip(placements(labels, scores), by_definition(labels, scores), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", [None, 2])
def test_variance_is_that_of_all_pairs(levels):
    labels, scores, _ = made(7, levels=levels)
    above, below = by_definition(labels, scores)
    expected = above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)
    found = delong(labels, scores)
    assert found.variance == pytest.approx(expected, rel=1e-9)
    half = stats.norm.ppf(0.975) * np.sqrt(expected)
    assert found.interval == pytest.approx((found.value - half, found.value + half), abs=1e-9)
    odds = stats.logistic.ppf(found.value)
    half /= found.value * (1 - found.value)
    assert found.logit_interval == pytest.approx(stats.logistic.cdf([odds - half, odds + half]), abs=1e-9)
    assert not found.degenerate


def test_difference_has_the_covariance_matrix_of_all_pairs():
    labels, first, second = made(3, levels=3)
    one, two = by_definition(labels, first), by_definition(labels, second)
    covariance = sum(np.cov(a, b) / len(a) for a, b in zip(one, two, strict=True))
    variance = np.array([1, -1]) @ covariance @ np.array([1, -1])
    found = delong_difference(labels, first, second)
    z = (one[0].mean() - two[0].mean()) / np.sqrt(variance)
    assert found.variance == pytest.approx(variance, rel=1e-9)
    assert found.z == pytest.approx(z, rel=1e-9)
    assert found.p == pytest.approx(2 * stats.norm.cdf(-abs(z)), rel=1e-9)
    assert found.interval[0] < found.value < found.interval[1]


def test_p_values_of_equal_models_are_uniform():
    found = [delong_difference(*made(seed)).p for seed in range(400)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_intervals_cover_the_true_area():
    truth = stats.norm.cdf(1.0 / 2)  # scores of unit shift and variance 2 in each class
    hits = [
        (lambda found: found.interval[0] <= truth <= found.interval[1])(delong(*made(seed, 120)[:2]))
        for seed in range(400)
    ]
    assert 0.92 <= np.mean(hits) <= 0.98


@pytest.mark.parametrize(
    ("area", "low", "high"), [(1.0, 0.025 ** (1 / 5), 1.0), (0.0, 0.0, 1 - 0.025 ** (1 / 5))]
)
def test_full_separation_is_flagged_with_an_exact_bound(area, low, high):
    labels = np.arange(25) >= 20
    scores = np.where(labels, 1.0, 0.0) if area else np.where(labels, 0.0, 1.0)
    found = delong(labels, scores)
    assert (found.value, found.variance, found.degenerate) == (area, 0.0, True)
    assert found.interval == pytest.approx((low, high))
    assert found.logit_interval == found.interval


@pytest.mark.parametrize("scores", [np.zeros(9), np.arange(9.0)])
@pytest.mark.parametrize("positives", [1, 3, 8])
def test_nothing_is_ever_nan(scores, positives):
    labels = np.arange(9) % 9 < positives
    for order in (scores, -scores):
        found = delong(labels, order)
        numbers = [found.value, found.variance, *found.interval, *found.logit_interval]
        assert np.isfinite(numbers).all()
        assert found.degenerate
        assert 0 <= found.interval[0] <= found.value <= found.interval[1] <= 1
        compared = delong_difference(labels, order, -order)
        assert np.isfinite([compared.value, compared.variance, *compared.interval]).all()


def test_a_model_does_not_differ_from_itself():
    labels, scores, _ = made(1)
    found = delong_difference(labels, scores, np.exp(scores))
    assert (found.value, found.variance, found.z, found.p) == (0.0, 0.0, None, 1.0)


@pytest.mark.parametrize("levels", [None, 3])
def test_the_curve_is_scikit_learns(levels):
    labels, scores, _ = made(2, levels=levels)
    found = roc_curve(labels, scores)
    false_rate, true_rate, thresholds = metrics.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(found.false_positive_rate, false_rate, atol=1e-12)
    np.testing.assert_allclose(found.true_positive_rate, true_rate, atol=1e-12)
    np.testing.assert_array_equal(found.thresholds, thresholds)
    area = np.trapezoid(found.true_positive_rate, found.false_positive_rate)
    assert area == pytest.approx(auc(labels, scores), abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([True, True], [0.1, 0.2], "2 cases, abnormal ones only"),
        ([False, False], [0.1, 0.2], "2 cases, normal ones only"),
        ([], [], "0 cases, no ones only"),
        ([True, False], [0.1, np.nan], "score of case 1 is nan"),
        ([True, False], [-np.inf, 0.0], "score of case 0 is -inf"),
    ],
)
def test_what_has_no_area_is_refused(labels, scores, message):
    with pytest.raises(UserError, match=message):
        delong(np.array(labels, bool), np.array(scores))
