"""Batches reach the device in order, at most `depth` ahead, and nothing is lost on errors."""

import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from offsites_jax.data.prefetch import device_batches
from offsites_jax.errors import DamagedDataError


class Host:
    """Counts what was read, fails at one item, and remembers being closed."""

    def __init__(self, count, fail_at=None):
        self.read, self.closed = 0, False
        self._count, self._fail_at = count, fail_at

    def __iter__(self):
        return self

    def __next__(self):
        if self.read == self._fail_at:
            raise DamagedDataError("torn")
        if self.read == self._count:
            raise StopIteration
        self.read += 1
        return self.read - 1

    def close(self):
        self.closed = True


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_sharded_arrays_come_in_order():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    host = iter([{"x": np.full((8, 2), step)} for step in range(5)])

    def put(batch):
        return {
            name: jax.make_array_from_process_local_data(sharding, rows, rows.shape)
            for name, rows in batch.items()
        }

    with device_batches(host, put, depth=2) as batches:
        got = list(batches)
    assert [int(batch["x"][7, 1]) for batch in got] == list(range(5))
    assert got[0]["x"].sharding == sharding


def test_reads_no_more_than_depth_ahead():
    host = Host(100)
    with device_batches(host, lambda batch: batch, depth=3) as batches:
        wait_until(lambda: host.read == 3)
        for taken in range(1, 5):
            next(batches)
            wait_until(lambda expected=taken + 3: host.read == expected)
        time.sleep(0.05)
        assert host.read == 7


def test_an_error_comes_after_the_batches_before_it():
    with device_batches(Host(9, fail_at=2), lambda batch: batch * 10, depth=4) as batches:
        assert [next(batches), next(batches)] == [0, 10]
        with pytest.raises(DamagedDataError, match="torn"):
            next(batches)
        assert list(batches) == []


def test_an_error_of_put_is_raised_too():
    with (
        device_batches(Host(3), lambda batch: 1 // batch, depth=1) as batches,
        pytest.raises(ZeroDivisionError),
    ):
        next(batches)


def test_close_joins_the_thread_and_closes_the_host_batches():
    host = Host(100)
    batches = device_batches(host, lambda batch: batch, depth=2)
    next(batches)
    batches.close()
    batches.close()
    assert host.closed
    assert "device-batches" not in [thread.name for thread in threading.enumerate()]
    assert list(batches) == []


def test_waiting_is_measured(monkeypatch):
    clock = iter([10.0, 12.5, 20.0, 20.25])
    monkeypatch.setattr("offsites_jax.data.prefetch.time.perf_counter", lambda: next(clock))
    with device_batches(Host(2), lambda batch: batch, depth=1) as batches:
        next(batches)
        assert batches.wait_seconds == 2.5
        next(batches)
        assert batches.wait_seconds == 2.75


def test_depth_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        device_batches(Host(1), lambda batch: batch, depth=0)
