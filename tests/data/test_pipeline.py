"""Batches depend on seed and step alone: not on shards, workers, threads or where a run began."""

import logging
import math
import subprocess
import sys

import grain
import numpy as np
import pytest

from offsites_jax.data.pipeline import (
    Batches,
    Loading,
    Pipeline,
    eval_batches,
    global_batch,
    train_batches,
)
from offsites_jax.data.source import ArraySource
from offsites_jax.errors import DamagedDataError, UserError

THREADS = Loading(num_threads=3)
SKIP = Loading(num_threads=2, on_bad_record="skip")
BAD = {3, 4, 11}


def transform(record, rng):
    noise = np.zeros(2, np.float32) if rng is None else rng.random(2, np.float32)
    return {"id": record["id"], "noise": noise}


def refuse_bad(record, rng):
    if int(record["id"]) in BAD:
        raise DamagedDataError("the picture is torn")
    return transform(record, rng)


def pipeline(size, function=transform):
    return Pipeline(ArraySource({"id": np.arange(size)}), function)


def take(batches, count):
    with batches:
        return [next(batches) for _ in range(count)]


def train(data, *, step=0, count=21, shard=(0, 1), size=8, seed=5, loading=THREADS):
    batches = train_batches(data, batch_size=size, seed=seed, step=step, shard=shard, loading=loading)
    return take(batches, count)


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def join(blocks):
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


@pytest.mark.parametrize("function", [transform, refuse_bad])
@pytest.mark.parametrize("shards", [2, 4])
def test_global_batches_do_not_depend_on_the_number_of_shards(shards, function):
    data = pipeline(37, function)
    whole = train(data, loading=SKIP)
    parts = [train(data, shard=(s, shards), loading=SKIP) for s in range(shards)]
    for step, batch in enumerate(whole):
        assert_same(batch, join([part[step] for part in parts]))


def test_ordered_records_come_as_they_stand_epoch_after_epoch():
    data = Pipeline(ArraySource({"id": np.arange(10)}), transform, ordered=True)
    found = np.concatenate([batch["id"] for batch in train(data, step=1, count=3, size=4)])
    assert found.tolist() == [*range(4, 10), *range(6)]


def test_a_run_that_starts_later_sees_the_same_batches():
    data = pipeline(37)
    whole = train(data)
    for step in (1, 9, 20):
        assert_same(train(data, step=step, count=1)[0], whole[step])
        assert_same(global_batch(data, batch_size=8, seed=5, step=step), whole[step])
    far = 10**12
    assert_same(train(data, step=far, count=1)[0], global_batch(data, batch_size=8, seed=5, step=far))


def test_every_record_appears_once_an_epoch_in_a_new_order_with_new_noise():
    batches = join(train(pipeline(12), size=4, count=9))
    epochs = batches["id"].reshape(3, 12)
    assert [sorted(epoch) for epoch in epochs.tolist()] == [list(range(12))] * 3
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
    assert len(np.unique(batches["noise"])) == 72


def test_the_seed_changes_order_and_noise():
    one, two = (join(train(pipeline(37), seed=seed)) for seed in (0, 1))
    assert not np.array_equal(one["id"], two["id"])
    assert not np.intersect1d(one["noise"], two["noise"]).size


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("size", [1, 8, 9])
def test_evaluation_visits_every_record_once_and_masks_the_padding(size, shards):
    parts = []
    for shard in range(shards):
        batches = eval_batches(pipeline(size), batch_size=8, shard=(shard, shards), loading=THREADS)
        parts.append(list(batches))
        assert list(batches) == []
    assert [len(part) for part in parts] == [math.ceil(size / 8)] * shards
    rows = join([join([part[step] for part in parts]) for step in range(len(parts[0]))])
    assert rows["mask"].dtype == np.float32
    np.testing.assert_array_equal(rows["mask"], np.arange(len(rows["id"])) < size)
    np.testing.assert_array_equal(rows["id"][:size], np.arange(size))
    assert not rows["noise"].any()


def test_a_damaged_record_stops_the_run_and_is_named():
    with pytest.raises(DamagedDataError, match="record 3 of the arrays id: the picture is torn") as error:
        take(eval_batches(pipeline(16, refuse_bad), batch_size=4, shard=(0, 1), loading=THREADS), 4)
    assert "\n" not in str(error.value)


def test_a_damaged_record_is_replaced_by_the_next_good_one_counted_and_logged(caplog):
    batches = train_batches(
        pipeline(16, refuse_bad), batch_size=4, seed=5, step=0, shard=(0, 1), loading=SKIP
    )
    with caplog.at_level(logging.WARNING):
        got = join(take(batches, 8))["id"]
    wanted = join(train(pipeline(16), size=4, count=8))["id"]
    stand_ins = {3: 5, 4: 5, 11: 12}
    np.testing.assert_array_equal(got, [stand_ins.get(index, index) for index in wanted.tolist()])
    assert batches.skipped == 6  # three records in each of two epochs
    assert sorted(record.args[0].split()[1] for record in caplog.records) == ["11", "3", "4"]


def test_a_damaged_record_is_masked_at_evaluation():
    batches = eval_batches(pipeline(14, refuse_bad), batch_size=4, shard=(0, 1), loading=SKIP)
    rows = join(list(batches))
    kept = rows["id"][rows["mask"] == 1]
    np.testing.assert_array_equal(kept, [index for index in range(14) if index not in BAD])
    assert batches.skipped == len(BAD)


def test_nothing_but_damaged_records_is_an_error_even_when_skipping():
    def refuse(record, rng):
        raise DamagedDataError("torn")

    with pytest.raises(DamagedDataError, match="last of 5 damaged ones in a row"):
        train(pipeline(5, refuse), count=1, size=1, loading=SKIP)


def test_another_error_keeps_its_type_and_names_the_record():
    def broken(record, rng):
        return {"id": record["missing"]}

    with pytest.raises(KeyError) as error:
        take(eval_batches(pipeline(4, broken), batch_size=2, shard=(0, 1), loading=THREADS), 1)
    assert "record 0 of the arrays id" in error.value.__notes__[0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda r, g: {"x": np.zeros(1 + int(r["id"]) % 2)}, "field 'x' differs"),
        (lambda r, g: {f"x{int(r['id']) % 2}": np.zeros(1)}, "different fields"),
        (lambda r, g: {"mask": np.zeros(1)}, '"mask" is taken'),
    ],
)
def test_examples_that_cannot_be_batched_are_a_clear_error(function, message):
    with pytest.raises(UserError, match=message):
        take(eval_batches(pipeline(4, function), batch_size=4, shard=(0, 1), loading=THREADS), 1)


def test_impossible_settings_are_a_clear_error():
    with pytest.raises(UserError, match="cannot be split over 3"):
        train(pipeline(4), shard=(0, 3))
    with pytest.raises(UserError, match="no records"):
        train(pipeline(0))
    with pytest.raises(UserError, match='use "raise" or "skip"'):
        Loading(on_bad_record="ignore")
    with pytest.raises(UserError, match="prefetch is 0"):
        Loading(prefetch=0)


def test_worker_processes_change_nothing():
    """One test for all that workers do, since each takes seconds to start."""
    data = pipeline(37, refuse_bad)
    for workers in (1, 2):
        loading = Loading(num_workers=workers, num_threads=2, on_bad_record="skip")
        batches = train_batches(data, batch_size=8, seed=5, step=3, shard=(1, 2), loading=loading)
        got = take(batches, 12)
        serial = train_batches(data, batch_size=8, seed=5, step=3, shard=(1, 2), loading=SKIP)
        for left, right in zip(got, take(serial, 12), strict=True):
            assert_same(left, right)
        assert batches.skipped == serial.skipped > 0
    evaluation = eval_batches(data, batch_size=4, shard=(0, 1), loading=loading)
    assert join(list(evaluation))["mask"].sum() == 37 - len(BAD)
    failing = eval_batches(data, batch_size=4, shard=(0, 1), loading=Loading(num_workers=1))
    with pytest.raises(DamagedDataError, match="record 3 of the arrays id: the picture is torn"):
        take(failing, 1)


USES_WORKERS = """
import numpy as np
from offsites_jax.data.pipeline import Loading, Pipeline, eval_batches
from offsites_jax.data.source import ArraySource

def transform(record, rng):
    return record

def rows(size):
    source = ArraySource({"x": np.arange(64.0)[:, None] + np.zeros(4096)})
    batches = eval_batches(Pipeline(source, transform), batch_size=size, shard=(0, 1), loading=Loading(2))
    return sum(batch["x"].shape[0] for batch in batches)

if __name__ == "__main__":
    print(rows(8), rows(64))
"""


def test_workers_leave_nothing_to_complain_about(tmp_path):
    (tmp_path / "uses_workers.py").write_text(USES_WORKERS)
    done = subprocess.run(
        [sys.executable, tmp_path / "uses_workers.py"], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["64", "64"]
    assert done.stderr == ""


def test_a_few_batches_start_no_worker(monkeypatch):
    monkeypatch.setattr(grain.IterDataset, "mp_prefetch", None)
    batches = eval_batches(pipeline(12), batch_size=4, shard=(0, 1), loading=Loading(num_workers=16))
    assert join(list(batches))["mask"].sum() == 12


def test_batches_can_be_closed_twice_and_then_end():
    batches = train_batches(pipeline(4), batch_size=2, seed=0, step=0, shard=(0, 1), loading=THREADS)
    assert isinstance(batches, Batches)
    next(batches)
    batches.close()
    batches.close()
    assert list(batches) == []
