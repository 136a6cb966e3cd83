"""Accounting on a made-up clock, with a simulated loop in front of a simulated device."""

import io

import jax
import numpy as np
import pytest

from offsites_jax.train import progress as progress_module
from offsites_jax.train.progress import Progress, Stopwatch, peak_memory


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        self.now += seconds


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_nested_activities_count_every_second_once():
    clock = Clock()
    watch = Stopwatch(clock)
    clock.pass_(1)
    with watch.time("evaluate"):
        clock.pass_(2)
        with watch.time("compile"):
            clock.pass_(4)
            assert watch.seconds == {"evaluate": 2, "compile": 4}
        clock.pass_(8)
    clock.pass_(16)
    with watch.time("evaluate"):
        clock.pass_(32)
    assert watch.seconds == {"evaluate": 42, "compile": 4}
    assert watch.total == 46


def test_an_activity_that_fails_is_counted_and_ends():
    clock = Clock()
    watch = Stopwatch(clock)

    def fail():
        with watch.time("evaluate"):
            clock.pass_(3)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    clock.pass_(5)
    assert watch.seconds == {"evaluate": 3}


class Loop:
    """A train loop as the trainer runs it: lines are fetched one log interval late.

    The host needs `host` seconds to hand over a step and `data` to wait for its batch; the device, working
    through its queue, `device` seconds to run it.
    """

    def __init__(self, host, data, device, *, log_every=10, flush_at=(), start=0):
        self.clock = Clock()
        self.progress = Progress(1000, 4, stream=io.StringIO(), clock=self.clock)
        with self.progress.time("compile"):
            self.clock.pass_(30)
        self.clock.pass_(5)
        self.progress.stage("all", start)
        self.host, self.data, self.device = host, data, device
        self.log_every, self.flush_at = log_every, flush_at
        self.step, self.waited, self.free = start, 0.0, self.clock.now
        self.finished, self.pending, self.speeds = {}, [], {}

    def run(self, steps):
        for _ in range(steps):
            self.clock.pass_(self.data + self.host)
            self.waited += self.data
            self.free = max(self.free, self.clock.now) + self.device
            self.step += 1
            self.finished[self.step] = self.free
            if self.step % self.log_every == 0:
                self.progress.log_point(self.step, self.waited)
                self.pending.append(self.step)
                self.fetch(keep_last=self.step not in self.flush_at)
            if self.step in self.flush_at:
                with self.progress.time("evaluate"):
                    self.clock.pass_(77)

    def fetch(self, keep_last):
        ready = self.pending[:-1] if keep_last else self.pending
        self.pending = self.pending[len(ready) :]
        if ready:
            self.clock.now = max(self.clock.now, self.finished[ready[-1]])
        for at in ready:
            self.speeds[at] = self.progress.rates(ready[-1])


REGIMES = {
    "the device is slow": (0.01, 0.0, 0.5),
    "the host is slow": (0.5, 0.0, 0.01),
    "the data are slow": (0.01, 0.49, 0.01),
}


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("flush_at", [(), (50, 100)])
def test_speed_is_that_of_whatever_is_slowest(regime, flush_at):
    loop = Loop(*REGIMES[regime], flush_at=flush_at)
    loop.run(200)
    found = [speed["steps_per_second"] for speed in loop.speeds.values()]
    assert sorted(loop.speeds) == list(range(10, 200, 10))
    np.testing.assert_allclose(found, 2.0, rtol=0.05)
    assert loop.speeds[150]["samples_per_second"] == 4 * loop.speeds[150]["steps_per_second"]


def test_a_resumed_run_counts_only_its_own_steps():
    loop = Loop(*REGIMES["the device is slow"], start=730)
    loop.run(40)
    np.testing.assert_allclose(loop.speeds[740]["steps_per_second"], 2.0, rtol=0.05)


def test_data_wait_is_its_share_of_training():
    loop = Loop(0.01, 0.09, 0.001, flush_at=(50,))
    loop.run(100)
    np.testing.assert_allclose([s["data_wait"] for s in loop.speeds.values()], 0.9, rtol=0.03)


def test_seconds_add_up_to_the_wall():
    loop = Loop(0.2, 0.3, 0.001, flush_at=(50, 100))
    loop.run(100)
    seconds = loop.progress.seconds
    assert seconds == pytest.approx(
        {"compile": 30, "startup": 5, "data_wait": 30, "step": 20, "evaluate": 154}, rel=1e-3
    )
    assert sum(seconds.values()) == pytest.approx(loop.clock.now - 100)
    assert loop.progress.goodput == pytest.approx(20 / (30 + 5 + 30 + 20 + 154), rel=1e-3)


def test_a_second_stage_starts_a_new_interval_and_a_new_wait():
    loop = Loop(0.1, 0.1, 0.001)
    loop.run(15)
    with loop.progress.time("compile"):
        loop.clock.pass_(60)
    loop.progress.stage("large", loop.step)
    loop.waited, loop.host, loop.free = 0.0, 0.3, loop.clock.now
    loop.run(25)
    assert loop.speeds[30]["steps_per_second"] == pytest.approx(2.5, rel=0.02)
    assert loop.speeds[30]["data_wait"] == pytest.approx(0.25, rel=0.02)
    # The five steps after the first stage's last log point are not known to have waited.
    assert loop.progress.seconds["data_wait"] == pytest.approx(1.0 + 2.5)


def test_samples_are_those_of_the_stages_own_batches():
    loop = Loop(0.1, 0.1, 0.001)
    loop.run(10)
    loop.progress.stage("large", loop.step, batch_size=12)
    loop.waited = 0.0
    loop.run(20)
    assert loop.speeds[20]["samples_per_second"] == 12 * loop.speeds[20]["steps_per_second"]


def test_utilisation_is_work_per_device_over_the_published_peak(monkeypatch):
    monkeypatch.setattr(progress_module, "peak_flops", lambda kind: 5e12)
    clock = Clock()
    progress = Progress(10, 4, stream=io.StringIO(), clock=clock)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    progress.stage("all", 0, flops=16e12, mesh=mesh)
    clock.pass_(4)
    progress.log_point(2, 0.0)
    rates = progress.rates(2)
    assert rates["tflops_per_device"] == pytest.approx(1.0)
    assert rates["mfu"] == pytest.approx(0.2)


def fill(stream):
    clock = Clock()
    progress = Progress(1000, 4, stream=stream, clock=clock)
    progress.stage("warm", 0)
    for step in (10, 20):
        clock.pass_(20)
        progress.log_point(step, step * 0.5)
        progress.rates(step)
        progress.show(step, {"accuracy": 0.5, "loss": 1.23456})
    progress.finish()
    return stream.getvalue()


LINE = "20/1000  warm  loss 1.235  2 samples/s  data wait 25%  ETA 0:32:40"


def test_plain_streams_get_a_line_per_log_step():
    lines = fill(io.StringIO()).splitlines()
    assert lines[1] == LINE
    assert lines[2].startswith("goodput 75% (step 30.0 s, data_wait 10.0 s")
    assert len(lines) == 3


def test_a_terminal_keeps_one_live_line():
    text = fill(Terminal())
    live, last, _ = text.split("\n")
    assert live.split("\r\x1b[K")[2] == LINE
    assert live.count("\r") == 2
    assert last.startswith("goodput")


def test_other_processes_are_silent(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert fill(io.StringIO()) == ""


def test_peak_memory_on_cpu_is_in_bytes_and_never_falls():
    block = np.ones(2**23)
    held = peak_memory()
    assert block.nbytes < held < 2**42
    del block
    assert peak_memory() >= held


def test_peak_memory_is_that_of_the_fullest_device(monkeypatch):
    class Device:
        def __init__(self, peak):
            self.peak = peak

        def memory_stats(self):
            return {"peak_bytes_in_use": self.peak}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(5), Device(9), Device(7)])
    assert peak_memory() == 9
