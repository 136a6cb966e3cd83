"""Verdicts on made-up runs."""

import dataclasses
import json
import math

import pytest

from offsites_jax.errors import UserError
from offsites_jax.train.compare import compare, render
from offsites_jax.train.writers import MetricsWriter


def make_run(workdir, expected, values):
    """A folder as a finished run leaves it: `values` are (step, split, metrics)."""
    (workdir / "config.json").write_text(json.dumps({"project": "toy", "expected": expected}))
    with MetricsWriter(workdir, tensorboard=False) as writer:
        for step, split, metrics in values:
            writer.write(step, split, metrics)
    return workdir


ACCURACY = {"test/accuracy": {"value": 0.99, "tolerance": 0.007, "source": "Table 3"}}


@pytest.mark.parametrize(
    ("accuracies", "reproduced", "verdict", "closest_step"),
    [
        ([0.5, 0.991], True, "reproduced", 2),
        ([0.5, 0.983], True, "reproduced", 2),
        ([0.5, 0.9829], False, "off by -0.0071", 2),
        ([0.5, 0.9985], False, "off by +0.0085", 2),
        ([0.99, 0.9], False, "off by -0.09", 1),
        ([0.99, math.nan], False, "not finite", None),
        ([math.nan, 0.985], True, "reproduced", 2),
    ],
)
def test_the_last_value_decides(tmp_path, accuracies, reproduced, verdict, closest_step):
    values = [(step, "test", {"accuracy": value}) for step, value in enumerate(accuracies, start=1)]
    (row,) = compare(make_run(tmp_path, ACCURACY, values))
    assert (row.reproduced, row.verdict, row.closest_step) == (reproduced, verdict, closest_step)
    assert (row.metric, row.expected, row.source) == ("test/accuracy", 0.99, "Table 3")
    if closest_step:
        assert (row.last, row.last_step) == (accuracies[-1], 2)
        assert row.closest == accuracies[closest_step - 1]


def test_splits_and_nested_names_are_told_apart(tmp_path):
    expected = {"val/stage/f1": {"value": 2, "tolerance": 0}, "test/stage/f1": {"value": 3}}
    values = [(1, "test", {"stage/f1": 3.0}), (1, "val", {"stage/f1": 2.0})]
    rows = compare(make_run(tmp_path, expected, values))
    assert [(row.metric, row.last, row.reproduced) for row in rows] == [
        ("val/stage/f1", 2.0, True),
        ("test/stage/f1", 3.0, True),
    ]


def test_a_figure_that_was_not_measured_names_the_nearest(tmp_path):
    (row,) = compare(make_run(tmp_path, ACCURACY, [(1, "test", {"acuracy": 0.99})]))
    assert not row.reproduced
    assert row.last is None
    assert row.verdict == "not measured; did you mean test/acuracy?"


def test_rows_are_json_and_a_table(tmp_path):
    expected = {**ACCURACY, "test/top5": {"value": 1.0, "source": "ours"}}
    values = [(1, "test", {"accuracy": 0.99}), (2, "test", {"accuracy": 0.25})]
    rows = compare(make_run(tmp_path, expected, values))
    assert json.loads(json.dumps([dataclasses.asdict(row) for row in rows]))[0]["last_step"] == 2
    table = render(rows).splitlines()
    assert [line.split("  ")[0] for line in table] == ["metric", "test/accuracy", "test/top5"]
    assert table[1].split() == [
        *("test/accuracy", "0.99", "±", "0.007", "0.25", "@", "2", "0.99", "@", "1"),
        *("off", "by", "-0.74", "Table", "3"),
    ]
    assert "not measured" in table[2]


def test_an_experiment_that_expects_nothing_says_so(tmp_path):
    with pytest.raises(UserError, match=r"config\.expected is empty"):
        compare(make_run(tmp_path, {}, []))


def test_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        compare(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"expected": ACCURACY}))
    with pytest.raises(UserError, match=r"no metrics\.jsonl"):
        compare(tmp_path)
