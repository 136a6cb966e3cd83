"""Work lists against their closed forms, and arrivals against the theory of queues."""

import math

import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.statistics import OperatingPoint
from offsites_jax.projects.chest_xray.worklist.arrivals import Traffic, reading_starts, simulate_arrivals
from offsites_jax.projects.chest_xray.worklist.lanes import (
    DEFAULT_LANES,
    Lane,
    checked_lanes,
    lanes_of,
    prioritize,
)
from offsites_jax.projects.chest_xray.worklist.turnaround import expected_positions, low_risk, worklist

RNG = np.random.default_rng(0)
LABELS = RNG.random(4000) < 0.25
SCORES = RNG.normal(size=4000) + 1.6 * LABELS


def test_simulated_positions_are_those_of_the_closed_form():
    found = worklist(LABELS, SCORES, 1.0, batch=120, repeats=4000)
    means = {name: order.positions.mean() for name, order in found.orders.items()}
    assert found.abnormal == round(120 * LABELS.mean())
    assert means["random"] == pytest.approx(found.expected.random, rel=0.01)
    assert means["flagged_first"] == pytest.approx(found.expected.flagged_first, rel=0.01)
    assert found.orders["flagged_first"].reduction == pytest.approx(found.expected.reduction, abs=0.01)
    assert found.orders["random"].reduction == 0
    low, high = found.orders["flagged_first"].band
    assert low < found.expected.reduction < high
    assert means["by_score"] < means["flagged_first"]
    # Mean position by score: one plus all cases ahead, whose chance the area under the curve gives.
    from sklearn.metrics import roc_auc_score

    ahead = (found.abnormal - 1) / 2 + (120 - found.abnormal) * (1 - roc_auc_score(LABELS, SCORES))
    assert means["by_score"] == pytest.approx(1 + ahead, rel=0.01)


def test_perfect_flags_reach_the_bound_and_nothing_is_missed():
    found = worklist(LABELS, LABELS.astype(float), 0.5, batch=80, repeats=20)
    assert found.expected.reduction == pytest.approx(found.expected.bound)
    first = found.orders["flagged_first"]
    assert (first.positions == (found.abnormal + 1) / 2).all()
    assert (first.missed, first.missed_most) == (None, None)
    assert found.example["flagged_first"][: found.abnormal].all()
    assert found.example["random"].sum() == found.abnormal


def test_the_closed_form_of_the_largest_list_in_small():
    found = expected_positions(cases=4, tp=1, fp=1, abnormal=2)
    assert found.random == 2.5
    assert found.flagged_first == 0.5 * 1.5 + 0.5 * 3.5
    assert found.bound == pytest.approx(1 - 3 / 5)
    with pytest.raises(UserError, match="cannot be"):
        expected_positions(4, 3, 0, 2)


def test_no_flag_and_all_flags_change_nothing():
    for threshold in (-np.inf, np.inf):
        found = worklist(LABELS, SCORES, threshold, repeats=500)
        assert found.expected.reduction == pytest.approx(0)
        assert found.orders["flagged_first"].reduction == pytest.approx(0, abs=0.02)


def test_seeds_repeat_and_empty_lists_are_refused():
    first, again, other = (worklist(LABELS, SCORES, 1.0, repeats=5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.orders["by_score"].positions, again.orders["by_score"].positions)
    assert (first.orders["by_score"].positions != other.orders["by_score"].positions).any()
    with pytest.raises(UserError, match="holds no abnormal case"):
        worklist(np.zeros(5, bool), np.zeros(5), 0.0)
    with pytest.raises(UserError, match="holds no abnormal case"):
        worklist(np.zeros(0, bool), np.zeros(0), 0.0)


def test_low_risk_cases_are_counted_and_the_missed_named():
    labels = np.array([True, True, True, False, False, False])
    scores = np.array([0.1, 0.2, 0.9, 0.1, 0.2, 0.8])
    findings = [["nodule"], ["nodule", "effusion"], ["mass"], [], [], []]
    found = low_risk(labels, scores, 0.5, findings)
    assert (found.share.successes, found.share.total) == (4, 6)
    assert (found.npv.successes, found.npv.total) == (2, 4)
    assert found.missed.tolist() == [0, 1]
    assert list(found.by_finding.items()) == [("nodule", 2), ("effusion", 1)]


def waits(traffic, urgency_share=0.0, seed=0):
    """Minutes until reading starts, and which cases are urgent."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(60 / traffic.arrivals_per_hour, traffic.cases))
    minutes = np.full(traffic.cases, traffic.read_minutes)
    if traffic.reading == "exponential":
        minutes = rng.exponential(traffic.read_minutes, traffic.cases)
    urgent = rng.random(traffic.cases) < urgency_share
    start = reading_starts(arrival, minutes, urgent.astype(float), traffic.readers)
    return (start - arrival)[traffic.cases // 10 :], urgent[traffic.cases // 10 :]


def test_one_reader_with_constant_times_waits_as_pollaczek_and_khinchine_say():
    traffic = Traffic(8, 5, 1, 60_000)
    rate = 8 / 60
    assert waits(traffic)[0].mean() == pytest.approx(rate * 25 / (2 * (1 - traffic.load)), rel=0.06)


def test_several_readers_wait_as_erlang_says():
    traffic = Traffic(30, 5, 3, 60_000, reading="exponential")
    offered = 2.5
    last = offered**3 / math.factorial(3) * 3 / (3 - offered)
    busy = last / (sum(offered**k / math.factorial(k) for k in range(3)) + last)
    assert waits(traffic)[0].mean() == pytest.approx(busy * 5 / (3 - offered), rel=0.1)


def test_urgent_cases_wait_as_cobham_says():
    traffic = Traffic(9, 5, 1, 80_000)
    found, urgent = waits(traffic, 0.3)
    residual = 9 / 60 * 25 / 2
    first = residual / (1 - 0.3 * traffic.load)
    assert found[urgent].mean() == pytest.approx(first, rel=0.08)
    assert found[~urgent].mean() == pytest.approx(first / (1 - traffic.load), rel=0.08)


def test_readers_neither_start_early_nor_idle_while_a_case_waits():
    rng = np.random.default_rng(1)
    arrival = np.sort(rng.integers(0, 300, 200)).astype(float)  # many at once
    minutes = rng.integers(1, 5, 200).astype(float)
    start = reading_starts(arrival, minutes, rng.random(200), 2)
    assert (start >= arrival).all()
    ends = start + minutes
    for now in np.unique(start):
        assert ((start <= now) & (ends > now)).sum() <= 2
    for case in range(200):  # whenever a case waits, both readers are at work
        for now in np.arange(arrival[case], start[case]):
            assert ((start <= now) & (ends > now)).sum() == 2


def test_rules_share_arrivals_and_only_move_the_waiting():
    traffic = Traffic(20, 5, 2, 5000)
    first, flagged, by_score = simulate_arrivals(LABELS, SCORES, 1.0, traffic)
    share = LABELS.mean()
    for found in (flagged, by_score):
        assert found.abnormal < first.abnormal
        assert found.normal > first.normal
        mean = share * found.abnormal + (1 - share) * found.normal
        assert mean == pytest.approx(share * first.abnormal + (1 - share) * first.normal, rel=0.02)
    assert flagged.missed > first.missed
    assert first.load == pytest.approx(20 * 5 / 60 / 2)


@pytest.mark.parametrize("wrong", [{"readers": 0}, {"read_minutes": 0}, {"warm_up": 1.0}])
def test_impossible_traffic_is_refused(wrong):
    with pytest.raises(UserError):
        Traffic(**wrong)


def rows(*scores):
    return [
        {"image": f"{n}.png", "patient_id": f"p{n}", "score": score, "status": "" if score else "error"}
        for n, score in enumerate(scores)
    ]


def test_lanes_divert_expedite_and_batch_and_never_batch_what_was_not_scored():
    found = prioritize(rows("0.05", "0.95", "", "0.5", "0.2", "0.97", "0.2", "0.01"))
    order = [(entry.position, entry.lane, entry.image) for entry in found]
    assert order == [
        (1, "specialist", "5.png"),
        (2, "specialist", "1.png"),
        (3, "expedited", "3.png"),
        (4, "unscored", "2.png"),
        (5, "routine", "4.png"),
        (6, "routine", "6.png"),
        (7, "low_risk_batch", "0.png"),
        (8, "low_risk_batch", "7.png"),
    ]
    assert found[3].score == ""
    assert found[3].patient_id == "p2"


def test_lanes_follow_thresholds_even_when_they_cross():
    def at(low, high):
        points = {"high_sensitivity": low, "high_specificity": high}
        return lanes_of({n: OperatingPoint(n, 0.95, t, 0.95, 0.95) for n, t in points.items()}, 0.99)

    assert [(lane.name, lane.lowest) for lane in at(0.2, 0.7)] == [
        ("specialist", 0.99), ("expedited", 0.7), ("routine", 0.2), ("low_risk_batch", -np.inf),
    ]  # fmt: skip
    crossed = at(0.6, 0.4)
    assert [lane.name for lane in crossed] == ["specialist", "expedited", "low_risk_batch"]
    assert crossed[1].lowest == 0.4


@pytest.mark.parametrize(
    "lanes", [(), (Lane("a", 0.1), Lane("b", 0.5)), (Lane("a", 0.5), Lane("a", 0.1)), (Lane("unscored", 0),)]
)
def test_lanes_out_of_order_are_refused(lanes):
    with pytest.raises(UserError, match="lanes"):
        checked_lanes(lanes)
    assert checked_lanes(DEFAULT_LANES) == DEFAULT_LANES
