"""Puts batches on the devices ahead of use, in one background thread."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

HostBatch = TypeVar("HostBatch")
DeviceBatch = TypeVar("DeviceBatch")


class DeviceBatches(Iterator[DeviceBatch], Generic[HostBatch, DeviceBatch]):
    """Iterator over `put(batch)` of each host batch, kept `depth` batches ahead.

    An error of the host batches or of `put` is raised by the `next()` that would have returned that
    batch. Close it when done: its thread is joined and the host batches are closed with it.

    Attributes:
        wait_seconds: Time `next()` has spent waiting so far, over the whole life of the iterator.

    """

    def __init__(
        self,
        host_batches: Iterator[HostBatch],
        put: Callable[[HostBatch], DeviceBatch],
        depth: int,
    ):
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self.wait_seconds = 0.0
        self._host_batches = host_batches
        self._put = put
        self._room = threading.Semaphore(depth)
        self._ready: queue.SimpleQueue[DeviceBatch | _End] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._end: _End | None = None
        self._thread = threading.Thread(target=self._fill, name="device-batches", daemon=True)
        self._thread.start()

    def __iter__(self) -> "DeviceBatches[HostBatch, DeviceBatch]":
        return self

    def __next__(self) -> DeviceBatch:
        if self._end or self._stop.is_set():
            raise StopIteration
        start = time.perf_counter()
        batch = self._ready.get()
        self.wait_seconds += time.perf_counter() - start
        if isinstance(batch, _End):
            self._end = batch
            raise batch.reason
        self._room.release()
        return batch

    def close(self) -> None:
        """Stop the thread, wait for it, and close the host batches."""
        self._stop.set()
        self._room.release()
        self._thread.join()
        close_host = getattr(self._host_batches, "close", None)
        if close_host:
            close_host()

    def __enter__(self) -> "DeviceBatches[HostBatch, DeviceBatch]":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _fill(self) -> None:
        try:
            while True:
                self._room.acquire()  # before reading, so that no more than `depth` wait on device
                if self._stop.is_set():
                    return
                self._ready.put(self._put(next(self._host_batches)))
        except BaseException as reason:  # StopIteration too: it ends the consumer's loop
            self._ready.put(_End(reason))


def device_batches(
    host_batches: Iterator[HostBatch], put: Callable[[HostBatch], DeviceBatch], depth: int = 2
) -> DeviceBatches[HostBatch, DeviceBatch]:
    """Start putting `host_batches` on the devices, `depth` ahead; see `DeviceBatches`."""
    return DeviceBatches(host_batches, put, depth)


class _End:
    """Marks the end of the batches and carries its reason, StopIteration or an error."""

    def __init__(self, reason: BaseException):
        self.reason = reason
