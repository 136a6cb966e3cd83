"""The programs of a run's stages: each compiled once, and the next one while the one before it trains."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from jax.sharding import Mesh

from offsites_jax.parallel.mesh import platform_of
from offsites_jax.train.config import Experiment
from offsites_jax.train.evaluation import Evaluations
from offsites_jax.train.program import Program, create_program
from offsites_jax.train.report import step_flops
from offsites_jax.train.state import TrainState
from offsites_jax.train.step import StepFn


class CompiledStage(NamedTuple):
    """What stages of equal settings share."""

    program: Program
    update: StepFn
    flops: Any
    evaluations: Evaluations
    heed: Callable[[TrainState, Mapping[str, float]], TrainState]


class _Begun(NamedTuple):
    program: Program
    update: "Future[StepFn]"


class CompiledStages:
    """Gives each stage its program; a stage with the settings of an earlier one has that one's.

    While a stage trains, a thread compiles the next, so that a pod need not wait where they change. Tracing
    stays in the caller's thread, whose settings of JAX it follows.
    """

    def __init__(self, experiment: Experiment, mesh: Mesh):
        """Compiles nothing yet."""
        self._experiment, self._mesh = experiment, mesh
        how = experiment.train.compile_ahead
        # On CPU the compiler would take the very cores that train.
        self._ahead = how == "yes" or (how == "auto" and platform_of(mesh) != "cpu")
        self._begun: dict[int, _Begun] = {}
        self._ready: dict[int, CompiledStage] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compile")

    def get(self, index: int) -> CompiledStage:
        """The program of a stage, waiting for it if need be; that of the next stage is begun."""
        first = self._experiment.first_alike(index)
        if first not in self._ready:
            self._ready[first] = self._finish(first)
        if self._ahead and index + 1 < len(self._experiment.ends):
            self._begin(self._experiment.first_alike(index + 1))
        return self._ready[first]

    def close(self) -> None:
        """Waits for a compilation under way: the compiler cannot be stopped."""
        self._thread.shutdown(cancel_futures=True)

    def _begin(self, index: int) -> None:
        if index in self._begun or index in self._ready:
            return
        program = create_program(self._experiment.at_stage(index), self._mesh)
        self._begun[index] = _Begun(program, self._thread.submit(program.update, program.lower()))

    def _finish(self, index: int) -> CompiledStage:
        if index in self._begun:
            program, future = self._begun.pop(index)
            update = future.result()
        else:
            program = create_program(self._experiment.at_stage(index), self._mesh)
            update = program.update()
        return CompiledStage(program, update, step_flops(program), Evaluations(program), program.heed())
