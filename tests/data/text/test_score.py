"""Error rates against an edit distance written out here."""

import dataclasses
import functools
import random

import numpy as np
import pytest

from offsites_jax.data.text.score import ErrorCounts, count_errors, score
from offsites_jax.errors import UserError


def _distance(reference, hypothesis) -> int:
    """Levenshtein's, by definition."""

    @functools.cache
    def rest(i, j):
        if i == len(reference) or j == len(hypothesis):
            return len(reference) - i + len(hypothesis) - j
        if reference[i] == hypothesis[j]:
            return rest(i + 1, j + 1)
        return 1 + min(rest(i + 1, j), rest(i, j + 1), rest(i + 1, j + 1))

    return rest(0, 0)


def _pairs(count: int = 60) -> tuple[list[str], list[str]]:
    rng = random.Random(0)
    references = [" ".join(rng.choices("abcd", k=rng.randint(1, 8))) for _ in range(count)]
    hypotheses = [" ".join(rng.choices("abcd", k=rng.randint(0, 8))) for _ in range(count)]
    return references, hypotheses


@pytest.mark.parametrize("unit", ["word", "character"])
def test_errors_are_the_edit_distance(unit):
    references, hypotheses = _pairs()
    split = str.split if unit == "word" else list
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        found = count_errors([reference], [hypothesis], unit)
        expected = _distance(tuple(split(reference)), tuple(split(hypothesis)))
        assert (found.errors, found.reference) == (expected, len(split(reference)))
        lengths = len(split(hypothesis)) - len(split(reference))
        assert found.insertions - found.deletions == lengths


def test_by_hand():
    assert count_errors(["turn the light on"], ["turn a light"]) == ErrorCounts(1, 1, 0, 4, 1)
    assert count_errors(["on"], ["on on on"]) == ErrorCounts(0, 0, 2, 1, 1)
    assert count_errors(["on"], ["on on on"]).rate == 2.0
    assert count_errors(["ab"], ["abc"], "character").rate == 0.5
    assert np.isnan(ErrorCounts().rate)
    assert count_errors([], []) == ErrorCounts()


def test_sums_over_speakers_not_means_of_rates():
    references = ["a b c d", "a", "a b", "c d"]
    hypotheses = ["a b c d", "x", "a x", "c d"]
    scores = score(references, hypotheses, ["s2", "s2", "s1", "s2"])
    assert list(scores.speakers) == ["s2", "s1"]
    assert scores.speakers["s2"] == ErrorCounts(1, 0, 0, 7, 3)
    assert scores.speakers["s1"].rate == 0.5
    assert scores.total == ErrorCounts(2, 0, 0, 9, 4)
    assert scores.total.rate == pytest.approx(2 / 9)
    assert scores.warning() == ""


def test_the_order_of_rows_does_not_matter():
    references, hypotheses = _pairs()
    speakers = [f"s{row % 7}" for row in range(len(references))]
    rows = list(range(len(references)))
    random.Random(1).shuffle(rows)
    straight = score(references, hypotheses, speakers)
    mixed = score(*([column[row] for row in rows] for column in (references, hypotheses, speakers)))
    assert mixed.total == straight.total
    assert mixed.speakers == straight.speakers
    total = np.sum([dataclasses.astuple(counts) for counts in straight.speakers.values()], axis=0)
    assert tuple(total) == dataclasses.astuple(straight.total)


def test_empty_references_are_dropped_and_listed():
    scores = score(["a b", "", "  ", "c"], ["a b", "x", "", ""], ["s", "s", "t", "s"])
    assert scores.dropped == (1, 2)
    assert scores.total == ErrorCounts(0, 1, 0, 3, 2)
    assert list(scores.speakers) == ["s"]
    assert scores.warning() == "2 utterances have an empty reference and are not scored: rows 1, 2"
    many = score([""] * 30, ["a"] * 30, ["s"] * 30)
    assert many.warning().endswith("18, 19 ...")
    assert np.isnan(many.total.rate)
    with pytest.raises(ValueError, match="empty reference"):
        count_errors(["a", " "], ["a", "b"])


def test_lists_must_be_of_one_length():
    with pytest.raises(UserError, match="2 references, 1 hypotheses, 2 speakers"):
        score(["a", "b"], ["a"], ["s", "s"])
