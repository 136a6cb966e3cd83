"""Train metrics between two log lines: kept on the device, added up on the host in float64.

Nothing is fetched while the device works on the same interval: the line of a log point is written at the
next one. The open interval is part of a checkpoint, so the lines of a resumed run are bitwise those of a
run that was never stopped.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from offsites_jax.errors import NonFiniteLossError
from offsites_jax.train.contract import Mean


class Tally:
    """Sums and weights of train metrics since the last log line.

    Args:
      saved: what `flush` returned for the checkpoint that the run goes on from.
      stop_on_non_finite: raise for a loss that is not finite, instead of counting skipped updates.
      objective: name of the task's objective, where it is the only one and metrics do not say it.

    Attributes:
      sums: [sum, weight] of each metric over the open interval.
      skipped: updates skipped for a non-finite loss since the run began.

    """

    def __init__(
        self,
        saved: Mapping[str, Any] | None = None,
        *,
        stop_on_non_finite: bool = True,
        objective: str = "loss",
    ) -> None:
        saved = saved or {}
        self.sums: dict[str, list[float]] = {name: list(pair) for name, pair in saved.get("sums", {}).items()}
        self.skipped = int(saved.get("skipped", 0))
        self._stop, self._objective = stop_on_non_finite, objective
        self._pending: list[tuple[int, Mapping[str, Mean]]] = []
        self._log_points: list[int] = []

    def add(self, step: int, metrics: Mapping[str, Mean]) -> None:
        """Takes the device's metrics of the update that led to `step`; fetches nothing."""
        self._pending.append((step, metrics))

    def mark(self, step: int) -> None:
        """Ends an interval: a line for `step` is due."""
        self._log_points.append(step)

    def lines(self, *, keep_last: bool) -> list[tuple[int, dict[str, float]]]:
        """Finished lines as (step, metrics); with `keep_last` the newest interval stays on the device.

        Raises:
          NonFiniteLossError: naming the first step and objective whose loss is not finite.

        """
        points = self._log_points[:-1] if keep_last else self._log_points
        finished = []
        for point in points:
            self._absorb(point)
            means = {name: total / weight if weight else 0.0 for name, (total, weight) in self.sums.items()}
            finished.append((point, means if self._stop else {**means, "skipped": float(self.skipped)}))
            self.sums = {}
        self._log_points = self._log_points[len(points) :]
        return finished

    def flush(self) -> dict[str, Any]:
        """Fetches everything and returns the open interval, for a checkpoint. Call after `lines`."""
        self._absorb(None)
        return {"sums": self.sums, "skipped": self.skipped}

    def _absorb(self, until: int | None) -> None:
        ready = [entry for entry in self._pending if until is None or entry[0] <= until]
        self._pending = self._pending[len(ready) :]
        for (step, _), metrics in zip(ready, jax.device_get([m for _, m in ready]), strict=True):
            self._check(step, metrics)
            for name, mean in metrics.items():
                pair = self.sums.setdefault(name, [0.0, 0.0])
                pair[0] += float(np.float64(mean.total))
                pair[1] += float(np.float64(mean.weight))

    def _check(self, step: int, metrics: Mapping[str, Mean]) -> None:
        for name, mean in metrics.items():
            if not name.endswith("non_finite") or not float(mean.total):
                continue
            objective = name.removesuffix("non_finite").rstrip("/") or self._objective
            if self._stop:
                raise NonFiniteLossError(
                    f"step {step}: the loss or gradient of objective {objective!r} is not finite; the last "
                    f"checkpoint is intact. Look at its batch (offsites data --step {step - 1}), lower "
                    "optimizer.learning_rate, set clip_norm, or train.on_non_finite=skip"
                )
            self.skipped += 1
