"""Proportions, thresholds, readers, groups, calibration: against statsmodels, scikit-learn, closed forms."""

import json
import pathlib

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray import statistics as s
from offsites_jax.projects.chest_xray.accuracy.subgroups import by_group

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden/proportions.json").read_text())


def made(seed, cases=300, levels=None):
    rng = np.random.default_rng(seed)
    labels = rng.random(cases) < 0.35
    scores = special.expit(rng.normal(size=cases) + 1.5 * labels - 0.5)
    return labels, np.round(scores * levels) / levels if levels else scores


def test_intervals_are_those_of_statsmodels():
    for case in GOLDEN["intervals"]:
        counts = case["successes"], case["total"], case["level"]
        assert s.clopper_pearson(*counts) == pytest.approx(case["clopper_pearson"], abs=1e-9)
        assert s.wilson(*counts) == pytest.approx(case["wilson"], abs=1e-9)
        exact = stats.binomtest(*counts[:2]).proportion_ci(case["level"], "exact")
        assert s.Proportion(*counts).exact == pytest.approx(tuple(exact), abs=1e-9)


def test_a_share_of_nothing_is_undefined():
    share = s.Proportion(0, 0)
    assert (share.value, share.exact, share.wilson) == (None, None, None)
    assert str(share) == "undefined (0 of 0)"


@pytest.mark.parametrize("levels", [None, 7])
@pytest.mark.parametrize("target", [0.5, 0.55, 0.9, 0.95, 1.0])
def test_operating_points_are_the_best_of_all_thresholds(levels, target):
    for seed in range(5):
        labels, scores = made(seed, 120, levels)
        levels_up = np.append(np.unique(scores), np.nextafter(scores.max(), np.inf))
        sensitivity = np.array([(scores >= t)[labels].mean() for t in levels_up])
        specificity = np.array([(scores < t)[~labels].mean() for t in levels_up])
        high = s.operating_point(labels, scores, "high_sensitivity", target)
        assert high.threshold == levels_up[sensitivity >= target].max()
        low = s.operating_point(labels, scores, "high_specificity", target)
        assert low.threshold == levels_up[specificity >= target].min()
        assert high.sensitivity >= target
        assert low.specificity >= target
        at = specificity[sensitivity >= target].max()
        assert high.specificity == pytest.approx(at)


def test_points_of_overlapping_normals_have_the_rates_of_theory():
    rng = np.random.default_rng(0)
    labels = np.arange(200_000) % 2 == 0
    scores = rng.normal(size=len(labels)) + 2 * labels
    high = s.operating_point(labels, scores, "high_sensitivity", 0.95)
    assert high.threshold == pytest.approx(2 - stats.norm.ppf(0.95), abs=0.03)
    low = s.operating_point(labels, scores, "high_specificity", 0.95)
    assert low.threshold == pytest.approx(stats.norm.ppf(0.95), abs=0.03)
    assert s.sensitivity_at(labels, scores, 0.95) == pytest.approx(stats.norm.cdf(2 - 1.645), abs=0.01)


@pytest.mark.parametrize("target", [0.0, 1.1, -1])
def test_impossible_targets_are_refused(target):
    with pytest.raises(UserError, match="above 0 and at most 1"):
        s.operating_point(*made(0), "high_sensitivity", target)


def test_counts_and_rates_are_scikit_learns():
    labels, scores = made(1)
    flagged = s.flag(scores, 0.6)
    found = s.confusion(labels, flagged)
    tn, fp, fn, tp = metrics.confusion_matrix(labels, flagged).ravel()
    assert (found.tp, found.fp, found.tn, found.fn) == (tp, fp, tn, fn)
    assert found.sensitivity.value == pytest.approx(metrics.recall_score(labels, flagged))
    assert found.specificity.value == pytest.approx(metrics.recall_score(~labels, ~flagged))
    assert found.ppv.value == pytest.approx(metrics.precision_score(labels, flagged))
    assert found.npv.value == pytest.approx(metrics.precision_score(~labels, ~flagged))
    assert found.flagged.value == pytest.approx(flagged.mean())
    assert found.prevalence.value == pytest.approx(labels.mean())


def test_predictive_values_at_the_own_prevalence_are_the_observed_ones():
    found = s.confusion(*(lambda labels, scores: (labels, scores > 0.5))(*made(2)))
    rates = found.sensitivity.value, found.specificity.value
    own = s.predictive_values(*rates, found.prevalence.value)
    assert own == pytest.approx((found.ppv.value, found.npv.value))
    assert s.predictive_values(*rates, 0.0) == (0.0, 1.0)
    assert s.predictive_values(0.9, 0.95, 0.01) == pytest.approx((0.009 / 0.0585, 0.9405 / 0.9415))
    assert s.predictive_values(0.0, 1.0, 0.5) == (None, 0.5)
    assert s.predictive_values(None, 1.0, 0.5) == (None, None)
    with pytest.raises(UserError, match=r"prevalence 1\.5"):
        s.predictive_values(0.9, 0.9, 1.5)


def test_intervals_of_predictive_values_hold_as_often_as_they_say_and_more():
    rng, truth = np.random.default_rng(0), s.predictive_values(0.9, 0.8, 0.1)
    held = []
    for _ in range(300):
        tp, tn = rng.binomial(40, 0.9), rng.binomial(60, 0.8)
        found = s.predictive_intervals(s.Confusion(tp, 60 - tn, tn, 40 - tp), 0.1)
        held.append([low <= value <= high for (low, high), value in zip(found, truth, strict=True)])
    assert np.mean(held, axis=0).min() >= 0.95
    perfect = s.predictive_intervals(s.Confusion(20, 0, 30, 0), 0.05)
    assert perfect[0][1] == perfect[1][1] == 1.0
    assert 0.1 < perfect[0][0] < 0.5
    assert s.predictive_intervals(s.Confusion(0, 1, 3, 0), 0.05) == (None, None)


def test_kappas_are_those_of_statsmodels():
    for case in GOLDEN["kappas"]:
        votes = np.array(case["votes"])
        assert s.fleiss_kappa(votes) == pytest.approx(case["fleiss"], abs=1e-12)
        assert s.cohen_kappa(votes[0] == 1, votes[1] == 1) == pytest.approx(case["cohen"], abs=1e-12)
        absent = np.concatenate([votes, np.where(np.arange(5)[:, None] < 4, 1, -1).repeat(3, 1)], axis=1)
        assert s.fleiss_kappa(absent) == pytest.approx(case["fleiss"], abs=1e-12)


def test_agreement_without_contrast_is_undefined():
    assert s.cohen_kappa(np.ones(5, bool), np.ones(5, bool)) is None
    assert s.cohen_kappa(np.ones(0, bool), np.ones(0, bool)) is None
    assert s.fleiss_kappa(np.ones((3, 4), int)) is None
    assert s.fleiss_kappa(np.array([[0, 1, -1], [-1, -1, 1]])) is None
    assert s.fleiss_kappa(np.array([[0, 1, 1], [0, 1, 1]])) == pytest.approx(1.0)


def test_majority_leaves_ties_out():
    votes = np.array([[1, 1, 0, -1, -1], [1, 0, 0, 1, -1], [0, -1, 0, -1, -1]])
    abnormal, decided = s.majority(votes)
    assert abnormal[decided].tolist() == [True, False, True]
    assert decided.tolist() == [True, False, True, True, False]


def test_readers_are_judged_on_what_they_read_beside_the_model_there():
    labels, scores = made(3, 200)
    votes = np.stack([(labels ^ (np.arange(200) % 9 == 0)).astype(int), labels.astype(int)])
    votes[0, 150:] = -1
    first, second = s.compare_readers(["a", "b"], votes, labels, scores)
    assert first.confusion.total == 150
    said = votes[0, :150] == 1
    assert first.confusion.sensitivity.value == pytest.approx(said[labels[:150]].mean())
    false_rate, true_rate, _ = metrics.roc_curve(labels[:150], scores[:150], drop_intermediate=False)
    allowed = false_rate <= 1 - first.confusion.specificity.value + 1e-12
    assert first.model_sensitivity == pytest.approx(true_rate[allowed].max())
    assert first.kappa == pytest.approx(metrics.cohen_kappa_score(said, labels[:150]))
    assert (second.kappa, second.confusion.fp, second.confusion.fn) == (1.0, 0, 0)


def test_groups_are_the_whole_in_parts_and_small_ones_have_no_area():
    labels, scores = made(4, 400)
    values = np.where(np.arange(400) < 200, "F", np.where(np.arange(400) < 385, "M", " "))
    groups = {group.value: group for group in by_group("sex", values, labels, scores, {"at": 0.5})}
    assert set(groups) == {"F", "M", "unknown"}
    assert groups["unknown"].auc is None
    assert groups["F"].auc.value == pytest.approx(metrics.roc_auc_score(labels[:200], scores[:200]))
    assert groups["M"].confusions["at"].tp == (labels & (scores >= 0.5))[200:385].sum()
    assert sum(group.positives for group in groups.values()) == labels.sum()


def test_ages_are_read_as_dicom_and_as_early_tables_write_them():
    ages = ["058Y", "17", "18", "40", "064Y", "65", "011M", "003W", "30D", "", "old", "-3", "nan", " 41 "]
    expected = ["40-64", "0-17", "18-39", "40-64", "40-64", "65+", "0-17", "0-17", "0-17"]
    assert s.age_bands(ages) == [*expected, *["unknown"] * 4, "40-64"]


def test_reliability_is_the_definition():
    labels, scores = made(5)
    found = s.reliability(labels, scores, bins=8)
    error = 0.0
    for part in found.bins:
        inside = (scores > part.low) & (scores <= part.high)
        assert part.observed.total == inside.sum()
        assert part.predicted == pytest.approx(scores[inside].mean())
        error += abs(labels[inside].mean() - scores[inside].mean()) * inside.mean()
    assert found.error == pytest.approx(error)
    assert found.brier == pytest.approx(metrics.brier_score_loss(labels, scores))
    with pytest.raises(UserError, match="calibration takes probabilities"):
        s.reliability(labels, scores + 1)


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_calibration_is_scikit_learns_logistic_regression_on_platts_targets(method):
    labels, scores = made(6, 500)
    logits = 40 * special.logit(scores)
    found = s.fit(labels, logits, method)
    targets = np.where(labels, (labels.sum() + 1) / (labels.sum() + 2), 1 / ((~labels).sum() + 2))
    doubled = np.concatenate([logits, logits])[:, None] / 40
    model = LogisticRegression(C=np.inf, fit_intercept=method == "platt", tol=1e-10, max_iter=1000)
    truth, weights = np.repeat([1, 0], len(labels)), np.concatenate([targets, 1 - targets])
    model.fit(doubled, truth, weights)
    assert found.slope * 40 == pytest.approx(model.coef_.item(), rel=1e-4)
    assert found.intercept == pytest.approx(float(np.ravel(model.intercept_)[0]), abs=1e-4)
    assert found.apply(logits) == pytest.approx(model.predict_proba(doubled[: len(labels)])[:, 1], abs=1e-4)


def test_temperature_finds_what_logits_were_multiplied_by():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 50_000)
    labels = rng.random(len(logits)) < special.expit(logits)
    found = s.fit(labels, 3 * logits, "temperature")
    assert found.temperature == pytest.approx(3, rel=0.03)
    assert s.reliability(labels, found.apply(3 * logits)).error < 0.01
    assert s.reliability(labels, special.expit(3 * logits)).error > 0.05


def test_separated_classes_are_calibrated_and_reversed_ones_refused():
    labels, logits = np.arange(20) >= 10, np.arange(20.0) - 9.5
    found = s.fit(labels, logits)
    assert np.isfinite([found.slope, found.intercept]).all()
    assert found.apply(logits)[labels].min() > 0.5
    with pytest.raises(UserError, match="check labels and scores"):
        s.fit(~labels, logits)
