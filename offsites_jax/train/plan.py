"""What a run would need on real TPUs: its own programs, compiled for them on a machine that has none.

The train step compiled here is the function object the loop runs, with its shardings and its donation. A
compile proves that the program partitions and fits; it says nothing about speed. The times given are those
of
`parallel.roofline`: a floor from published peaks, not a measurement.
"""

import dataclasses
import hashlib
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from offsites_jax.errors import UserError
from offsites_jax.models.registry import create_model
from offsites_jax.parallel.collectives import Collective, find_collectives
from offsites_jax.parallel.hlo import parse_program
from offsites_jax.parallel.mesh import AXES, batch_sharding, check_batch_size, create_mesh, mesh_shape
from offsites_jax.parallel.roofline import Roofline, roofline
from offsites_jax.parallel.topology import Topology, describe_devices
from offsites_jax.train.config import Experiment, merged, resolve
from offsites_jax.train.program import Program, create_program
from offsites_jax.train.report import step_flops

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_AMOUNT = r"\(?([\d.]+)([KMGT])\)?"
_OUT_OF_MEMORY = re.compile(rf"{_AMOUNT} exceeds available HBM|Used {_AMOUNT} of \S+ hbm")


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a program takes of one chip's HBM, in bytes.

    Attributes:
      arguments: state and batch.
      outputs: results that are not written over donated arguments.
      temporaries: everything in between.
      generated_code: the program itself.
      limit: what the chip has for them.

    """

    arguments: int
    outputs: int
    temporaries: int
    generated_code: int
    limit: int

    @property
    def total(self) -> int:
        """All parts together."""
        return self.arguments + self.outputs + self.temporaries + self.generated_code


@dataclasses.dataclass(frozen=True)
class Cost:
    """One program compiled for a topology. Amounts are for one run on one chip.

    Attributes:
      memory: its HBM. When the compiler gave up for lack of it, `temporaries` is whatever is not an argument.
      compiled: whether there was memory enough to compile it.
      flops: operations, with work that the partitioner repeats on several chips.
      bytes_accessed: between the chip and its HBM; XLA's count, with loops unrolled by estimate.
      collectives: of one device.
      unknown_loops: loops whose length could not be told; what is inside counts once.
      roofline: the least time it can take; None when it did not compile.
      compile_seconds: what compiling took here.

    """

    memory: Memory
    compiled: bool
    flops: float
    bytes_accessed: float
    collectives: tuple[Collective, ...]
    unknown_loops: int
    roofline: Roofline | None
    compile_seconds: float

    @property
    def fits(self) -> bool:
        """Whether a chip has the memory."""
        return self.compiled and self.memory.total <= self.memory.limit


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
    predict: Cost | None
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


class Compiler:
    """Compiles for one topology; a program that has been compiled before costs nothing.

    Args:
      topology: the chips to compile for.

    Raises:
      UserError: the TPU compiler is not installed.

    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self._devices = describe_devices(topology)
        self._costs: dict[str, Cost] = {}

    def mesh(self, experiment: Experiment) -> Mesh:
        """The experiment's mesh, laid over the devices.

        Raises:
          UserError: it does not take up the topology exactly.

        """
        settings = dataclasses.replace(experiment.mesh, slices=self.topology.slices)
        shape = mesh_shape(settings, len(self._devices)) if _is_open(settings) else _sizes(settings)
        if math.prod(shape) != len(self._devices):
            raise UserError(_misfit(shape, self.topology))
        return create_mesh(settings, self._devices)

    def cost(self, mesh: Mesh, function: Any, *arguments: Any, flops: int) -> Cost:
        """Compiles a jitted function.

        Args:
          mesh: over this topology.
          function: from `jax.jit`.
          arguments: shapes with shardings.
          flops: operations of one run over all chips, 0 where unknown.

        Raises:
          UserError: the compiler refuses the program for another reason than memory.

        """
        with jax.set_mesh(mesh):
            lowered = function.lower(*arguments)
        digest = hashlib.sha256(lowered.as_text().encode()).hexdigest()
        if digest not in self._costs:
            begin = time.perf_counter()
            try:
                compiled = lowered.compile()
            except jax.errors.JaxRuntimeError as error:
                seconds = time.perf_counter() - begin
                self._costs[digest] = _failed(error, self.topology, arguments, seconds)
            else:
                seconds = time.perf_counter() - begin
                self._costs[digest] = _measure(compiled, self.topology, mesh, flops, seconds)
        return self._costs[digest]


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
    mesh = compiler.mesh(experiment)
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
    flops = _flops(experiment, mesh)
    cost = compiler.cost(mesh, program.jit_step(), program.abstract, program.batch, flops=flops)
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
        model_flops=_flops(_without_remat(experiment), mesh),
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
    sharding = batch_sharding(program.mesh)
    batch = {
        name: jax.ShapeDtypeStruct(entry.shape, entry.dtype, sharding=sharding)
        for name, entry in program.task.input_spec(size).items()
    }
    predict = jax.jit(program.task.predict, out_shardings=sharding)
    return compiler.cost(program.mesh, predict, program.abstract.variables(), batch, flops=0)


def _flops(experiment: Experiment, mesh: Mesh) -> int:
    """Operations of a step over all chips.

    Micro-batches do the same work in parts; they are counted as one batch, since tracing them shows a forward
    pass more (for the weights of the loss) than the compiler keeps.
    """
    if experiment.train.accumulate > 1:
        experiment = override(experiment, _nested("train.accumulate", 1))
    return step_flops(create_program(experiment, mesh, platform="tpu"))


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


def _measure(compiled: Any, topology: Topology, mesh: Mesh, flops: int, seconds: float) -> Cost:
    """Reads everything a compiled program tells about itself."""
    text, analysis, stats = compiled.as_text(), compiled.cost_analysis(), compiled.memory_analysis()
    program, devices = parse_program(text), topology.chip.devices
    flat = list(mesh.devices.flat)
    slice_of = [getattr(device, "slice_index", None) or 0 for device in flat]
    collectives = tuple(find_collectives(program, slice_of))
    counted = flops / topology.num_devices
    printed = max(analysis.get("flops", 0.0), 1.0)
    # XLA counts the body of a loop once; what is computed tells how much more is done.
    unrolled = max(1.0, counted / printed) if program.loops else 1.0
    per_chip = max(counted, printed) * devices
    accessed = analysis.get("bytes accessed", 0.0) * unrolled * devices
    return Cost(
        memory=Memory(
            arguments=stats.argument_size_in_bytes * devices,
            outputs=(stats.output_size_in_bytes - stats.alias_size_in_bytes) * devices,
            temporaries=stats.temp_size_in_bytes * devices,
            generated_code=stats.generated_code_size_in_bytes * devices,
            limit=topology.chip.hbm_bytes,
        ),
        compiled=True,
        flops=per_chip,
        bytes_accessed=accessed,
        collectives=collectives,
        unknown_loops=program.loops.count(None),
        roofline=roofline(
            topology,
            [tuple(device.coords) for device in flat],
            flops=per_chip,
            bytes_accessed=accessed,
            collectives=collectives,
        ),
        compile_seconds=seconds,
    )


def _failed(error: Exception, topology: Topology, arguments: Any, seconds: float) -> Cost:
    """What is known of a program for which there is not enough memory."""
    found = _OUT_OF_MEMORY.search(str(error))
    if not found:
        reason = str(error).splitlines()[0]
        raise UserError(f"offsites plan: the TPU compiler refuses the program: {reason}") from error
    amount, unit = (group for group in found.groups() if group)
    devices = topology.chip.devices
    total = int(float(amount) * _UNITS[unit]) * devices
    held = min(total, sum(map(_held, jax.tree.leaves(arguments))) * devices)
    memory = Memory(held, 0, total - held, 0, topology.chip.hbm_bytes)
    return Cost(memory, False, 0.0, 0.0, (), 0, None, seconds)


def _held(leaf: jax.ShapeDtypeStruct) -> int:
    """Bytes of one device's part of an array."""
    assert leaf.sharding is not None
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _is_open(settings: Any) -> bool:
    return any(getattr(settings, axis) < 1 for axis in AXES)


def _sizes(settings: Any) -> tuple[int, ...]:
    return tuple(getattr(settings, axis) for axis in AXES)


def _misfit(shape: Sequence[int], topology: Topology) -> str:
    sizes = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    wanted, rest = topology.num_devices, topology.slices * shape[2] * shape[3]
    data = f"={wanted // rest}" if wanted % rest == 0 else " and --config.mesh.fsdp"
    return (
        f"config.mesh: {sizes} takes {math.prod(shape)} devices, but {topology.name} with {topology.slices} "
        f"slice(s) has {wanted}; set --config.mesh.data{data}"
    )
