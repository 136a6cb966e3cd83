"""What a run would need on real TPUs: its own programs, compiled for them on a machine that has none.

The train step compiled here is the function object the loop runs, with its shardings and its donation. A
compile proves that the program partitions and fits; it says nothing about speed. The times given are
`parallel.roofline`'s: a floor from published peaks, not a measurement.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from offsites_jax.errors import UserError
from offsites_jax.models.registry import create_model
from offsites_jax.parallel.compiler import Compiler, Cost
from offsites_jax.parallel.flops import count_flops
from offsites_jax.parallel.mesh import AXES, batch_sharding, check_batch_size
from offsites_jax.parallel.topology import Topology
from offsites_jax.train.config import Experiment, merged, resolve
from offsites_jax.train.program import Program, create_program
from offsites_jax.train.report import step_flops


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """One stage of an experiment.

    Attributes:
      name: of the stage, "all" where there is one.
      steps: train steps it lasts.
      batch_size: rows of a global batch.
      model_flops: operations of a step over all chips, without what rematerialisation does twice.
      hardware_flops: the same with it.
      train: the train step.
      predict: the step of evaluation.
      program: what was compiled.

    """

    name: str
    steps: int
    batch_size: int
    model_flops: int
    hardware_flops: int
    train: Cost
    predict: Cost
    program: Program


@dataclasses.dataclass(frozen=True)
class Plan:
    """An experiment on a topology.

    Attributes:
      topology: the chips.
      mesh: their layout.
      stages: the stages asked for.
      whole_run: whether these are all stages.

    """

    topology: Topology
    mesh: Mesh
    stages: tuple[StagePlan, ...]
    whole_run: bool


def create_plan(
    experiment: Experiment,
    compiler: Compiler,
    stages: Sequence[int] | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Compiles the train step and the prediction of each stage.

    Args:
      experiment: what to run.
      compiler: for the topology to run it on.
      stages: indices, or None for all.
      notify: told what is being compiled, as one line.

    Raises:
      UserError: the mesh or the batch does not fit the topology.

    """
    mesh = compiler.mesh(experiment.mesh)
    chosen = tuple(range(len(experiment.ends))) if stages is None else tuple(stages)
    plans = []
    for index in chosen:
        stage = experiment.at_stage(index)
        notify(f"compiling stage {stage.stage_name} for {describe(compiler.topology, mesh)}")
        plans.append(_plan_stage(stage, compiler, mesh))
    return Plan(compiler.topology, mesh, tuple(plans), whole_run=len(set(chosen)) == len(experiment.ends))


def train_cost(experiment: Experiment, compiler: Compiler, mesh: Mesh) -> tuple[Program, Cost, int]:
    """The train step of an experiment at its stage: program, cost, and operations over all chips."""
    program = create_program(experiment, mesh, platform="tpu")
    flops = step_flops(create_program(experiment, mesh, platform="tpu"))
    work = flops * _repetitions(program)
    cost = compiler.cost(mesh, program.jit_step(), program.abstract, program.batch, flops=work)
    return program, cost, flops


def with_remat(experiment: Experiment, policy: str) -> Experiment:
    """The experiment with its model's option `remat` set to "none", "full" or another policy it knows.

    Raises:
      UserError: the model has no such option.

    """
    found = _remat(experiment)
    if found is None:
        raise UserError(
            f"--remat: the model of project {experiment.project!r} has no option 'remat'; leave it out"
        )
    section, current = found
    if isinstance(current, bool) and policy not in ("none", "full"):
        raise UserError(f"--remat: {policy!r} is not offered by this model; say none or full")
    value = policy == "full" if isinstance(current, bool) else policy
    return override(experiment, _nested(f"{section}.remat", value))


def override(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """The experiment, at the same stage, with `changes` laid over its sections and those of its stage."""
    raw = merged(experiment.raw, changes)
    if raw.get("stages"):
        stage = raw["stages"][experiment.stage]
        raw["stages"][experiment.stage] = merged(stage, {k: v for k, v in changes.items() if k in stage})
    return resolve(raw, stage=experiment.stage)


def describe(topology: Topology, mesh: Mesh) -> str:
    """The chips and their layout in a few words."""
    slices = f" x {topology.slices} slices" if topology.slices > 1 else ""
    sizes = " ".join(f"{axis}={mesh.shape[axis]}" for axis in AXES if mesh.shape[axis] > 1)
    return f"{topology.name}{slices} ({topology.num_chips} chips: {sizes or 'one device'})"


def _plan_stage(experiment: Experiment, compiler: Compiler, mesh: Mesh) -> StagePlan:
    program, cost, hardware_flops = train_cost(experiment, compiler, mesh)
    start = experiment.ends[experiment.stage - 1] if experiment.stage else 0
    return StagePlan(
        name=experiment.stage_name,
        steps=experiment.ends[experiment.stage] - start,
        batch_size=experiment.train.batch_size,
        model_flops=step_flops(create_program(_without_remat(experiment), mesh, platform="tpu")),
        hardware_flops=hardware_flops,
        train=cost,
        predict=_predict_cost(experiment, compiler, program),
        program=program,
    )


def _predict_cost(experiment: Experiment, compiler: Compiler, program: Program) -> Cost:
    """The function evaluation compiles, for its largest batch."""
    sizes = {s.batch_size or experiment.train.batch_size: n for n, s in experiment.evaluators.items()}
    size = max(sizes, default=experiment.train.batch_size)
    where = f"evaluators.{sizes[size]}.batch_size" if sizes else "train.batch_size"
    check_batch_size(program.mesh, size, key=where)
    task, sharding = program.task, batch_sharding(program.mesh)
    truth = {name: spec for name, spec in task.batch_spec(size).items() if name in task.scored}
    batch = {
        name: jax.ShapeDtypeStruct(entry.shape, entry.dtype, sharding=sharding)
        for name, entry in {**truth, **task.input_spec(size)}.items()
    }
    variables = program.abstract.variables()
    with jax.set_mesh(program.mesh):
        flops = count_flops(program.predict, variables, batch) * _repetitions(program)
    return compiler.cost(program.mesh, program.jit_predict(), variables, batch, flops=flops)


def _repetitions(program: Program) -> int:
    """How many chips do the same work: neighbours on `tensor` do when no parameter is split over it."""
    specs = (leaf.spec for leaf in jax.tree.leaves(program.shardings.params))
    return 1 if any("tensor" in str(spec) for spec in specs) else program.mesh.shape["tensor"]


def _without_remat(experiment: Experiment) -> Experiment:
    found = _remat(experiment)
    return with_remat(experiment, "none") if found and found[1] not in (False, "none") else experiment


def _remat(experiment: Experiment) -> tuple[str, Any] | None:
    """The section that holds the model's option `remat`, and its value."""
    model = experiment.model
    if hasattr(model, "remat"):
        return "model", model.remat
    if not (hasattr(model, "overrides") and hasattr(model, "name")):
        return None
    default = getattr(create_model(model.name), "remat", None)
    return None if default is None else ("model.overrides", model.overrides.get("remat", default))


def _nested(key: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} for the key "a.b"."""
    first, _, rest = key.partition(".")
    return {first: _nested(rest, value) if rest else value}
