"""Learning curves: who is drawn, what a probe finds, and the paired comparison."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.cohorts.splits import draw_patients
from offsites_jax.projects.chest_xray.transfer import curves as transfer
from offsites_jax.projects.chest_xray.transfer.curves import Features, Point
from offsites_jax.projects.chest_xray.transfer.runs import parse_starts

PATIENTS = tuple(f"p{k // 2}" for k in range(80))
LABELS = np.array([k // 2 % 4 == 0 for k in range(80)])


@pytest.mark.parametrize("fraction", [0.05, 0.3, 1.0])
def test_patients_are_drawn_whole_and_by_class(fraction):
    rows = draw_patients(LABELS, PATIENTS, fraction, 3)
    chosen = {PATIENTS[row] for row in rows}
    assert {row for row, name in enumerate(PATIENTS) if name in chosen} == set(rows)
    positive = {PATIENTS[row] for row in rows if LABELS[row]}
    assert len(positive) == max(2, round(fraction * 10))
    assert len(chosen - positive) == max(2, round(fraction * 30))


def test_a_larger_share_holds_the_smaller_and_seeds_differ():
    draws = [set(draw_patients(LABELS, PATIENTS, share, 0)) for share in (0.1, 0.3, 0.6)]
    assert draws[0] < draws[1] < draws[2]
    assert draws[1] != set(draw_patients(LABELS, PATIENTS, 0.3, 1))


def test_one_patient_of_a_class_is_too_few():
    with pytest.raises(UserError, match="at least two"):
        draw_patients(np.array([True, False, False]), ("a", "b", "c"), 1.0, 0)


def blobs(seed, apart, count=80, site=""):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((count, 6)) * [1, 10, 0.1, 1, 1, 1]
    values[LABELS[:count], 0] += apart
    return Features(
        values.astype(np.float32), LABELS[:count], tuple(site + name for name in PATIENTS[:count])
    )


def test_a_probe_is_scikit_learns_on_scaled_features():
    train, test = blobs(0, 1.5), blobs(1, 1.5, site="x")
    rows = draw_patients(train.labels, train.patients, 0.5, 0)
    scaler = StandardScaler().fit(train.values[rows])
    model = LogisticRegression(C=0.1, max_iter=2000).fit(
        scaler.transform(train.values[rows]), train.labels[rows]
    )
    expected = roc_auc_score(test.labels, model.decision_function(scaler.transform(test.values)))
    assert transfer.probe(train, test, rows, 0.1) == pytest.approx(expected, abs=5e-3)


def test_the_better_start_wins_in_pairs():
    starts = {
        "good": (blobs(0, 2.5), blobs(1, 2.5, site="x")),
        "poor": (blobs(0, 0.2), blobs(1, 0.2, site="x")),
    }
    points = transfer.learning_curve(starts, (0.2, 1.0), range(3), strength=0.1)
    assert len(points) == 12
    by = {(p.start, p.fraction, p.seed): p for p in points}
    rows = transfer.compare(points, "good", "poor")
    assert [row["patients"] for row in rows] == [8, 40]
    for row in rows:
        gains = [by["good", row["fraction"], s].auc - by["poor", row["fraction"], s].auc for s in range(3)]
        assert row["difference"] == pytest.approx(np.mean(gains))
        assert row["standard_error"] == pytest.approx(np.std(gains, ddof=1) / np.sqrt(3))
        assert row["difference"] > 0.1
    assert len(transfer.curve_figure(points, "Probe").axes[0].lines) == 2


def test_shared_patients_and_impossible_shares_are_refused():
    with pytest.raises(UserError, match="share 40 patients"):
        transfer.learning_curve({"a": (blobs(0, 1), blobs(1, 1))}, (1.0,), range(1))
    with pytest.raises(UserError, match="--fractions"):
        transfer.learning_curve({"a": (blobs(0, 1), blobs(1, 1, site="x"))}, (0.0,), range(1))


def test_one_seed_has_no_standard_error():
    points = [Point("a", 1.0, 0, 5, 0.9), Point("b", 1.0, 0, 5, 0.8)]
    (row,) = transfer.compare(points, "a", "b")
    assert (round(row["difference"], 9), np.isnan(row["standard_error"])) == (0.1, True)


def test_starts_have_names_and_places():
    found = parse_starts(("abnormal=runs/a", "imagenet=x.safetensors", "random"))
    assert found == {"abnormal": "runs/a", "imagenet": "x.safetensors", "random": ""}
    for wrong in (("runs/a",), ("a=",), ("a=x", "a=y")):
        with pytest.raises(UserError, match="--starts"):
            parse_starts(wrong)
