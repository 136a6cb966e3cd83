"""Several layouts of one experiment on the same chips, compiled one after the other and compared.

A batch of another size is another training recipe; the sweep shows what it would cost, not that it would
learn as well.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from offsites_jax.errors import UserError
from offsites_jax.parallel.compiler import Compiler, Cost
from offsites_jax.parallel.mesh import MeshSettings
from offsites_jax.parallel.topology import Topology
from offsites_jax.train.config import Experiment
from offsites_jax.train.plan import override, train_cost, with_remat


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One layout, compiled.

    Attributes:
      mesh: sizes of its axes, by name.
      batch_size: rows of a global batch.
      remat: policy of the model's option, "" as the experiment has it.
      cost: of the train step.
      samples_per_second_per_chip: at the roofline; 0 when it does not fit.

    """

    mesh: Mapping[str, int]
    batch_size: int
    remat: str
    cost: Cost
    samples_per_second_per_chip: float


def sweep(
    experiment: Experiment,
    compiler: Compiler,
    *,
    meshes: Sequence[MeshSettings],
    batch_sizes: Sequence[int],
    policies: Sequence[str] = ("",),
    notify: Callable[[str], None] = lambda line: None,
) -> list[Candidate]:
    """Compiles the train step of every combination; of a layout that does not fit, no larger batch is tried.

    Args:
      experiment: at the stage to plan.
      compiler: for the topology.
      meshes: layouts that take it up exactly.
      batch_sizes: global batch sizes, in any order; what a layout cannot divide is left out.
      policies: of the model's option `remat`; "" leaves it alone.
      notify: told each result, as one line.

    Raises:
      UserError: nothing is left to try, or the model has no such option.

    """
    found: list[Candidate] = []
    refusals: list[UserError] = []
    for policy, mesh in itertools.product(policies, meshes):
        chosen = with_remat(experiment, policy) if policy else experiment
        for size in sorted(batch_sizes):
            try:
                candidate = _compile(chosen, compiler, mesh, size, policy)
            except UserError as error:
                refusals.append(error)
                notify(f"{_layout(dataclasses.asdict(mesh), size, policy)}: left out; {error}")
                continue
            found.append(candidate)
            notify(describe(candidate))
            if not candidate.cost.fits:
                break
    if not found:
        raise refusals[-1] if refusals else UserError("--sweep: there is no mesh or batch size to try")
    return found


def frontier(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that fit and that no other one beats in both speed and memory, fastest first."""
    fitting = sorted(
        (c for c in candidates if c.cost.fits),
        key=lambda c: (-c.samples_per_second_per_chip, c.cost.memory.total),
    )
    best: list[Candidate] = []
    for candidate in fitting:
        if not best or candidate.cost.memory.total < best[-1].cost.memory.total:
            best.append(candidate)
    return best


def sensible_meshes(experiment: Experiment, topology: Topology) -> list[MeshSettings]:
    """The experiment's own layout where it fits, and powers of four for `fsdp` up to a whole slice.

    The axis `tensor` is tried up to 8 where a sharding rule names it; else it would only repeat work.
    """
    devices = topology.num_devices // topology.slices
    named = any("tensor" in str(spec) for _, spec in experiment.sharding.rules)
    own = experiment.mesh
    tensors = {1, *((2, 4, 8) if named else ()), max(own.tensor, 1)}
    fsdps = {*(4**k for k in range(devices.bit_length())), devices, max(own.fsdp, 1)}
    return [
        MeshSettings(data=devices // (fsdp * tensor), fsdp=fsdp, tensor=tensor, slices=topology.slices)
        for tensor in sorted(tensors)
        for fsdp in sorted(fsdps)
        if devices % (fsdp * tensor) == 0
    ]


def sensible_batch_sizes(experiment: Experiment) -> list[int]:
    """The experiment's own batch size, half and twice of it."""
    size = experiment.train.batch_size
    return [size // 2, size, 2 * size] if size % 2 == 0 else [size, 2 * size]


def describe(candidate: Candidate) -> str:
    """A candidate in one line."""
    memory = candidate.cost.memory
    verdict = f"{candidate.samples_per_second_per_chip:.4g} samples/s/chip at most"
    if not candidate.cost.fits:
        verdict = f"does not fit: {(memory.total - memory.limit) / 2**20:,.0f} MiB too much"
    return (
        f"{_layout(candidate.mesh, candidate.batch_size, candidate.remat)}: {memory.total / 2**20:,.0f} MiB, "
        f"{verdict} ({candidate.cost.compile_seconds:.0f} s to compile)"
    )


def _layout(mesh: Mapping[str, int], batch_size: int, remat: str) -> str:
    sizes = " ".join(f"{axis}={mesh[axis]}" for axis in ("data", "fsdp", "tensor"))
    return f"{sizes} batch={batch_size}" + (f" remat={remat}" if remat else "")


def _compile(
    experiment: Experiment, compiler: Compiler, settings: MeshSettings, size: int, policy: str
) -> Candidate:
    changes = {"mesh": dataclasses.asdict(settings), "train": {"batch_size": size}}
    chosen = override(experiment, changes)
    mesh = compiler.mesh(chosen.mesh)
    _, cost, _ = train_cost(chosen, compiler, mesh)
    seconds = cost.roofline.seconds if cost.roofline and cost.fits else math.inf
    return Candidate(dict(mesh.shape), size, policy, cost, size / seconds / compiler.topology.num_chips)
