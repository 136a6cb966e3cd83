"""What a compiled TPU program moves between a chip and its HBM, instruction by instruction.

XLA's own count, "bytes accessed", is no measure of that. It takes every operand and result alike, wherever
it lives, though the compiler keeps what it can in the chip's vector memory (VMEM, printed as memory space 1),
many times as fast; and it counts a copy between the two at both of its ends, and again where it is waited
for. Here an array counts where an instruction reads it from HBM or writes it there, in the size it has there:
an axis laid out along the 128 lanes of a tile takes whole tiles.

One fused instruction is taken to read each operand once. That can be too little (a convolution may fetch rows
again), never too much, so a time that follows from it is a floor.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from offsites_jax.parallel.hlo import Program, shape_bytes, tuple_elements

_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\bcalls=%?([\w.\-]+)")
_LAYOUT = re.compile(r"\[([\d,]*)\]\{([\d,]*)(?::T\(([\d,]+)\))?")
_SPACE = re.compile(r"S\((\d+)\)")

# Names, waits and control move nothing; what a loop or a branch does is counted inside it.
_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id"),
    *("while", "conditional", "call", "after-all", "opt-barrier", "domain", "add-dependency"),
)
_COPIES = ("copy-start", "slice-start")
_PARTS = ("dynamic-slice", "slice", "gather")
_VIEWS = ("bitcast", "reshape")


class Instruction(NamedTuple):
    """One line of a computation: its result's name and shape, what it does, to what, and the rest."""

    name: str
    shape: str
    kind: str
    operands: tuple[str, ...]
    attributes: str
    root: bool


def hbm_traffic(program: Program) -> float:
    """Bytes between one device and its HBM in a run of the program; unknown loops count once."""
    fused = _fused(program)
    return sum(
        times * _computation_traffic(program, program.computations[name])
        for name, times in program.runs.items()
        if times and name not in fused
    )


def hbm_bytes(shape: str) -> float:
    """Bytes of HBM that the arrays of a printed shape take; 0 for those in another memory.

    For example 2,048 for `bf16[8,24]{1,0:T(8,128)(2,1)}`, whose 24 columns fill 128 lanes.
    """
    return sum(_array_bytes(element) for element in tuple_elements(shape) if not _SPACE.search(element))


def _array_bytes(shape: str) -> float:
    layout = _LAYOUT.search(shape)
    if not layout or not layout[1] or not layout[3]:
        return shape_bytes(shape)
    sizes = [int(size) for size in layout[1].split(",")]
    padded = list(sizes)
    tile = [int(size) for size in layout[3].split(",")]
    for axis, width in zip(map(int, layout[2].split(",")), reversed(tile), strict=False):
        padded[axis] = -(-sizes[axis] // width) * width
    return shape_bytes(shape) * math.prod(padded) / max(math.prod(sizes), 1)


def _fused(program: Program) -> set[str]:
    """Computations that run inside an instruction: what passes between their lines moves nowhere."""
    inside = set()
    for line in (line for lines in program.computations.values() for line in lines):
        instruction = _parse(line)
        if instruction and instruction.kind not in _FREE:
            inside.update(_CALLED.findall(line))
            inside.update(re.findall(r"\bto_apply=%?([\w.\-]+)", line))
    return inside


def _computation_traffic(program: Program, lines: Sequence[str]) -> float:
    shapes, total = {}, 0.0
    for instruction in _instructions(lines):
        shapes[instruction.name] = instruction.shape
        total += _traffic(program, instruction, shapes)
    return total


def _traffic(program: Program, instruction: Instruction, shapes: Mapping[str, str]) -> float:
    kind = instruction.kind
    if kind in _FREE or kind.endswith("-done") or "ConcatBitcast" in instruction.attributes:
        return 0.0
    operands = {name: shapes.get(name, "") for name in instruction.operands}
    if kind in _COPIES:
        return _copy_traffic(instruction, next(iter(operands.values())))
    if kind in _PARTS:
        return 2 * hbm_bytes(instruction.shape) if any(map(hbm_bytes, operands.values())) else 0.0
    if kind == "dynamic-update-slice":  # in place: only the part is written
        return 2 * hbm_bytes(list(operands.values())[1])
    if kind == "fusion":
        return _fusion_traffic(program, instruction, shapes)
    # An asynchronous start repeats its operands in its result.
    written = 0.0 if kind.endswith("-start") else hbm_bytes(instruction.shape)
    return written + sum(map(hbm_bytes, operands.values()))


def _copy_traffic(copy: Instruction, source: str) -> float:
    """Of a copy between memories: what it takes at each end that is in HBM."""
    first, second, *_ = tuple_elements(copy.shape)
    target = first if copy.kind == "copy-start" else second
    size = _array_bytes(target)
    return sum(size for end in (source, target) if not _SPACE.search(end))


class _Body:
    """The inside of a fusion: its lines by name, the uses of each, its parameters and its results."""

    def __init__(self, program: Program, fusion: Instruction) -> None:
        called = _CALLED.search(fusion.attributes)
        lines = tuple(_instructions(program.computations[called[1]])) if called else ()
        self.program = program
        self.named = {line.name: line for line in lines}
        self.users: dict[str, list[Instruction]] = {}
        for line in lines:
            for name in set(line.operands):
                self.users.setdefault(name, []).append(line)
        # The number stands where operands would: parameter(3).
        inputs = [line for line in lines if line.kind == "parameter"]
        self.parameters = {int(line.attributes.split(")")[0]): line.name for line in inputs}
        root = next(line for line in lines if line.root)
        self.results = root.operands if root.kind == "tuple" else (root.name,)


def _fusion_traffic(program: Program, fusion: Instruction, shapes: Mapping[str, str]) -> float:
    """Operands, of which perhaps only a part is read, and results, of which perhaps only a part is new."""
    body, total = _Body(program, fusion), 0.0
    for number, name in enumerate(fusion.operands):
        whole = hbm_bytes(shapes.get(name, ""))
        parts = list(_parts_read(body, body.parameters[number])) if whole else []
        total += whole if None in parts else min(whole, sum(map(float, filter(None, parts))))
    for result, shape in zip(body.results, tuple_elements(fusion.shape), strict=False):
        updated = None if _SPACE.search(shape) else _part_updated(body, result)
        total += hbm_bytes(shape) if updated is None else updated
    return total


def _parts_read(body: _Body, name: str) -> Iterator[float | None]:
    """Bytes that each use of a value reads of it; None for all of it."""
    for user in body.users.get(name, ()):
        if user.kind in _VIEWS:
            yield from _parts_read(body, user.name)
        elif user.kind == "fusion":
            inner = _Body(body.program, user)
            places = (number for number, operand in enumerate(user.operands) if operand == name)
            for number in places:
                yield from _parts_read(inner, inner.parameters[number])
        elif user.kind in _PARTS and user.operands[0] == name:
            yield _array_bytes(user.shape)
        elif user.kind == "dynamic-update-slice" and user.operands[0] == name:
            yield 0.0  # updated in place
        else:
            yield None


def _part_updated(body: _Body, result: str) -> float | None:
    """Bytes of a result that are new where it is an array updated in place; None for all of it."""
    source = body.named[result]
    while source.kind in _VIEWS:
        source = body.named[source.operands[0]]
    if source.kind == "dynamic-update-slice":
        return _array_bytes(body.named[source.operands[1]].shape)
    if source.kind == "fusion":
        inner = _Body(body.program, source)
        return _part_updated(inner, inner.results[0])
    return None


def _instructions(lines: Sequence[str]) -> Iterator[Instruction]:
    return filter(None, map(_parse, lines))


def _parse(line: str) -> Instruction | None:
    found = _INSTRUCTION.match(line)
    if not found:
        return None
    root, name, shape, kind, rest = found.groups()
    # Operands end with the first closing bracket that is not inside a printed shape or layout.
    operands = tuple(_OPERAND.findall(rest.split("), ")[0]))
    return Instruction(name, shape, kind, operands, rest, bool(root))
