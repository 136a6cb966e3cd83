"""Draws of patients against a plain loop, closed forms, and the spread of repeated studies."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.accuracy import bootstrap
from offsites_jax.projects.chest_xray.accuracy.bootstrap import (
    GRID,
    bootstrap_predictive_values,
    bootstrap_rates,
    cluster_bootstrap,
)
from offsites_jax.projects.chest_xray.accuracy.roc import delong


def made(seed, patients=60, most=4, levels=None):
    """Images of patients: those of one patient resemble each other."""
    rng = np.random.default_rng(seed)
    whose = np.repeat(np.arange(patients), rng.integers(1, most + 1, patients))
    ill = rng.random(patients) < 0.4
    labels = ill[whose] & (rng.random(len(whose)) < 0.9)
    scores = labels + rng.normal(size=patients)[whose] + 0.5 * rng.normal(size=len(whose))
    return labels, np.round(scores * levels) / levels if levels else scores, whose


def drawn_rows(monkeypatch, labels, scores, whose, **options):
    """Areas as found, and the images that each draw holds, written out."""
    rows = []
    drawn = bootstrap._Patients.drawn

    def spy(self, uniform):
        counts = drawn(self, uniform)
        rows.extend(np.repeat(np.arange(len(labels)), count[self.patient]) for count in counts)
        return counts

    monkeypatch.setattr(bootstrap._Patients, "drawn", spy)
    return cluster_bootstrap(labels, scores, whose, **options), rows


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("stratified", [True, False])
def test_areas_are_those_of_the_drawn_images(monkeypatch, levels, stratified):
    labels, scores, whose = made(0, levels=levels)
    both = np.stack([scores, -np.abs(scores)])
    found, rows = drawn_rows(monkeypatch, labels, both, whose, draws=40, stratified=stratified)
    assert len(rows) == 40
    for draw, images in enumerate(rows):
        for model in range(2):
            area = roc_auc_score(labels[images], both[model][images])
            assert found.values[model, draw] == pytest.approx(area, abs=1e-12)


def test_patients_are_drawn_whole_and_by_stratum(monkeypatch):
    labels, scores, whose = made(1)
    _, rows = drawn_rows(monkeypatch, labels, scores, whose, draws=30)
    ill = np.unique(whose[labels])
    sizes = np.bincount(whose)
    for images in rows:
        times, rest = np.divmod(np.bincount(whose[images], minlength=len(sizes)), sizes)
        assert not rest.any()
        assert times.sum() == len(sizes)
        assert times[ill].sum() == len(ill)


def test_names_and_order_of_patients_change_only_which_is_drawn():
    labels, scores, whose = made(2)
    found = cluster_bootstrap(labels, scores, whose, 400)
    named = cluster_bootstrap(labels, scores, [f"patient {number:03}" for number in whose], 400)
    np.testing.assert_array_equal(found.values, named.values)


def test_the_seed_fixes_the_draws_and_memory_does_not_change_them(monkeypatch):
    labels, scores, whose = made(3)
    found = cluster_bootstrap(labels, scores, whose, 100, seed=5)
    monkeypatch.setattr(bootstrap, "_CHUNK", 7 * len(labels))
    again = cluster_bootstrap(labels, scores, whose, 100, seed=5)
    np.testing.assert_array_equal(found.values, again.values)
    np.testing.assert_array_equal(found.band, again.band)
    assert found.seed == 5
    assert (found.values != cluster_bootstrap(labels, scores, whose, 100, seed=6).values).any()


def test_one_image_a_patient_agrees_with_delong():
    labels, scores, _ = made(4, patients=400, most=1)
    found = cluster_bootstrap(labels, scores, np.arange(len(labels)), 2000)
    assert found.values.std() == pytest.approx(np.sqrt(delong(labels, scores).variance), rel=0.08)


def test_several_images_a_patient_make_it_wider_than_delong_as_they_should():
    areas = [delong(*made(seed)[:2]).value for seed in range(300)]
    spreads = [cluster_bootstrap(*made(seed), 200).values.std() for seed in range(20)]
    naive = [np.sqrt(delong(*made(seed)[:2]).variance) for seed in range(20)]
    assert np.mean(spreads) == pytest.approx(np.std(areas), rel=0.15)
    assert np.mean(naive) < 0.85 * np.std(areas)


def test_draws_with_one_class_are_drawn_again_and_counted(monkeypatch):
    labels, scores = np.array([True, False, False, False]), np.array([0.9, 0.1, 0.2, 0.95])
    found, rows = drawn_rows(monkeypatch, labels, scores, list("abcd"), draws=500, stratified=False)
    single = sum(len(set(labels[images])) == 1 for images in rows)
    assert found.redrawn == single > 0
    assert found.values.shape == (1, 500)
    expected = (3 / 4) ** 4 + (1 / 4) ** 4  # no abnormal one, or nothing else
    assert single / len(rows) == pytest.approx(expected, abs=0.06)


def test_the_band_holds_the_curves_of_the_draws(monkeypatch):
    labels, scores, whose = made(6)
    found, rows = drawn_rows(monkeypatch, labels, scores, whose, draws=60, confidence=0.9)
    heights = []
    for (
        images
    ) in rows:  # the step curve itself: sensitivity while at most this share of normal cases is flagged
        positives, negatives = scores[images][labels[images]], scores[images][~labels[images]]
        levels = np.append(np.unique(scores), np.inf)
        false_rate = (negatives[:, None] >= levels).mean(axis=0)
        true_rate = (positives[:, None] >= levels).mean(axis=0)
        heights.append([true_rate[false_rate <= x + 1e-9].max() for x in GRID])
    low, high = np.percentile(heights, (5, 95), axis=0)
    # Between its corners the curve is interpolated: at most one normal image higher.
    assert (found.band[0, 0] >= low - 1e-9).mean() > 0.95
    assert np.abs(found.band[0] - (low, high)).max() < 0.1
    assert np.abs(found.band[0] - (low, high)).mean() < 0.02


def test_differences_share_their_draws():
    labels, scores, whose = made(7)
    found = cluster_bootstrap(labels, np.stack([scores, 2 * scores, -scores]), whose, 100)
    assert found.difference(0, 1) == (0.0, 0.0)
    assert found.difference(0, 2)[0] > 0
    assert found.interval(2) == pytest.approx([1 - end for end in found.interval(0)[::-1]])


def test_rates_are_those_of_a_loop(monkeypatch):
    labels, scores, whose = made(8)
    flagged = scores > 0.8
    _, rows = drawn_rows(monkeypatch, labels, scores, whose, draws=50, seed=2)
    found = bootstrap_rates(labels, flagged, whose, 50, seed=2)
    values = {"sensitivity": [], "specificity": [], "ppv": [], "npv": []}
    for images in rows[:50]:
        truth, said = labels[images], flagged[images]
        values["sensitivity"].append(said[truth].mean())
        values["specificity"].append((~said)[~truth].mean())
        values["ppv"].append(truth[said].mean())
        values["npv"].append((~truth)[~said].mean())
    for name, expected in values.items():
        assert found[name] == pytest.approx(np.quantile(expected, (0.025, 0.975)))


def test_predictive_values_are_those_of_a_loop_that_weighs_cases(monkeypatch):
    labels, scores, whose = made(8)
    flagged, prevalence = scores > 0.8, 0.07
    _, rows = drawn_rows(monkeypatch, labels, scores, whose, draws=50, seed=2)
    found = bootstrap_predictive_values(labels, flagged, whose, prevalence, 50, seed=2)
    values = []
    for images in rows[:50]:
        truth, said = labels[images], flagged[images]
        weight = np.where(truth, prevalence / truth.sum(), (1 - prevalence) / (~truth).sum())
        ppv = weight[truth & said].sum() / weight[said].sum()
        values.append((ppv, weight[~truth & ~said].sum() / weight[~said].sum()))
    for ends, expected in zip(found, np.transpose(values), strict=True):
        assert ends == pytest.approx(np.quantile(expected, (0.025, 0.975)))


def test_rates_without_any_case_are_undefined():
    found = bootstrap_rates(np.array([True, False]), np.array([False, False]), ["a", "b"], 20)
    assert found["ppv"] is None
    own = bootstrap_predictive_values(np.array([True, False]), np.zeros(2, bool), ["a", "b"], 0.1, 20)
    assert own == (None, pytest.approx((0.9, 0.9)))
    assert found["sensitivity"] == (0.0, 0.0)


def test_hopeless_draws_end_with_a_message(monkeypatch):
    monkeypatch.setattr(bootstrap, "_PATIENCE", 1)
    labels = np.arange(3000) == 0
    whose = np.where(np.arange(3000) < 3, np.arange(3000), 2)
    monkeypatch.setattr(bootstrap._Patients, "both_classes", lambda self, counts: np.zeros(len(counts), bool))
    with pytest.raises(UserError, match="too few patients"):
        cluster_bootstrap(labels, np.arange(3000.0), whose, 10)
