"""One stage of an experiment as compilable functions: the step, the initial state, and their shardings.

The loop runs what stands here; planning compiles the very same objects for another machine.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PRNGKeyArray

from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import (
    BATCH_AXES,
    batch_sharding,
    check_batch_size,
    constrain,
    platform_of,
    replicated,
)
from offsites_jax.parallel.rules import gather_ahead, state_shardings
from offsites_jax.train.config import Experiment
from offsites_jax.train.contract import Batch, Task, Tree, Variables
from offsites_jax.train.optimizers import check_patterns, create_optimizer, learning_rate
from offsites_jax.train.schedules import RateFn
from offsites_jax.train.state import TrainState, create_state, flatten, group_paths, select, zero_batch
from offsites_jax.train.step import StepFn, StepSettings, create_step


@dataclasses.dataclass(frozen=True)
class Program:
    """One stage, ready to compile.

    Attributes:
      experiment: the experiment at this stage.
      mesh: the device mesh.
      task: the system being trained.
      groups: trained parameter paths by group.
      init: the pure function from a random key to the state before the first step.
      step: the pure train step.
      predict: the pure prediction (variables, batch) -> outputs, on parameters gathered like the step's.
      schedules: learning rate as a function of the step, by parameter group.
      abstract: shapes, dtypes and shardings of the train state.
      batch: shapes, dtypes and shardings of a global batch.

    """

    experiment: Experiment
    mesh: Mesh
    task: Task
    groups: Mapping[str, frozenset[str]]
    init: Callable[[PRNGKeyArray], TrainState]
    step: StepFn
    predict: Callable[[Variables, Batch], dict[str, Array]]
    schedules: Mapping[str, RateFn]
    abstract: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]

    @property
    def shardings(self) -> TrainState:
        """Sharding of each leaf of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract)

    def jit_step(self) -> jax.stages.Wrapped:
        """The step as the loop runs it: shardings fixed, state donated."""
        inputs = (self.shardings, {name: spec.sharding for name, spec in self.batch.items()})
        return jax.jit(
            self.step,
            in_shardings=inputs,
            out_shardings=(self.shardings, replicated(self.mesh)),
            donate_argnums=0,
            compiler_options=self._repeatedly(),
        )

    def heed(self) -> Callable[[TrainState, Mapping[str, float]], TrainState]:
        """The function that the loop calls after an evaluation; the state it is given is donated."""
        if type(self.task).heed is Task.heed:
            return lambda state, scores: state
        heed = jax.jit(self.task.heed, out_shardings=self.shardings, donate_argnums=0)

        def after(state: TrainState, scores: Mapping[str, float]) -> TrainState:
            with jax.set_mesh(self.mesh):
                return heed(state, {name: np.float32(score) for name, score in scores.items()})

        return after

    def jit_predict(self) -> jax.stages.Wrapped:
        """The prediction as evaluation runs it, on global batches."""
        return jax.jit(
            self.predict, out_shardings=batch_sharding(self.mesh), compiler_options=self._repeatedly()
        )

    def _repeatedly(self) -> dict[str, str] | None:
        """Compiler options of a program that runs many times.

        XLA:CPU gives convolutions to YNNPACK, which runs each in a single thread; without it they take all
        threads. Its products and sums are quick and stay.
        """
        if platform_of(self.mesh) != "cpu":
            return None
        kept = ("LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT", "LIBRARY_FUSION_TYPE_REDUCE")
        return {"xla_cpu_experimental_ynn_fusion_type": ",".join(kept)}

    def _once(self) -> dict[str, int] | None:
        """Compiler options of a program that runs once.

        XLA:CPU spends most of its time optimising each random draw; unoptimised, the initial state of a
        small network is there in 3 s instead of 23 s.
        """
        return {"xla_backend_optimization_level": 0} if platform_of(self.mesh) == "cpu" else None

    def lower(self) -> jax.stages.Lowered:
        """The step traced for this mesh, to be compiled."""
        with jax.set_mesh(self.mesh):
            return self.jit_step().lower(self.abstract, self.batch)

    def compile(self, lowered: jax.stages.Lowered | None = None) -> jax.stages.Compiled:
        """The step compiled for this mesh; `compiled(state, batch) -> (state, metrics)`."""
        lowered = lowered or self.lower()
        with jax.set_mesh(self.mesh):
            return lowered.compile()

    def update(self, lowered: jax.stages.Lowered | None = None) -> StepFn:
        """The compiled step as the loop calls it.

        On several virtual CPU devices it returns when it is done. Dispatch is synchronous there, but XLA:CPU
        still queues a step whose inputs are not ready yet, and the all-reduces of two steps in flight
        can take each other's threads until XLA aborts the process.
        """
        compiled = self.compile(lowered)
        if platform_of(self.mesh) != "cpu" or self.mesh.size == 1:
            return compiled
        return lambda state, batch: jax.block_until_ready(compiled(state, batch))

    def initial_state(self) -> TrainState:
        """The state before the first step; each device makes only its own part."""
        with jax.set_mesh(self.mesh):
            key = jax.random.key(self.experiment.train.seed)
            return jax.jit(self.init, out_shardings=self.shardings, compiler_options=self._once())(key)


def create_program(experiment: Experiment, mesh: Mesh, *, platform: str | None = None) -> Program:
    """Builds one stage for a mesh, without allocating anything on a device.

    Args:
      experiment: at the wanted stage.
      mesh: real devices, or those of a topology description.
      platform: "tpu", "gpu" or "cpu" where the program will run; the mesh's own unless told.

    Raises:
      UserError: a batch that does not divide, a pattern that matches no parameter, an unknown optimizer.

    """
    settings = experiment.train
    platform = platform or platform_of(mesh)
    task = experiment.found.create_task(experiment, compute_dtype(settings.precision, platform))
    check_batch_size(mesh, settings.batch_size, settings.accumulate * _parts(task))
    spec = task.batch_spec(settings.batch_size)
    key = jax.random.key(0)  # outside the mesh: the chips of a topology description compute nothing
    with jax.set_mesh(mesh):
        params = jax.eval_shape(lambda key: task.init(key, zero_batch(spec)), key)["params"]
    groups = _groups(experiment, task, params)
    optimizers = {
        name: create_optimizer(
            section,
            select(params, groups[name]),
            settings.steps,
            where(experiment, name),
            batch_ratio=experiment.batch_ratio,
        )
        for name, section in experiment.optimizer.items()
    }

    def init(rng: PRNGKeyArray) -> TrainState:
        return create_state(task, optimizers, groups, rng, zero_batch(spec), ema=settings.ema.decay > 0)

    with jax.set_mesh(mesh):
        abstract = jax.eval_shape(init, key)
    shardings = state_shardings(abstract, mesh, experiment.sharding)
    gather = gather_ahead(shardings.params, experiment.sharding)

    def predict(variables: Variables, batch: Batch) -> dict[str, Array]:
        return task.predict({**variables, "params": gather(variables["params"])}, batch)

    step = create_step(
        task,
        optimizers,
        groups,
        StepSettings(
            seed=settings.seed,
            accumulate=settings.accumulate,
            ema=settings.ema,
            skip_non_finite=settings.on_non_finite == "skip",
            slice_reduction=settings.slice_reduction,
        ),
        shard=lambda batch: constrain(batch, PartitionSpec(BATCH_AXES)),
        gather=gather,
        placed=shardings.params,
    )
    return Program(
        experiment=experiment,
        mesh=mesh,
        task=task,
        groups=groups,
        init=init,
        step=step,
        predict=predict,
        schedules={
            name: learning_rate(
                section, settings.steps, where(experiment, name), batch_ratio=experiment.batch_ratio
            )
            for name, section in experiment.optimizer.items()
        },
        abstract=jax.tree.map(_with_sharding, abstract, shardings),
        batch={name: _with_sharding(entry, batch_sharding(mesh)) for name, entry in spec.items()},
    )


def check_stages(experiment: Experiment, mesh: Mesh) -> None:
    """Builds every stage, so that a mistake in the last one shows before the first one runs.

    Raises:
      UserError: a stage changes the shape of a parameter.
    """
    first: dict[str, tuple[int, ...]] = {}
    for index in sorted({experiment.first_alike(i) for i in range(len(experiment.ends))}):
        program = create_program(experiment.at_stage(index), mesh)
        shapes = {path: leaf.shape for path, leaf in flatten(program.abstract.params).items()}
        first = first or shapes
        if shapes != first:
            path = min(p for p in {*shapes, *first} if shapes.get(p) != first.get(p))
            raise UserError(
                f"config.stages[{index}]: changes parameter {path} from {first.get(path)} to "
                f"{shapes.get(path)}; train stages of other shapes as a second run with init_from"
            )


def compute_dtype(precision: str, platform: str) -> jnp.dtype:
    """The dtype activations are computed in."""
    if precision == "auto":
        precision = "float32" if platform == "cpu" else "bfloat16"
    return jnp.dtype(precision)


def where(experiment: Experiment, group: str) -> str:
    """The config key of a group's optimizer section."""
    return f"optimizer.{group}" if len(experiment.optimizer) > 1 else "optimizer"


def _groups(experiment: Experiment, task: Task, params: Tree) -> dict[str, frozenset[str]]:
    """Trained paths of each parameter group, checked against the optimizer sections."""
    if set(experiment.optimizer) != set(task.parameter_groups):
        wanted, given = sorted(task.parameter_groups), sorted(experiment.optimizer)
        raise UserError(
            f"config.optimizer: sections {given}, but project {experiment.project!r} trains groups {wanted}"
        )
    for name, section in experiment.optimizer.items():
        check_patterns(section.frozen, flatten(params), f"{where(experiment, name)}.frozen")
    frozen = {name: section.frozen for name, section in experiment.optimizer.items()}
    groups = group_paths(params, task.parameter_groups, frozen)
    for name, paths in groups.items():
        if not paths:
            raise UserError(
                f"config.optimizer: group {name!r} trains none of {len(flatten(params))} parameters; "
                "check frozen"
            )
    return groups


def _parts(task: Task) -> int:
    """Into how many parts the objectives cut a batch."""
    return max(objective.part[1] for objective in task.objectives)


def _with_sharding(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
