"""A profiler window around chosen steps, readable in TensorBoard, XProf and Perfetto."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

import jax
from etils import epath


class Profiler:
    """Context that traces the updates first <= step < last into `workdir/profile`.

    Args:
      workdir: folder of the run.
      window: (first, last) update numbers, counted from 0; None traces nothing.

    """

    def __init__(self, workdir: epath.Path, window: tuple[int, int] | None) -> None:
        self._folder, self._window = workdir / "profile", window
        self._tracing = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop(None)

    def run(self, step: int, update: Callable[..., Any], *args: Any) -> Any:
        """`update(*args)`, traced if the update number is inside the window."""
        if self._window is None:
            return update(*args)
        first, last = self._window
        if first <= step < last and not self._tracing:
            self._tracing = True
            jax.profiler.start_trace(str(self._folder))
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            result = update(*args)
        if step + 1 >= last:
            self._stop(result)
        return result

    def _stop(self, result: Any) -> None:
        if self._tracing:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            self._tracing = False
