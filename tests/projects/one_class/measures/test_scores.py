import numpy as np
import pytest
from sklearn import metrics

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.measures.pixel_scores import PixelScores, per_region_overlap, pooled_auc
from offsites_jax.projects.one_class.measures.scores import Spread, image_figures, spread, threshold_of


def test_image_figures_by_hand():
    scores = np.array([0.1, 0.4, 0.4, 0.8, 0.9])
    labels = np.array([0, 0, 1, 1, 0])
    figures = image_figures(scores, labels, "labels.csv")
    # pairs anomaly over normal: 0.4 beats 0.1, ties with 0.4, loses to 0.9; 0.8 beats two and loses to 0.9
    assert figures.auc == pytest.approx(100 * (1 + 0.5 + 0 + 2) / 6)
    assert figures.best_f1 == pytest.approx(100 * 2 * (2 / 4) * 1 / (2 / 4 + 1))
    assert figures.false_alarms_at_95_recall == pytest.approx(100 * 2 / 3)
    assert figures.average_precision == pytest.approx(100 * (0.5 * 1 / 2 + 0.5 * 2 / 4))
    assert (figures.normal, figures.anomalous, figures.undefined) == (3, 2, "")


def test_false_alarms_are_the_fewest_at_which_95_of_100_anomalies_are_found():
    rng = np.random.default_rng(0)
    normal, anomalous = rng.normal(0, 1, 300), rng.normal(1, 1, 100)
    figures = image_figures(np.r_[normal, anomalous], np.r_[np.zeros(300), np.ones(100)], "x")
    threshold = np.sort(anomalous)[5]  # the 95th from above
    assert figures.false_alarms_at_95_recall == pytest.approx(100 * (normal >= threshold).mean())
    flags = [np.r_[normal, anomalous] >= t for t in anomalous]
    best = max(metrics.f1_score(np.r_[np.zeros(300), np.ones(100)], flag) for flag in flags)
    assert figures.best_f1 == pytest.approx(100 * best)


@pytest.mark.parametrize(
    ("labels", "why"),
    [([0, 0], "only normal images"), ([1, 1], "only anomalous images"), ([], "no images")],
)
def test_one_kind_of_label_is_undefined_and_names_the_file(labels, why):
    figures = image_figures(np.arange(float(len(labels))), np.array(labels, int), "bottle/test")
    assert figures.auc is None
    assert f"bottle/test holds {why}" in figures.undefined
    row = figures.row()
    assert row["auc"] == row["best_f1"] == "undefined"
    assert row["why"] == figures.undefined
    assert "why" not in image_figures(np.arange(2.0), np.arange(2), "x").row()


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.0, np.nan], [0, 1], "x.csv: the score of row 1 is not finite"),
        ([0.0, 1.0], [0, 2], "x.csv: labels other than 0"),
        ([0.0, 1.0], [0], r"x.csv: \[2\] scores for \[1\] labels"),
    ],
)
def test_scores_that_are_no_scores_are_refused(scores, labels, message):
    with pytest.raises(UserError, match=message):
        image_figures(np.array(scores), np.array(labels), "x.csv")


def test_the_threshold_is_a_score_that_99_percent_do_not_exceed():
    scores = np.random.default_rng(0).permutation(1000.0 + np.arange(200))
    threshold = threshold_of(scores)
    assert threshold.value == 1197  # 198 of 200 are not above it, 197 would be too few
    assert threshold.flags(scores).sum() == 2
    assert threshold_of(scores[:60]).value == scores[:60].max()
    assert threshold_of(scores, 0.5).value == 1099
    for bad, quantile in ((scores, 1.5), (scores, 0), (np.array([1, np.nan]), 0.9), (scores[:0], 0.9)):
        with pytest.raises(UserError, match=r"quantile is|held-out normal images"):
            threshold_of(bad, quantile)


def test_standard_deviation_and_standard_error_are_both_named():
    five = spread([95.0, 96.0, 94.0, 95.5, 94.5])
    assert five.mean == pytest.approx(95)
    assert five.standard_deviation == pytest.approx(np.sqrt((0 + 1 + 1 + 0.25 + 0.25) / 4))
    assert five.standard_error == pytest.approx(five.standard_deviation / np.sqrt(5))
    assert str(five) == "95.0 ± 0.8 (standard deviation), ± 0.4 (standard error), 5 seeds"
    assert str(spread([90.0])) == "90.0 (one seed)"
    assert spread([90.0, None]) == Spread(None, None, None, 2)
    assert str(spread([90.0, None])) == "undefined"


def test_pooled_auc_is_that_of_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 40, 5000).astype(np.float32)
    positive = rng.random(5000) < 0.03 + scores / 100
    assert pooled_auc(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores), abs=1e-12)


def test_pixels_of_all_images_are_pooled_good_ones_included():
    rng = np.random.default_rng(1)
    heats = rng.random((4, 9, 7)).astype(np.float32) * np.array([1, 5, 1, 2])[:, None, None]
    masks = np.zeros((4, 9, 7), np.uint8)
    masks[1, 2:5, 1:4] = 255
    masks[3, 6:, 4:] = 255
    pixels = PixelScores("bottle")
    for heat, mask in zip(heats, masks, strict=True):
        pixels.add(heat, mask if mask.any() else None)
    result = pixels.result()
    assert result.auc == pytest.approx(
        100 * metrics.roc_auc_score(masks.ravel() > 0, heats.ravel()), abs=1e-9
    )
    assert (result.height, result.width, result.images, result.region_overlap) == (9, 7, 4, None)
    assert pixels.result(region_overlap=True).region_overlap == 100 * per_region_overlap(heats, masks > 0)


def overlap_by_definition(heats, masks, regions, limit):
    """Mean overlap at every threshold, over the share of normal pixels flagged, by the trapezoid rule."""
    points = [(0.0, 0.0)]
    for threshold in np.unique(heats)[::-1]:
        flagged = heats >= threshold
        points.append((flagged[~masks].mean(), np.mean([flagged[region].mean() for region in regions])))
    alarms, overlap = np.array(points).T
    grid = np.linspace(0, limit, 200_001)
    return np.interp(grid, alarms, overlap).mean()


def test_region_overlap_counts_every_defect_the_same():
    rng = np.random.default_rng(2)
    heats = rng.random((2, 12, 12))
    regions = np.zeros((3, 2, 12, 12), bool)
    regions[0, 0, 1:9, 1:6] = True
    regions[1, 0, [9, 10], [8, 9]] = True  # two pixels that touch by a corner: one defect
    regions[2, 1, 4:6, 4:9] = True
    heats[regions[0]] += 0.6
    heats[regions[2]] += 0.2
    masks = regions.any(0)
    expected = overlap_by_definition(heats, masks, regions, 0.3)
    assert per_region_overlap(heats, masks) == pytest.approx(expected, abs=1e-4)
    perfect = masks.astype(float)
    assert per_region_overlap(perfect, masks) == pytest.approx(1)


def test_maps_and_masks_that_do_not_fit_are_named():
    pixels = PixelScores("bottle")
    with pytest.raises(UserError, match="bottle: no heat maps"):
        pixels.result()
    pixels.add(np.zeros((4, 4)), None)
    with pytest.raises(UserError, match=r"a\.png: heat map \[4, 5\], mask \[4, 5\], others \[4, 4\]"):
        pixels.add(np.zeros((4, 5)), None, "a.png")
    with pytest.raises(UserError, match=r"a\.png: heat map \[4, 4\], mask \[2, 2\]"):
        pixels.add(np.zeros((4, 4)), np.zeros((2, 2)), "a.png")
    with pytest.raises(UserError, match=r"a\.png: the heat map holds NaN"):
        pixels.add(np.full((4, 4), np.nan), None, "a.png")
    result = pixels.result(region_overlap=True)
    assert (result.auc, result.region_overlap) == (None, None)
    assert result.undefined == "undefined: bottle holds only normal pixels, and an AUC compares the two"
