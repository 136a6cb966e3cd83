"""How a run is getting on: where its seconds go, how fast it is, and one line that says so.

Nothing here is called per step. Speed is measured where metrics arrive from the device, since the host may
be many steps ahead of it.
"""

import collections
import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TextIO

import jax
from jax.sharding import Mesh

from offsites_jax.parallel.flops import peak_flops

Clock = Callable[[], float]
# A fetch that took less than this share of its interval found the device waiting.
_BLOCKED = 0.02


class Stopwatch:
    """Wall seconds by activity. Activities may nest; a second counts once, for the innermost."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = collections.defaultdict(float)
        self._running: list[str] = []
        self._since = clock()

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Counts the seconds of the block for `name`."""
        self._book()
        self._running.append(name)
        try:
            yield
        finally:
            self._book()
            self._running.pop()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by activity, up to now."""
        self._book()
        return dict(self._seconds)

    @property
    def total(self) -> float:
        """Seconds of all activities, up to now."""
        return sum(self.seconds.values())

    def _book(self) -> None:
        now = self._clock()
        if self._running:
            self._seconds[self._running[-1]] += now - self._since
        self._since = now


class Mark(NamedTuple):
    """One moment of a run.

    Attributes:
      step: updates finished.
      trained: seconds of training until then: all but the timed activities.
      waited: those of them in which the loop waited for data.

    """

    step: int
    trained: float
    waited: float


class Progress:
    """Timing of a run, and its line on the terminal or in the log of process 0.

    Call `stage` when training begins, `log_point` when the update of a log step has been handed to the
    device, `rates` and `show` when the metrics of a log step have been fetched.

    Args:
      total_steps: updates in the run.
      batch_size: rows of a global batch.
      stream: where the line goes; a terminal keeps one live line, anything else gets a line per `show`.
      clock: seconds from any origin.

    """

    def __init__(
        self,
        total_steps: int,
        batch_size: int,
        *,
        stream: TextIO | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._total_steps, self._batch_size = total_steps, batch_size
        self._stream = stream or sys.stderr
        self._clock = clock
        self._stopwatch = Stopwatch(clock)
        self._created = self._begun = clock()
        self._timed_before = 0.0
        self._training = False
        self._stage = ""
        self._flops_per_device = 0.0
        self._peak_flops: float | None = None
        self._waited_before = 0.0
        # The interval being measured, and the newest update handed to the device.
        self._start = self._end = self._given = Mark(0, 0.0, 0.0)
        self._fetched = False
        self._rates: dict[str, float] = {}

    def time(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Counts the seconds of the block for an activity other than training: "compile", "evaluate" ..."""
        return self._stopwatch.time(name)

    def stage(
        self, name: str, step: int, *, batch_size: int = 0, flops: float = 0.0, mesh: Mesh | None = None
    ) -> None:
        """Training begins, or goes on in another stage with other batches.

        Args:
          name: shown in the line, unless it is "all".
          step: updates done so far.
          batch_size: rows of a global batch from now on; 0 as before.
          flops: floating-point operations of one step over the whole mesh; 0 if unknown.
          mesh: the devices that share them.

        """
        if not self._training:
            self._begun, self._timed_before = self._clock(), self._stopwatch.total
        self._training = True
        self._stage = "" if name == "all" else name
        self._batch_size = batch_size or self._batch_size
        self._flops_per_device = flops / mesh.size if mesh else 0.0
        self._peak_flops = peak_flops(mesh.devices.flat[0].device_kind) if mesh else None
        self._waited_before = self._given.waited
        self._start = self._end = self._given = Mark(step, self._trained(), self._waited_before)

    def log_point(self, step: int, wait_seconds: float) -> None:
        """Update number `step` has been handed to the device.

        Args:
          step: updates handed over so far.
          wait_seconds: seconds that the loop has waited for batches in this stage.

        """
        self._given = Mark(step, self._trained(), self._waited_before + wait_seconds)
        self._fetched = False

    def rates(self, step: int) -> dict[str, float]:
        """Speed over the interval that ends with `step`, the newest whose metrics have just been fetched.

        Returns steps and samples per second of training; `data_wait`, the share of it spent waiting for
        batches; `goodput`, the share of all seconds so far spent on steps; operations per second of one
        device and `mfu`, their share of its published peak, where known; and peak memory in GiB.
        Calls before the next log point speak of the same interval.
        """
        if not self._fetched:
            self._start, self._fetched = self._end, True
        now = self._trained()
        blocked = now - self._given.trained > _BLOCKED * (now - self._start.trained)
        # A device that did not keep the host waiting has finished everything it was given.
        done = step if blocked else self._given.step
        self._end = Mark(max(done, self._start.step), now, self._given.waited)
        self._rates = self._speed() or self._rates
        return {**self._rates, "goodput": self.goodput, "peak_memory_gib": peak_memory() / 2**30}

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows a log step: its loss, the speed, and the time left."""
        if jax.process_index() != 0:
            return
        line = self._line(step, metrics)
        if self._stream.isatty():
            self._stream.write(f"\r\x1b[K{line}")
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def finish(self) -> None:
        """Leaves the live line, and says where the seconds went."""
        if jax.process_index() != 0:
            return
        seconds = sorted(self.seconds.items(), key=lambda item: -item[1])
        spent = ", ".join(f"{name} {value:.1f} s" for name, value in seconds if value >= 0.05)
        new_line = "\n" if self._stream.isatty() else ""
        self._stream.write(f"{new_line}goodput {self.goodput:.0%} ({spent})\n")
        self._stream.flush()

    @property
    def seconds(self) -> dict[str, float]:
        """Wall seconds by activity: the timed ones, `startup` before training, `data_wait` and `step`."""
        timed = self._stopwatch.seconds
        if not self._training:
            return {**timed, "startup": self._clock() - self._created - sum(timed.values())}
        waited = self._given.waited
        return {
            **timed,
            "startup": self._begun - self._created - self._timed_before,
            "data_wait": waited,
            "step": self._trained() - waited,
        }

    @property
    def goodput(self) -> float:
        """Seconds spent on steps, over all seconds since the run was created in this process."""
        return self.seconds.get("step", 0.0) / max(self._clock() - self._created, 1e-9)

    def _trained(self) -> float:
        """Seconds since training began, less those of the timed activities."""
        return self._clock() - self._begun - (self._stopwatch.total - self._timed_before)

    def _speed(self) -> dict[str, float]:
        """Rates over the interval; empty where it holds no step."""
        steps, seconds, waited = (end - start for end, start in zip(self._end, self._start, strict=True))
        if steps == 0 or seconds <= 0:
            return {}
        speed = {
            "steps_per_second": steps / seconds,
            "samples_per_second": steps * self._batch_size / seconds,
            "data_wait": waited / seconds,
        }
        if self._flops_per_device:
            speed["tflops_per_device"] = self._flops_per_device * steps / seconds / 1e12
        if self._flops_per_device and self._peak_flops:
            speed["mfu"] = self._flops_per_device * steps / seconds / self._peak_flops
        return speed

    def _line(self, step: int, metrics: Mapping[str, float]) -> str:
        parts = [f"{step}/{self._total_steps}", self._stage]
        first = "loss" if "loss" in metrics else next(iter(metrics), "")
        if first:
            parts.append(f"{first} {metrics[first]:.4g}")
        if self._rates:
            left = (self._total_steps - step) / self._rates["steps_per_second"]
            parts += [
                f"{self._rates['samples_per_second']:.4g} samples/s",
                f"data wait {self._rates['data_wait']:.0%}",
                f"ETA {datetime.timedelta(seconds=round(left))}",
            ]
        return "  ".join(part for part in parts if part)


def peak_memory() -> int:
    """Largest number of bytes in use so far: of the fullest local device, or of the process on CPU."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return max(device_stats["peak_bytes_in_use"] for device_stats in stats)
    return _peak_resident()


def _peak_resident() -> int:
    import resource  # There is none on Windows, where everything else here works.

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
