"""Interval means: exact, late by one interval, and unbroken across a restart."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.errors import NonFiniteLossError
from offsites_jax.train.contract import Mean
from offsites_jax.train.tally import Tally


def metrics(step):
    value = np.float32(np.sin(step) + 2)
    weight = np.float32(step % 3 + 1)
    return {
        "loss": Mean(jnp.float32(value * weight), jnp.float32(weight)),
        "non_finite": Mean(jnp.float32(0), jnp.float32(1)),
    }


def run(tally, first, last, every):
    lines = []
    for step in range(first, last + 1):
        tally.add(step, metrics(step))
        if step % every == 0:
            tally.mark(step)
            lines += tally.lines(keep_last=True)
    return lines


def test_a_line_is_the_weighted_mean_over_its_interval():
    tally = Tally()
    lines = run(tally, 1, 12, 4) + tally.lines(keep_last=False)
    assert [step for step, _ in lines] == [4, 8, 12]
    totals = [(float(metrics(s)["loss"].total), s % 3 + 1) for s in range(5, 9)]
    expected = sum(t for t, _ in totals) / sum(w for _, w in totals)
    assert dict(lines)[8]["loss"] == expected


def test_the_newest_interval_stays_on_the_device():
    tally = Tally()
    assert run(tally, 1, 4, 4) == []
    assert [step for step, _ in run(tally, 5, 8, 4)] == [4]


def test_lines_are_the_same_bits_when_a_run_is_stopped_inside_an_interval():
    whole = Tally()
    expected = run(whole, 1, 12, 4) + whole.lines(keep_last=False)
    first = Tally()
    lines = run(first, 1, 6, 4) + first.lines(keep_last=False)
    saved = json.loads(json.dumps(first.flush()))
    second = Tally(saved)
    lines += run(second, 7, 12, 4) + second.lines(keep_last=False)
    assert lines == expected


def test_a_non_finite_loss_names_step_and_objective():
    bad = {"critic/non_finite": Mean(jnp.float32(1), jnp.float32(1))}
    tally = Tally()
    tally.add(7, bad)
    with pytest.raises(NonFiniteLossError, match=r"step 7: .*'critic'"):
        tally.flush()
    counting = Tally(stop_on_non_finite=False)
    counting.add(7, bad)
    counting.add(8, bad)
    assert counting.flush()["skipped"] == 2
