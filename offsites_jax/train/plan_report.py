"""A plan as text and as JSON."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from offsites_jax.parallel.collectives import Collective
from offsites_jax.parallel.compiler import Cost
from offsites_jax.parallel.mesh import AXES
from offsites_jax.parallel.rules import Row, table
from offsites_jax.parallel.topology import Topology
from offsites_jax.train.plan import Plan, StagePlan, describe
from offsites_jax.train.plan_sweep import Candidate, frontier

FOOTER = """\
Memory, partitioning and collectives are read from the program XLA:TPU compiled for these chips. Times are
not measured: they are the floor set by published peaks (arithmetic, HBM, ICI and DCN, perfectly
overlapped). Nothing was run, and a real step is slower."""

FEW_MESSAGES = 8  # over DCN, where each mostly waits


def to_json(plan: Plan, price: float = 0.0) -> dict[str, Any]:
    """The plan as plain values; times in seconds, amounts in bytes and operations.

    Args:
      plan: what to tell.
      price: of a chip for an hour, in USD; 0 where unknown.

    """
    chip_hours = run_chip_hours(plan)
    return {
        "topology": plan.topology.name,
        "slices": plan.topology.slices,
        "num_chips": plan.topology.num_chips,
        "mesh": {axis: plan.mesh.shape[axis] for axis in AXES},
        "stages": [_stage_json(stage, plan) for stage in plan.stages],
        "whole_run": plan.whole_run,
        "chip_hours": chip_hours,
        "cost_usd": chip_hours * price if price and chip_hours is not None else None,
        "hints": hints(plan),
        "note": FOOTER.replace("\n", " "),
    }


def hints(plan: Plan) -> list[str]:
    """What a setting could save that these stages leave to the compiler."""
    automatic = [s for s in plan.stages if s.program.experiment.train.slice_reduction == "auto"]
    crossing = max((messages_between_slices(stage.train.collectives) for stage in automatic), default=0)
    if crossing <= FEW_MESSAGES:
        return []
    return [
        f"{crossing} messages cross slices in a step, each with its own delay: "
        "--config.train.slice_reduction=float32 sends all gradients in few"
    ]


def messages_between_slices(collectives: Sequence[Collective]) -> int:
    """How many a step sends over the data-centre network."""
    return sum(collective.times for collective in collectives if collective.network == "dcn")


def sweep_json(candidates: Sequence[Candidate], topology: Topology, stage: str) -> dict[str, Any]:
    """A sweep as plain values; `pareto` are positions in `candidates`."""
    return {
        "topology": topology.name,
        "slices": topology.slices,
        "num_chips": topology.num_chips,
        "stage": stage,
        "candidates": [
            {
                "mesh": dict(candidate.mesh),
                "batch_size": candidate.batch_size,
                "remat": candidate.remat or None,
                "samples_per_second_per_chip": candidate.samples_per_second_per_chip,
                **_cost_json(candidate.cost, topology),
            }
            for candidate in candidates
        ],
        "pareto": [candidates.index(candidate) for candidate in frontier(candidates)],
        "note": FOOTER.replace("\n", " "),
    }


def render(plan: Plan, price: float = 0.0) -> str:
    """The plan as tables."""
    parts = [f"{plan.stages[0].program.experiment.project} on {describe(plan.topology, plan.mesh)}", ""]
    parts += _aligned(
        [("stage", "steps", "batch", "HBM", "fits", "floor", "bound by", "MFU", "samples/s/chip", "compile")]
        + [_stage_row(stage, plan.topology) for stage in plan.stages]
    )
    for stage in plan.stages:
        parts += ["", f"stage {stage.name}", *_details("train step", stage.train, plan)]
        parts += _details("predict", stage.predict, plan)
    advice = [line for hint in hints(plan) for line in (hint, "")]
    return "\n".join([*parts, "", *_bill(plan, price), *advice, FOOTER])


def render_sweep(candidates: Sequence[Candidate], topology: Topology, stage: str) -> str:
    """All candidates, fastest first, with a star at those that nothing beats in speed and memory."""
    best = frontier(candidates)
    ordered = sorted(candidates, key=lambda c: (-c.samples_per_second_per_chip, c.cost.memory.total))
    rows: list[tuple[str, ...]] = [
        ("", "data", "fsdp", "tensor", "batch", "remat", "HBM", "fits", "floor", "bound by", "samples/s/chip")
    ]
    rows += [("*" if candidate in best else "", *_candidate_row(candidate)) for candidate in ordered]
    slices = f" x {topology.slices} slices" if topology.slices > 1 else ""
    header = f"stage {stage} on {topology.name}{slices} ({topology.num_chips} chips)"
    return "\n".join([header, "", *_aligned(rows), "", "* not beaten in both speed and memory", FOOTER])


def shardings_json(plan: Plan) -> list[dict[str, Any]]:
    """Every parameter with its sharding and what a device holds of it."""
    return [
        {
            "name": r.name,
            "shape": list(r.shape),
            "dtype": r.dtype,
            "spec": str(r.spec),
            "bytes": r.bytes_per_device,
        }
        for r in _sharding_rows(plan)
    ]


def render_shardings(plan: Plan) -> str:
    """The table of parameters, and what a device holds of each part of the state."""
    cells = [("parameter", "shape", "dtype", "sharding", "bytes on a device")]
    cells += [
        (row.name, "x".join(map(str, row.shape)), row.dtype, str(row.spec), f"{row.bytes_per_device:,}")
        for row in _sharding_rows(plan)
    ]
    state = plan.stages[0].program.abstract
    held = {"parameters": state.params, "optimizer": state.opt_state, "average": state.ema}
    totals = ", ".join(f"{name} {amount(_held(part))}" for name, part in held.items())
    return "\n".join([*_aligned(cells), f"on each device: {totals}"])


def run_chip_hours(plan: Plan) -> float | None:
    """Chip-hours of the planned stages at their floors; None when one of them does not fit."""
    seconds = [stage.steps * stage.train.roofline.seconds for stage in plan.stages if stage.train.roofline]
    if len(seconds) < len(plan.stages) or not all(stage.train.fits for stage in plan.stages):
        return None
    return sum(seconds) * plan.topology.num_chips / 3600


def amount(size: float) -> str:
    """Bytes for people: "1.50 GiB"."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size:.0f} B"


def scaled(value: float) -> str:
    """A number with its decimal prefix: "1.5 G"."""
    for prefix, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.3g} "


def duration(seconds: float) -> str:
    """Seconds for people: "1.50 ms"."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def _stage_json(stage: StagePlan, plan: Plan) -> dict[str, Any]:
    seconds = stage.train.roofline.seconds if stage.train.roofline else None
    rate = stage.batch_size / seconds / plan.topology.num_chips if seconds else None
    return {
        "name": stage.name,
        "steps": stage.steps,
        "batch_size": stage.batch_size,
        "model_flops_per_step": stage.model_flops,
        "hardware_flops_per_step": stage.hardware_flops,
        "estimated_mfu": _mfu(stage, plan.topology),
        "samples_per_second_per_chip": rate,
        **_cost_json(stage.train, plan.topology, plan.mesh),
        "predict": _cost_json(stage.predict, plan.topology, plan.mesh),
    }


def _cost_json(cost: Cost, topology: Topology, mesh: Mesh | None = None) -> dict[str, Any]:
    memory = cost.memory
    return {
        "step_estimate_seconds": cost.roofline.seconds if cost.roofline else None,
        "bound": cost.roofline.bound if cost.roofline else None,
        "roofline_seconds": dataclasses.asdict(cost.roofline) if cost.roofline else None,
        "flops_per_chip": cost.flops,
        "xla_flops_per_chip": cost.xla_flops,
        "bytes_accessed_per_chip": cost.bytes_accessed,
        "xla_bytes_accessed_per_chip": cost.xla_bytes_accessed,
        "arithmetic_intensity": cost.flops / cost.bytes_accessed if cost.bytes_accessed else None,
        "ridge_intensity": _ridge(topology),
        "hbm_bytes_per_chip": {**dataclasses.asdict(memory), "total": memory.total},
        "fits": cost.fits,
        "exceeds_by_bytes": max(0, memory.total - memory.limit),
        "collectives": _by_kind(cost.collectives),
        **({"collectives_by_axis": _by_axis(cost.collectives, mesh)} if mesh else {}),
        "loops_of_unknown_length": cost.unknown_loops,
        "compile_seconds": cost.compile_seconds,
    }


def _by_kind(collectives: Sequence[Collective]) -> dict[str, dict[str, int]]:
    """Count and bytes on one device: in the program's text, and per step with loops unrolled."""
    kinds: dict[str, dict[str, int]] = {}
    for c in collectives:
        kind = kinds.setdefault(c.kind, collections.Counter())
        kind.update(count=1, bytes=c.bytes, count_per_step=c.times, bytes_per_step=c.times * c.bytes)
        kind.update({f"{n}_bytes_per_step": c.times * c.bytes * (c.network == n) for n in ("ici", "dcn")})
    return {name: dict(kind) for name, kind in kinds.items()}


def _by_axis(collectives: Sequence[Collective], mesh: Mesh) -> list[dict[str, Any]]:
    """The same per step, by kind and by the mesh axes that devices talk along; most bytes first."""
    rows: dict[tuple[str, str, str], dict[str, int]] = {}
    for c in collectives:
        row = rows.setdefault((c.kind, "+".join(_axes(c, mesh)), c.network), {"count": 0, "bytes": 0})
        row["count"] += c.times
        row["bytes"] += c.times * c.bytes
    named = [{"kind": k, "axes": axes, "network": network, **row} for (k, axes, network), row in rows.items()]
    return sorted(named, key=lambda row: -row["bytes"])


def _axes(collective: Collective, mesh: Mesh) -> list[str]:
    """The mesh axes along which the members of a group differ."""
    if not collective.groups:
        return ["slices"]
    group = max(collective.groups, key=len)
    places = np.stack(np.unravel_index(group, mesh.devices.shape))
    return [axis for axis, row in zip(mesh.axis_names, places, strict=True) if len(set(row.tolist())) > 1]


def _mfu(stage: StagePlan, topology: Topology) -> float | None:
    if not stage.train.roofline:
        return None
    return stage.model_flops / (stage.train.roofline.seconds * topology.num_chips * topology.chip.flops)


def _ridge(topology: Topology) -> float:
    """Operations per byte of HBM from which on arithmetic is the bound."""
    return topology.chip.flops / topology.chip.hbm_bandwidth


def _stage_row(stage: StagePlan, topology: Topology) -> tuple[str, ...]:
    cost, mfu = stage.train, _mfu(stage, topology)
    floor = cost.roofline.seconds if cost.roofline else 0.0
    return (
        stage.name,
        f"{stage.steps:,}",
        f"{stage.batch_size:,}",
        amount(cost.memory.total),
        _verdict(cost),
        duration(floor) if floor else "-",
        cost.roofline.bound if cost.roofline else "-",
        f"{100 * mfu:.1f} %" if mfu is not None else "-",
        f"{stage.batch_size / floor / topology.num_chips:,.0f}" if floor else "-",
        f"{cost.compile_seconds:.0f} s",
    )


def _candidate_row(candidate: Candidate) -> tuple[str, ...]:
    cost, mesh = candidate.cost, candidate.mesh
    rate = candidate.samples_per_second_per_chip
    return (
        *(str(mesh[axis]) for axis in ("data", "fsdp", "tensor")),
        f"{candidate.batch_size:,}",
        candidate.remat or "-",
        amount(cost.memory.total),
        _verdict(cost),
        duration(cost.roofline.seconds) if cost.roofline else "-",
        cost.roofline.bound if cost.roofline else "-",
        f"{rate:,.0f}" if rate else "-",
    )


def _verdict(cost: Cost) -> str:
    return "yes" if cost.fits else f"no, {amount(cost.memory.total - cost.memory.limit)} too much"


def _details(name: str, cost: Cost, plan: Plan) -> list[str]:
    """One program: its memory, its four floors, its collectives."""
    memory, topology = cost.memory, plan.topology
    parts = ("arguments", "outputs", "temporaries", "generated_code")
    sizes = ", ".join(f"{part.replace('_', ' ')} {amount(getattr(memory, part))}" for part in parts)
    lines = [f"  {name}", f"    HBM of a chip  {amount(memory.total)} of {amount(memory.limit)}: {sizes}"]
    if not cost.roofline:
        return lines
    floors = dataclasses.asdict(cost.roofline)
    intensity = cost.flops / cost.bytes_accessed if cost.bytes_accessed else 0.0
    lines += [
        "    at least       " + ", ".join(f"{name} {duration(floor)}" for name, floor in floors.items()),
        f"    a chip does    {scaled(cost.flops)}FLOP on {scaled(cost.bytes_accessed)}B of HBM: "
        f"{intensity:.3g} FLOP/B; {topology.chip.name} computes at full speed from {_ridge(topology):.0f}",
    ]
    rows = [
        (
            f"    {row['kind']}",
            f"over {row['axes']}",
            row["network"],
            f"{row['count']} x",
            amount(row["bytes"]),
        )
        for row in _by_axis(cost.collectives, plan.mesh)
    ]
    if cost.unknown_loops:
        lines.append(f"    {cost.unknown_loops} loop(s) of unknown length: what is inside is counted once")
    return lines + _aligned(rows)


def _bill(plan: Plan, price: float) -> list[str]:
    chip_hours = run_chip_hours(plan)
    if chip_hours is None:
        return []
    what = "whole run" if plan.whole_run else "planned stages"
    steps = sum(stage.steps for stage in plan.stages)
    cost = f", {chip_hours * price:,.4g} USD at {price:g} a chip-hour" if price else ""
    return [
        f"{what}: {steps:,} steps, at least {chip_hours:.4g} chip-hours{cost}; evaluation comes on top",
        "",
    ]


def _sharding_rows(plan: Plan) -> list[Row]:
    program = plan.stages[0].program  # parameters are the same in all stages
    return table(program.abstract.params, program.shardings.params)


def _held(tree: Any) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(row.bytes_per_device for row in table(leaves, [leaf.sharding for leaf in leaves]))


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest cell; cells that start with a digit are aligned to the right."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
