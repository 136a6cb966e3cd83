"""Protocols: cells that are finished stay finished, failures are kept apart, tables add up."""

import csv
import json

import numpy as np
import pytest

from offsites_jax.errors import Preempted, UserError
from offsites_jax.projects.one_class.protocol import cells, tables
from offsites_jax.projects.one_class.protocol.cells import cells_of, read_results, run_protocol

CATEGORIES, SEEDS = ("T-shirt/top", "Bag"), (0, 1, 2)


class Runner:
    """Counts its calls; fails or stops at the cells it is told to."""

    def __init__(self, fail=(), stop=()):
        self.ran, self.fail, self.stop = [], fail, stop

    def __call__(self, cell):
        key = cell.category, cell.seed
        self.ran.append(key)
        if key in self.stop:
            raise Preempted("told to leave")
        if key in self.fail:
            raise ValueError("no such\nluck")
        return {"auc": 90.0 + 10 * CATEGORIES.index(cell.category) + cell.seed, "pixel_auc": float("nan")}


def test_every_cell_runs_once(tmp_path):
    cells = cells_of(tmp_path, CATEGORIES, SEEDS)
    assert len({cell.workdir for cell in cells}) == 6
    assert all(cell.workdir.is_relative_to(tmp_path) for cell in cells)
    first, second = Runner(), Runner()
    results = run_protocol(tmp_path, cells, first)
    assert first.ran == [(name, seed) for seed in SEEDS for name in CATEGORIES]
    assert run_protocol(tmp_path, cells, second) == results == read_results(cells)
    assert second.ran == []
    assert results[1].figures == {"auc": 100.0, "pixel_auc": None}


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    cells = cells_of(tmp_path, CATEGORIES, SEEDS)
    with pytest.raises(Preempted):
        run_protocol(tmp_path, cells, Runner(stop=[("Bag", 1)]))
    assert len(read_results(cells)) == 3
    second = Runner()
    results = run_protocol(tmp_path, cells, second)
    assert second.ran == [("Bag", 1), ("T-shirt/top", 2), ("Bag", 2)]
    assert [result.status for result in results] == ["done"] * 6


def test_a_failed_cell_is_recorded_and_tried_again(tmp_path):
    cells = cells_of(tmp_path, CATEGORIES, SEEDS)
    results = run_protocol(tmp_path, cells, Runner(fail=[("Bag", 0)]))
    assert [result.status for result in results] == ["done", "failed", *["done"] * 4]
    assert json.loads((cells[1].workdir / "cell.json").read_text())["error"] == "ValueError: no such luck"
    again = Runner()
    assert all(result.status == "done" for result in run_protocol(tmp_path, cells, again))
    assert again.ran == [("Bag", 0)]


def test_a_half_written_record_is_not_there(tmp_path, monkeypatch):
    cells = cells_of(tmp_path, ["Bag"], [0])
    run_protocol(tmp_path, [], Runner())

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr(type(cells[0].workdir), "replace", crash)
    with pytest.raises(UserError, match="cannot be written"):
        run_protocol(tmp_path, cells, Runner())
    assert not (cells[0].workdir / "cell.json").exists()


def test_other_settings_need_another_folder(tmp_path):
    cells = cells_of(tmp_path, CATEGORIES, SEEDS)
    settings = {"steps": 10, "model": {"depth": 18}, "split": (0, 1)}
    for _ in range(2):
        run_protocol(tmp_path, cells, Runner(), settings)
    with pytest.raises(UserError, match=r"other settings \(model, wd\)"):
        run_protocol(tmp_path, cells, Runner(), settings | {"model": {"depth": 50}, "wd": 1})


def test_records_that_are_none_are_named(tmp_path):
    cells = cells_of(tmp_path, ["Bag"], [0])
    file = tmp_path / "Bag" / "seed_0" / "cell.json"
    file.parent.mkdir(parents=True)
    for text, message in (
        ("{", "no record"),
        ('{"category": "Coat", "seed": 0, "status": "done"}', "is of Coat"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            run_protocol(tmp_path, cells, Runner())
    with pytest.raises(UserError, match="each once"):
        cells_of(tmp_path, ["Bag", "Bag"], [0])


def test_names_that_look_alike_have_folders_of_their_own(tmp_path):
    cells = cells_of(tmp_path, ["a/b", "a b", "a_b", "../a"], [0])
    assert len({cell.workdir for cell in cells}) == 4
    assert all(cell.workdir.parent.parent == tmp_path for cell in cells)


def results_of(values):
    """Results from figures [category, seed]; a NaN is a cell that failed."""
    return [
        cells.Result(name, seed, "failed", error="why")
        if np.isnan(value)
        else cells.Result(name, seed, "done", {"auc": float(value)})
        for name, line in zip("abc", values, strict=True)
        for seed, value in enumerate(line)
    ]


def test_spreads_are_those_of_numpy():
    values = np.random.default_rng(0).uniform(80, 100, (3, 5))
    rows = {row.name: row for row in tables.table(results_of(values), {"first": ["a", "b"]})}
    assert list(rows) == ["a", "b", "c", "first", "mean"]
    lines = {"b": values[1], "first": values[:2].mean(0), "mean": values.mean(0)}
    for name, line in lines.items():
        assert rows[name].mean == pytest.approx(line.mean())
        assert rows[name].std == pytest.approx(line.std(ddof=1))
        assert rows[name].standard_error == pytest.approx(line.std(ddof=1) / 5**0.5)


def test_a_missing_cell_takes_its_seed_out_of_the_mean_not_zero_in():
    values = np.array([[90.0, 92.0], [80.0, np.nan], [70.0, 74.0]])
    rows = {row.name: row for row in tables.table(results_of(values))}
    assert rows["mean"].values == {0: 80.0}
    assert rows["mean"].std is None
    assert rows["a"].values == {0: 90.0, 1: 92.0}


def test_tables_are_written_in_three_formats(tmp_path):
    values = np.array([[90.0, 92.0], [80.0, np.nan], [70.0, 74.0]])
    results = results_of(values)
    rows = tables.table(results, published={"mean/auc": 95.2})
    tables.write_tables(tmp_path, results, rows)
    text = (tmp_path / "table.md").read_text()
    assert "| a | 91 | 1.414 | 1 | 2 | - |" in text
    assert "| mean | 80 | - | - | 1 | 95.2 |" in text
    assert "- b, seed 1: why" in text
    lines = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [line["name"] for line in lines] == ["a", "b", "c", "mean"]
    assert float(lines[0]["standard_error"]) == pytest.approx(1.0)
    found = json.loads((tmp_path / "table.json").read_text())
    assert found["rows"][3]["values"] == {"0": 80.0}
    assert [cell["status"] for cell in found["cells"]].count("failed") == 1
