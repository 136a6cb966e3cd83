"""Programs compiled ahead of time for TPUs that are not there, and what the compiled programs tell.

A compile proves that a program partitions and fits; it gives no speed. The least time a program can take is
`roofline`'s, from published peaks.
"""

import dataclasses
import math
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from offsites_jax.errors import UserError
from offsites_jax.parallel import kept_costs
from offsites_jax.parallel.collectives import Collective, find_collectives
from offsites_jax.parallel.hlo import parse_program
from offsites_jax.parallel.mesh import AXES, MeshSettings, create_mesh, mesh_shape
from offsites_jax.parallel.roofline import Roofline, roofline
from offsites_jax.parallel.topology import Topology, describe_devices
from offsites_jax.parallel.traffic import hbm_traffic

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
      flops: operations in matrix products and convolutions.
      xla_flops: operations as XLA counts them: elementwise ones too, but the body of a loop once.
      bytes_accessed: between the chip and its HBM, by `traffic`.
      xla_bytes_accessed: XLA's count, which takes on-chip memory for HBM and the body of a loop once.
      collectives: of one device.
      unknown_loops: loops whose length could not be told; what is inside counts once.
      roofline: the least time it can take; None when it did not compile.
      compile_seconds: what compiling took here.

    """

    memory: Memory
    compiled: bool
    flops: float
    xla_flops: float
    bytes_accessed: float
    xla_bytes_accessed: float
    collectives: tuple[Collective, ...]
    unknown_loops: int
    roofline: Roofline | None
    compile_seconds: float

    @property
    def fits(self) -> bool:
        """Whether a chip has the memory."""
        return self.compiled and self.memory.total <= self.memory.limit


class Compiler:
    """Compiles for one topology; a program that has been compiled before costs nothing.

    Args:
      topology: the chips to compile for.
      kept: folder of costs that outlive the process, or None.

    Raises:
      UserError: the TPU compiler is not installed.

    """

    def __init__(self, topology: Topology, kept: epath.Path | None = None) -> None:
        self.topology = topology
        self.kept = kept
        self._devices = describe_devices(topology)
        self._costs: dict[str, Cost] = {}

    def mesh(self, settings: MeshSettings) -> Mesh:
        """A mesh laid over the devices.

        Raises:
          UserError: it does not take up the topology exactly.

        """
        settings = dataclasses.replace(settings, slices=self.topology.slices)
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
          flops: operations of one run over all chips, repeated ones included.

        Raises:
          UserError: the compiler refuses the program for another reason than memory.

        """
        with jax.set_mesh(mesh):
            lowered = function.lower(*arguments)
        name = kept_costs.digest(
            lowered.as_text(), f"{self.topology.name} x {self.topology.slices}", mesh.shape
        )
        if name not in self._costs:
            known = kept_costs.read(self.kept, name, Cost) if self.kept else None
            self._costs[name] = known or self._compile(lowered, mesh, arguments, flops)
            if self.kept and not known:
                kept_costs.write(self.kept, name, self._costs[name])
        return self._costs[name]

    def _compile(self, lowered: Any, mesh: Mesh, arguments: Any, flops: int) -> Cost:
        begin = time.perf_counter()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            return _failed(error, self.topology, arguments, time.perf_counter() - begin)
        return _measure(compiled, self.topology, mesh, flops, time.perf_counter() - begin)


def _measure(compiled: Any, topology: Topology, mesh: Mesh, flops: int, seconds: float) -> Cost:
    """Reads everything a compiled program tells about itself."""
    text, analysis, stats = compiled.as_text(), compiled.cost_analysis(), compiled.memory_analysis()
    program, devices = parse_program(text), topology.chip.devices
    flat = list(mesh.devices.flat)
    slice_of = [getattr(device, "slice_index", None) or 0 for device in flat]
    collectives = tuple(find_collectives(program, slice_of))
    per_chip, accessed = flops / topology.num_chips, hbm_traffic(program) * devices
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
        xla_flops=analysis.get("flops", 0.0) * devices,
        bytes_accessed=accessed,
        xla_bytes_accessed=analysis.get("bytes accessed", 0.0) * devices,
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
        raise UserError(f"the TPU compiler refuses the program: {reason}") from error
    amount, unit = (group for group in found.groups() if group)
    devices = topology.chip.devices
    total = int(float(amount) * _UNITS[unit]) * devices
    held = min(total, sum(map(_held, jax.tree.leaves(arguments))) * devices)
    memory = Memory(held, 0, total - held, 0, topology.chip.hbm_bytes)
    return Cost(memory, False, 0.0, 0.0, 0.0, 0.0, (), 0, None, seconds)


def _held(leaf: jax.ShapeDtypeStruct) -> int:
    """Bytes of one device's part of an array."""
    assert leaf.sharding is not None
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _is_open(settings: MeshSettings) -> bool:
    return any(getattr(settings, axis) < 1 for axis in AXES)


def _sizes(settings: MeshSettings) -> tuple[int, ...]:
    return tuple(getattr(settings, axis) for axis in AXES)


def _misfit(shape: Sequence[int], topology: Topology) -> str:
    sizes = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    wanted, rest = topology.num_devices, topology.slices * shape[2] * shape[3]
    data = f"={wanted // rest}" if wanted % rest == 0 else " and --config.mesh.fsdp"
    return (
        f"config.mesh: {sizes} takes {math.prod(shape)} devices, but {topology.name} with {topology.slices} "
        f"slice(s) has {wanted}; set --config.mesh.data{data}"
    )
