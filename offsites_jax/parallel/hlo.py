"""Reading the text of a compiled XLA program: its computations, how often each runs, shapes, device groups.

Only what is printed is known. The text of XLA:TPU carries no trip counts, but the condition of a loop made by
`scan` or `fori_loop` compares its counter with a constant, which is the count.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from offsites_jax.errors import UserError

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLS = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_LOOP = re.compile(r" while\(.*\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_INTEGER = re.compile(r" = [su]\d+\[\]\S* constant\((\d+)\)")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,<=]*)\]")
_IOTA = re.compile(r"(?:\[([\d,]+)\]<=)?\[([\d,]+)\](?:T\(([\d,]+)\))?")

_MESH = re.compile(r"mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}")

Group = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled module.

    Attributes:
      computations: lines of each computation, by name.
      entry: the computation that runs.

    """

    computations: Mapping[str, tuple[str, ...]]
    entry: str

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """How often one call of the program runs each computation; loops of unknown length count once."""
        callers: dict[str, list[tuple[str, int]]] = {name: [] for name in self.computations}
        for caller, lines in self.computations.items():
            for callee, times in itertools.chain.from_iterable(map(self._callees, lines)):
                callers.setdefault(callee, []).append((caller, times))

        @functools.cache
        def count(name: str) -> int:
            return sum(times * count(caller) for caller, times in callers[name]) + (name == self.entry)

        return {name: count(name) for name in self.computations}

    @functools.cached_property
    def loops(self) -> tuple[int | None, ...]:
        """Trips of each loop; None where the text does not tell."""
        lines = itertools.chain.from_iterable(self.computations.values())
        return tuple(self._trips(line) for line in lines if _LOOP.search(line))

    def _callees(self, line: str) -> Iterator[tuple[str, int]]:
        """Computations that one instruction runs, and how often."""
        if loop := _LOOP.search(line):
            times = self._trips(line) or 1
            yield from ((loop[1], times), (loop[2], times))
            return
        yield from ((name, 1) for name in _CALLS.findall(line))
        for names in _BRANCHES.findall(line):
            yield from ((name.strip().lstrip("%"), 1) for name in names.split(",") if name.strip())

    def _trips(self, line: str) -> int | None:
        """Trips of a loop: as printed, or the one constant its condition compares the counter with."""
        if known := _KNOWN_TRIPS.search(line):
            return int(known[1])
        loop = _LOOP.search(line)
        condition = self.computations.get(loop[1], ()) if loop else ()
        constants = {int(found[1]) for text in condition if (found := _INTEGER.search(text))}
        below = any("direction=LT" in text for text in condition)
        return constants.pop() if below and len(constants) == 1 else None


def parse_program(text: str) -> Program:
    """Splits the text of a module into its computations."""
    computations: dict[str, tuple[str, ...]] = {}
    entry, name = "", ""
    lines: list[str] = []
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name, lines = header[2], []
            entry = name if header[1] else entry
        elif line == "}":
            computations[name] = tuple(lines)
        elif line.startswith(" "):
            lines.append(line)
    return Program(computations, entry)


def shape_bytes(shape: str) -> int:
    """Bytes of the arrays in a printed shape, such as 96 for `(f32[8]{0}, bf16[4,8]{1,0:T(8,128)})`."""
    return sum(
        math.prod(int(size.removeprefix("<=")) for size in sizes.split(",") if size)
        * _bits(dtype, width)
        // 8
        for dtype, width, sizes in _ARRAY.findall(shape)
    )


def _bits(dtype: str, width: str) -> int:
    return 8 if dtype == "pred" else int(width)


def tuple_elements(shape: str) -> list[str]:
    """The elements of a printed tuple, one level deep; an array is its own only element."""
    if not shape.startswith("("):
        return [shape]
    elements, depth, start = [], 0, 1
    for position, letter in enumerate(shape):
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or (letter == ")" and depth == 0):
            elements.append(shape[start:position].strip())
            start = position + 1
    return elements


def parse_groups(line: str, num_devices: int) -> tuple[Group, ...]:
    """Which devices talk to each other, from the attributes of a collective.

    Groups are printed as lists `{{0,1},{2,3}}`, as an iota `[2,2]<=[4]`, or as axes of a mesh
    `mesh['a'=2,'b'=2] {'b'}`, where `'a':(2)4` is the part of size 4 of an axis behind one of size 2. No
    groups at all are one of everybody. Pairs of a permutation are groups of two.
    """
    if pairs := re.search(r"source_target_pairs=\{(\{.*?\})\}", line):
        return _lists(pairs[1])
    found = re.search(r"replica_groups=(.*)", line)
    attribute = found[1] if found else "{}"
    if attribute.startswith("mesh["):
        return _mesh_groups(attribute)
    if attribute.startswith("["):
        return _rows(_iota(attribute))
    listed = re.match(r"\{(\{.*?\})\}", attribute)
    return _lists(listed[1]) if listed else (tuple(range(num_devices)),)


def _lists(text: str) -> tuple[Group, ...]:
    return tuple(tuple(map(int, row.split(","))) for row in re.findall(r"\{([\d,]+)\}", text))


def _rows(array: np.ndarray) -> tuple[Group, ...]:
    return tuple(tuple(row) for row in array.reshape(-1, array.shape[-1]).tolist())


def _iota(text: str) -> np.ndarray:
    """`[2,4]<=[4,2]T(1,0)`: count up in the second shape, transpose, reshape to the first if there is one."""
    found = _matched(_IOTA, text)
    source = _ints(found[2])
    values = np.arange(math.prod(source)).reshape(source)
    values = values.transpose(_ints(found[3]) if found[3] else range(len(source)))
    return values.reshape(_ints(found[1])) if found[1] else values


def _mesh_groups(text: str) -> tuple[Group, ...]:
    found = _matched(_MESH, text)
    sizes = dict(axis.rsplit("=", 1) for axis in found[1].split(","))
    taken = [re.fullmatch(r"(.*?)(?::\((\d+)\)(\d+))?", axis) for axis in found[3].split(",") if axis]
    parts: list[int] = []
    inner: list[int] = []  # dimensions, among `parts`, that a group spans
    for axis, size in sizes.items():
        for before, length in _cuts(int(size), [t for t in taken if t and t[1] == axis]):
            inner += [len(parts) + 1] if length > 1 else []
            parts += [before, length]
    outer = [i for i in range(len(parts)) if i not in inner]
    devices = _device_ids(found[2], math.prod(parts)).reshape(parts)
    return _rows(devices.transpose(outer + inner).reshape(-1, math.prod(parts[i] for i in inner)))


def _cuts(size: int, taken: list[re.Match[str]]) -> list[tuple[int, int]]:
    """An axis as (left out, taken) sizes in order; what is left out at the end comes as (rest, 1)."""
    cuts, done = [], 1
    for part in sorted(taken, key=lambda part: int(part[2] or 1)):
        before, length = int(part[2] or 1), int(part[3] or size)
        cuts.append((before // done, length))
        done = before * length
    return [*cuts, (size // done, 1)]


def _matched(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    found = pattern.match(text)
    if not found:
        raise UserError(
            f"cannot read {text[:80]!r} in a compiled program: use the libtpu that jax[tpu] asks for"
        )
    return found


def _device_ids(text: str | None, count: int) -> np.ndarray:
    if not text:
        return np.arange(count)
    return (
        _iota(text)
        if text.startswith("[")
        else np.array([int(number) for number in re.findall(r"\d+", text)])
    )


def _ints(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))
