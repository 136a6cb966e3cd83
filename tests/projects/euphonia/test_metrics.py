"""Figures of a cohort against closed forms, scipy, jiwer, and cases counted by hand."""

import itertools
import math

import jiwer
import numpy as np
import pytest
import scipy.stats

from offsites_jax.data.text.score import ErrorCounts
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia import metrics
from offsites_jax.projects.euphonia.manifest import Utterance
from offsites_jax.projects.euphonia.metrics import Pair, SizeResult, Transcript

WORDS = ["light", "lamp", "door", "window", "water", "please", "open", "close"]


def _texts(seed, count=30):
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(1, 7))) for _ in range(count)]


def test_word_error_rate_is_jiwers_over_all_utterances():
    references, hypotheses = _texts(0), _texts(1)
    assert metrics.word_error_rate(references, hypotheses) == pytest.approx(jiwer.wer(references, hypotheses))
    assert metrics.character_error_rate(references, hypotheses) == pytest.approx(
        jiwer.cer(references, hypotheses)
    )
    single = np.mean([jiwer.wer(a, b) for a, b in zip(references, hypotheses, strict=True)])
    assert metrics.word_error_rate(references, hypotheses) != pytest.approx(single, abs=1e-3)


def test_word_error_rate_by_hand():
    assert metrics.word_error_rate(["Turn ON the light!"], ["turn on a light"]) == 0.25
    assert metrics.word_error_rate(["Turn ON"], ["turn on"], normalised=False) == 1.0
    assert metrics.word_error_rate(["go"], ["go now at once"]) == 3.0
    assert metrics.word_error_rate(["", "go on"], ["never counted", "go"]) == 0.5
    assert math.isnan(metrics.word_error_rate(["..."], ["x"]))
    with pytest.raises(UserError, match="2 references, 1 hypotheses"):
        metrics.word_error_rate(["a", "b"], ["a"])


def test_speakers_sum_errors_and_words_before_dividing():
    pairs = [
        Pair("1", "B", "other", "one", "two"),
        Pair("2", "B", "other", "a b c d e f g h i", "a b c d e f g h i"),
        Pair("3", "A", "other", "a b", ""),
        Pair("4", "A", "other", "[noise]", "hello"),
    ]
    assert metrics.speaker_rates(pairs) == {"A": 1.0, "B": 0.1}
    scored, empty = metrics.score_utterances(pairs)
    assert empty == ["4"]
    assert metrics.by_speaker(scored, lambda one: one.characters)["B"].rate == pytest.approx(3 / 20)


def _counts(*pairs):
    return {f"E{n}": ErrorCounts(substitutions=e, reference=w) for n, (e, w) in enumerate(pairs)}


def test_cohort_figures():
    found = metrics.summarize(_counts((1, 10), (2, 10), (30, 100), (4, 10), (9, 10), (0, 0)))
    assert (found.speakers, found.median, found.mean) == (5, 0.3, pytest.approx(0.38))
    assert (found.first_quartile, found.third_quartile) == (0.2, 0.4)
    assert found.interquartile_range == pytest.approx(0.2)
    assert found.pooled == pytest.approx(46 / 140)
    assert metrics.summarize(_counts((0, 0))) is None


def test_relative_improvement_leaves_out_whom_the_base_understood():
    base = {"a": 0.4, "b": 0.5, "c": 0.0, "d": 0.2, "only": 0.1}
    found = metrics.relative_improvement(base, {"a": 0.1, "b": 0.5, "c": 0.1, "d": 0.3})
    assert found.by_speaker == {"a": pytest.approx(0.75), "b": 0.0, "d": pytest.approx(-0.5)}
    assert (found.median, found.excluded) == (0.0, ("c",))
    assert math.isnan(metrics.relative_improvement({}, {}).median)


def test_groups_are_the_outer_fifths_with_ties():
    rates = {f"E{n}": n / 10 for n in range(11)}
    severity = {"E8": 1, "E9": 2, "E10": 0}
    found = metrics.wer_groups(rates, severity)
    assert (found.low_limit, found.high_limit) == (pytest.approx(0.2), pytest.approx(0.8))
    assert set(found.low) == {"E0", "E1", "E2"}
    assert set(found.high) == {"E8", "E9", "E10"}
    assert set(found.surprising) == {"E8", "E10"}
    ties = metrics.wer_groups({**rates, "F": 0.2, "G": 0.8}, {"F": None, "G": None})
    assert "F" in ties.low
    assert "G" in ties.high
    assert "G" not in ties.surprising
    limits = np.percentile([*rates.values(), 0.2, 0.8], (20, 80), method="linear")
    assert (ties.low_limit, ties.high_limit) == pytest.approx(tuple(limits))


def test_cohens_d_by_hand_and_by_students_t():
    assert metrics.cohens_d([2, 4], [1, 3]) == pytest.approx(1 / math.sqrt(2))
    draw = np.random.default_rng(0)
    first, second = draw.normal(1, 2, 13), draw.normal(0, 1, 22)
    t = scipy.stats.ttest_ind(first, second).statistic  # t = d / sqrt(1/m + 1/n)
    assert metrics.cohens_d(first, second) == pytest.approx(t * math.sqrt(1 / 13 + 1 / 22), abs=1e-12)
    assert metrics.cohens_d(second, first) == pytest.approx(-metrics.cohens_d(first, second))


@pytest.mark.parametrize(
    ("first", "second"), [([1.0], [1.0, 2.0]), ([], []), ([2.0, 2.0], [2.0, 2.0]), ([0.1] * 5, [0.3] * 7)]
)
def test_no_effect_without_numbers_or_variance(first, second):
    assert metrics.cohens_d(first, second) is None
    assert metrics.mann_whitney_p(first, second) is None
    assert metrics.welch_p(first, second) is None


def test_p_values():
    # All of one side above the other: U = 0, and 2 of the C(7, 3) = 35 orders are as extreme.
    assert metrics.mann_whitney_p([5, 6, 7], [1, 2, 3, 4]) == pytest.approx(2 / 35)
    first, second = np.array([3.0, 5, 4, 8]), np.array([1.0, 2, 2, 3, 1])
    a, b = first.var(ddof=1) / 4, second.var(ddof=1) / 5
    freedom = (a + b) ** 2 / (a**2 / 3 + b**2 / 4)
    t = (first.mean() - second.mean()) / math.sqrt(a + b)
    assert metrics.welch_p(first, second) == pytest.approx(2 * scipy.stats.t.sf(abs(t), freedom), rel=1e-9)


def test_holm_by_hand():
    assert metrics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert metrics.holm([0.5, 0.9]) == [1.0, 1.0]
    assert metrics.holm([]) == []


def test_bands_are_cohens():
    assert [metrics.band(d) for d in (0.1, -0.49, 0.5, -0.79, 0.8, 3)] == [
        "small", "small", "medium", "medium", "large", "large",
    ]  # fmt: skip


def test_effects_are_hidden_below_six_and_adjusted_over_the_factors_of_a_group():
    rates = {f"E{n:02d}": n / 40 for n in range(40)}
    severity = {name: 1 if number % 2 else 3 for number, name in enumerate(rates)}
    groups = metrics.wer_groups(rates, severity)
    assert (len(groups.low), len(groups.high), len(groups.surprising)) == (8, 8, 4)
    draw = np.random.default_rng(1)
    factors = {
        name: {s: float(draw.normal(rates[s] * slope)) for s in rates} for name, slope in (("a", 9), ("b", 0))
    }
    factors["rare"] = {name: 1.0 + n for n, name in enumerate(groups.high[:5])}
    factors["same"] = dict.fromkeys(rates, 2.0)
    found = {(one.group, one.factor): one for one in metrics.effects(groups, factors)}
    high, low = ([factors["a"][s] for s in side] for side in (groups.high, groups.low))
    effect = found["High", "a"]
    assert effect.d == pytest.approx(metrics.cohens_d(high, low))
    assert effect.d > 0.8
    assert effect.mann_whitney == pytest.approx(scipy.stats.mannwhitneyu(high, low).pvalue)
    other = found["High", "b"].mann_whitney
    assert effect.mann_whitney_holm == pytest.approx(metrics.holm([effect.mann_whitney, other])[0])
    assert effect.significant
    assert found["High", "b"].significant is False
    assert found["High", "same"].d is None
    hidden = found["High", "rare"]
    assert (hidden.speakers, hidden.mean, hidden.d, hidden.mann_whitney) == (None, None, None, None)
    assert all(
        one.speakers is None and one.mean is None for key, one in found.items() if key[0] == "SurpHigh"
    )


def test_groups_of_five_are_merged():
    groups = {f"a{n}": "ALS" for n in range(8)} | {f"b{n}": "rare" for n in range(5)} | {"c": "single"}
    assert set(metrics.merge_small_groups(groups).values()) == {"ALS", "OTHER"}
    assert metrics.merge_small_groups(groups)["c"] == "OTHER"


def test_other_is_never_too_small_itself():
    groups = {f"a{n}": "ALS" for n in range(9)} | {f"b{n}": "PD" for n in range(7)} | {"c": "single"}
    merged = metrics.merge_small_groups(groups)
    assert [merged[name] for name in ("a0", "b0", "c")] == ["ALS", "OTHER", "OTHER"]
    few = metrics.merge_small_groups({"a": "x", "b": "x"})
    assert few == {"a": "OTHER", "b": "OTHER"}
    assert (metrics.shown(5), metrics.shown(6)) == (None, 6)


@pytest.mark.parametrize("seed", range(20))
def test_merged_groups_hold_six_or_everybody(seed):
    draw = np.random.default_rng(seed)
    groups = {
        str(n): str(draw.choice(list("abcde"), p=[0.5, 0.2, 0.15, 0.1, 0.05]))
        for n in range(draw.integers(1, 40))
    }
    merged = metrics.merge_small_groups(groups)
    sizes = np.unique(list(merged.values()), return_counts=True)[1]
    assert sizes.min() >= 6 or len(groups) < 6
    levels, order = metrics.merge_levels(groups, "abcde")
    sizes = np.unique(list(levels.values()), return_counts=True)[1]
    assert sizes.min() >= 6 or len(groups) < 6
    assert set(order) == set(levels.values())


def test_levels_join_their_neighbours():
    counts = {"typical": 2, "mild": 20, "moderate": 9, "severe": 7, "profound": 3}
    levels = {f"{name}{n}": name for name, count in counts.items() for n in range(count)}
    merged, order = metrics.merge_levels(levels, list(counts))
    assert order == ["typical to mild", "moderate", "severe to profound"]
    assert merged["profound1"] == merged["severe1"] == "severe to profound"
    unknown, order = metrics.merge_levels({**levels, "u": ""}, list(counts))
    assert order[-1] == "OTHER"
    assert sum(level == "OTHER" for level in unknown.values()) >= 6


def _fillings(rows, columns):
    """Every way to fill cells, by the totals of their rows and columns; None is a cell that is shown."""
    if not rows:
        return [[]] if not any(columns) else []
    found = []
    for first in itertools.product(*(range(min(rows[0], total) + 1) for total in columns)):
        if sum(first) == rows[0]:
            rest = [total - value for total, value in zip(columns, first, strict=True)]
            found += [[first, *others] for others in _fillings(rows[1:], rest)]
    return found


@pytest.mark.parametrize("seed", range(12))
def test_no_total_tells_of_hidden_cells(seed):
    """All tables with the same totals and the same shown cells: each hidden one could hold six."""
    counts = np.random.default_rng(seed).choice([0, 2, 5, 6, 7], (2, 3))
    hidden = metrics.hide_small_cells(counts)
    assert hidden[counts < 6].all()
    tables = np.array(_fillings(counts.sum(1).tolist(), counts.sum(0).tolist()))
    possible = tables[(tables == counts)[:, ~hidden].all(1)]
    most = possible.max(0)
    assert hidden.all() or (most[hidden & (counts > 0)] >= 6).all()


def test_cells_are_not_hidden_without_need():
    assert not metrics.hide_small_cells(np.full((3, 2), 6)).any()
    nobody = metrics.hide_small_cells(np.array([[9, 0], [10, 11]]))
    np.testing.assert_array_equal(nobody, [[False, True], [False, False]])
    # 3 could be had from either total: one more cell of its row, of its column, and the one across.
    one = metrics.hide_small_cells(np.array([[9, 3, 8, 30], [10, 11, 12, 30], [40, 40, 40, 40]]))
    np.testing.assert_array_equal(np.argwhere(one), [[0, 1], [0, 2], [1, 1], [1, 2]])


def test_shares_tell_of_six_on_either_side():
    found = [metrics.shown_share(count, 20) for count in (0, 1, 5, 6, 14, 15, 19, 20)]
    assert found == [0.0, None, None, 0.3, 0.7, None, None, 1.0]
    assert metrics.shown_share(5, 5) is None


def test_neighbours_come_in_sixes():
    values = np.random.default_rng(0).normal(size=20).tolist()
    groups = metrics.group_neighbours(values)
    assert [len(group) for group in groups] == [6, 6, 8]
    assert sorted(np.concatenate(groups)) == list(range(20))
    assert max(values[n] for n in groups[0]) <= min(values[n] for n in groups[1])
    assert metrics.group_neighbours(values[:5]) == []


def test_group_tables_merge_and_hide():
    base = _counts(*[(n, 20) for n in range(20)])
    personal = dict(list(_counts(*[(n, 40) for n in range(20)]).items())[:9])
    groups = {name: "PD" if n < 6 else "ALS" if n < 17 else "rare" for n, name in enumerate(base)}
    rows = metrics.group_table({"base": base, "personal": personal}, groups, "etiology")
    assert [(row["etiology"], row["speakers"]) for row in rows] == [("ALS", 11), ("OTHER", 9)]
    alone = [base[name].rate for name in base if groups[name] == "ALS"]
    assert rows[0]["base median"] == pytest.approx(np.median(alone))
    assert rows[0]["personal median"] is None
    assert rows[1]["personal q3"] == pytest.approx(np.percentile(np.arange(6) / 40, 75))


def _heard(names, **people):
    return [
        Transcript("E1", name, person, text)
        for person, texts in people.items()
        for name, text in zip(names, texts, strict=True)
    ]


def test_people_by_hand():
    utterances = {
        n: Utterance(n, "E1", "a.wav", text) for n, text in (("u1", "One two."), ("u2", "three four"))
    }
    rows = _heard(["u1", "u2"], a=["one two", "three for"], b=["one two", ""], c=["one", "THREE FOUR!"])
    found = metrics.compare_humans(rows, utterances, {"u1": "one two", "u2": "free four"}, ["u1", "u2"])
    (one,) = found.speakers
    assert one.by_transcriber == {"a": 0.25, "b": 0.5, "c": 0.25}
    assert (one.human, one.best, one.utterances) == (pytest.approx(1 / 3), 0.25, 2)
    # u1 "one two" by two of three; u2 all differ, and "three for" is nearest to the others.
    assert one.majority == 0.25
    assert (one.personal, one.delta) == (0.25, pytest.approx(0.25 - 1 / 3))
    assert found.median_delta == pytest.approx(one.delta)


def test_majority():
    assert metrics.majority(["a b", "c", "a b"]) == "a b"
    assert metrics.majority(["", "a b c d", "a b c"]) == "a b c"


def test_missing_people_and_transcripts_are_listed():
    utterances = {n: Utterance(n, "E1", "a.wav", "one two") for n in ("u1", "u2", "u3")}
    rows = _heard(["u1", "u2"], a=["one", "two"], b=["one", "two"])
    found = metrics.compare_humans(rows, utterances, dict.fromkeys(utterances, "one"), utterances)
    assert (found.speakers, found.missing) == ((), ("E1: 2 of 3 transcribers; left out",))
    assert math.isnan(found.median_delta)
    rows += _heard(["u1", "u3"], c=["one two", "one two"])
    found = metrics.compare_humans(rows, utterances, dict.fromkeys(utterances, "one"), utterances)
    assert found.speakers[0].utterances == 1
    assert found.missing == ("E1: 2 utterances that not all transcribers heard; left out",)


def test_transcripts_have_to_be_of_the_test():
    utterances = {n: Utterance(n, "E1", "a.wav", "one") for n in ("u1", "u2")}
    rows = _heard(["u1", "u2"], a=["one", "two"], b=["one", "two"], c=["one", "two"])
    with pytest.raises(UserError, match="E1: 1 are not in the test: u2"):
        metrics.compare_humans(rows, utterances, {}, ["u1"])
    with pytest.raises(UserError, match="2 are without the recogniser's text"):
        metrics.compare_humans(rows, utterances, {}, ["u1", "u2"])


def test_wilcoxon_over_speakers():
    names = [f"E{n}" for n in range(8)]
    utterances = {name: Utterance(name, name, "a.wav", " ".join("abcdefghij")) for name in names}
    heard = [" ".join("abcdefghij"[: 9 - n]) for n in range(8)]  # 1 to 8 words of 10 missing
    said = zip(names, heard, strict=True)
    rows = [Transcript(name, name, person, text) for name, text in said for person in "xyz"]
    personal = {name: utterances[name].text for name in names}
    found = metrics.compare_humans(rows, utterances, personal, names)
    # All eight differences are negative: 2 of the 2^8 signs are as extreme.
    assert found.p_value == pytest.approx(2 / 256)
    assert found.median_delta == pytest.approx(-0.45)
    equal = metrics.compare_humans(rows, utterances, dict(zip(names, heard, strict=True)), names)
    assert equal.p_value is None


def test_data_size_by_hand():
    results = [
        SizeResult(f"E{n}", size, rate)
        for n in range(12)
        for size, rate in ((50, 0.4), (None, 0.01 * n + 0.1))
    ]
    results += [SizeResult(f"E{n}", 10, 0.9) for n in range(5)]
    rows = metrics.data_size_table(results, base=dict.fromkeys([f"E{n}" for n in range(12)], 0.8))
    assert [(row["utterances"], row["speakers"]) for row in rows] == [(50, 12), ("all", 12)]
    assert (rows[0]["median WER"], rows[0]["success"], rows[0]["relative improvement"]) == (0.4, 0.0, 0.5)
    assert rows[1]["median WER"] == pytest.approx(0.155)
    assert rows[1]["success"] == 0.5  # rates of 0.10 to 0.15 reach the target
    assert metrics.data_size_table(results, target=0.125)[1]["success"] is None
