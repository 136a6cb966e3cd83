"""Radiographs that arrive one by one while several readers read: a simulation event by event.

Arrivals are a Poisson process; a free reader takes the most urgent case that waits and finishes it before
looking again (non-preemptive priority, Cobham 1954).
"""

import dataclasses
import heapq
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.accuracy.operating import flag
from offsites_jax.projects.chest_xray.accuracy.roc import Labels, Scores

Rule = Literal["first_come", "flagged_first", "by_score"]
RULES: tuple[Rule, ...] = ("first_come", "flagged_first", "by_score")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """How work comes in and gets done.

    Attributes:
      arrivals_per_hour: radiographs that come, on average.
      read_minutes: how long one takes to read.
      readers: how many read.
      cases: radiographs to simulate.
      warm_up: share of them at the start that is left out of the figures.
      reading: every case takes `constant` time, or `exponential` times of that mean.

    """

    arrivals_per_hour: float = 20.0
    read_minutes: float = 5.0
    readers: int = 2
    cases: int = 20_000
    warm_up: float = 0.1
    reading: Literal["constant", "exponential"] = "constant"

    def __post_init__(self) -> None:
        if min(self.arrivals_per_hour, self.read_minutes) <= 0 or min(self.readers, self.cases) < 1:
            raise UserError("arrivals an hour, minutes to read, readers and cases must be above 0")
        if not 0 <= self.warm_up < 1:
            raise UserError(f"warm-up {self.warm_up}; give a share of the cases, 0 or more and below 1")

    @property
    def load(self) -> float:
        """Work that comes in over work that can be done; from 1 on the queue grows without end."""
        return self.arrivals_per_hour * self.read_minutes / 60 / self.readers


@dataclasses.dataclass(frozen=True)
class Turnaround:
    """Minutes from arrival to the end of reading, under one rule.

    Attributes:
      rule: which waiting case is next.
      abnormal: mean of abnormal cases; None without any.
      normal: mean of normal cases.
      abnormal_95: what 95 % of abnormal cases stay below.
      missed: mean of the abnormal cases that were not flagged.
      missed_most: the longest of them.
      load: of the readers, see `Traffic`.

    """

    rule: Rule
    abnormal: float | None
    normal: float | None
    abnormal_95: float | None
    missed: float | None
    missed_most: float | None
    load: float


def simulate_arrivals(
    labels: Labels, scores: Scores, threshold: float, traffic: Traffic, seed: int = 0
) -> list[Turnaround]:
    """The same arrivals under each rule; cases are drawn with replacement.

    Raises:
      UserError: no cases to draw from.

    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores, np.float64)
    if not len(labels):
        raise UserError("arrivals: no cases to draw from")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(labels), traffic.cases)
    arrival = np.cumsum(rng.exponential(60 / traffic.arrivals_per_hour, traffic.cases))
    minutes = np.full(traffic.cases, traffic.read_minutes)
    if traffic.reading == "exponential":
        minutes = rng.exponential(traffic.read_minutes, traffic.cases)
    flagged = flag(scores[drawn], threshold)
    urgency = {
        "first_come": np.zeros(traffic.cases),
        "flagged_first": flagged.astype(float),
        "by_score": scores[drawn],
    }
    warm = int(traffic.warm_up * traffic.cases)
    found = []
    for rule in RULES:
        start = reading_starts(arrival, minutes, urgency[rule], traffic.readers)
        spent = (start + minutes - arrival)[warm:]
        found.append(_turnaround(rule, spent, labels[drawn][warm:], flagged[warm:], traffic.load))
    return found


def reading_starts(
    arrival: Float[np.ndarray, "cases"],
    minutes: Float[np.ndarray, "cases"],
    urgency: Float[np.ndarray, "cases"],
    readers: int,
) -> Float[np.ndarray, "cases"]:
    """When the reading of each case starts; equally urgent ones are read as they come.

    Args:
      arrival: of each case, rising.
      minutes: to read each case.
      urgency: larger is taken first.
      readers: how many read.

    """
    start = np.empty(len(arrival))
    free = [0.0] * readers  # when each reader is free
    waiting: list[tuple[float, int]] = []
    now, arrived = 0.0, 0
    for _ in range(len(arrival)):
        now = max(now, free[0])
        if not waiting:
            now = max(now, float(arrival[arrived]))
        while arrived < len(arrival) and arrival[arrived] <= now:
            heapq.heappush(waiting, (-urgency[arrived], arrived))
            arrived += 1
        case = heapq.heappop(waiting)[1]
        start[case] = now
        heapq.heapreplace(free, now + minutes[case])
    return start


def _turnaround(
    rule: Rule,
    spent: Float[np.ndarray, "cases"],
    abnormal: Labels,
    flagged: Bool[np.ndarray, "cases"],
    load: float,
) -> Turnaround:
    missed = spent[abnormal & ~flagged]
    return Turnaround(
        rule,
        _mean(spent[abnormal]),
        _mean(spent[~abnormal]),
        float(np.quantile(spent[abnormal], 0.95)) if abnormal.any() else None,
        _mean(missed),
        float(missed.max()) if len(missed) else None,
        load,
    )


def _mean(values: Float[np.ndarray, "cases"]) -> float | None:
    return float(values.mean()) if len(values) else None
