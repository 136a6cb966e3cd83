"""The collectives of a compiled program: what moves between devices, how much, over which network.

Three habits of XLA:TPU make counting by eye go wrong. An asynchronous collective is printed once for each
piece of work it overlaps with, always with the same channel. A reduce-scatter is printed as an all-reduce
inside a fusion named after it. And on several slices every slice has a program of its own, in which the part
of a collective that crosses the data-centre network is a `send` to the host.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence

from offsites_jax.parallel.hlo import Group, Program, parse_groups, shape_bytes, tuple_elements

_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>.+?) "
    r"(?P<kind>all-gather|all-reduce|reduce-scatter|ragged-all-to-all|all-to-all|collective-permute"
    r"|collective-broadcast|send)(?P<start>-start)?\("
)
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_DCN_KIND = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of the program every device runs.

    Attributes:
      kind: all-gather, all-reduce, reduce-scatter, all-to-all, collective-permute ...
      bytes: size on one device of what is gathered, reduced or exchanged: the whole result of an all-gather,
        the whole input of a reduce-scatter.
      groups: positions, in the mesh, of devices that talk to each other.
      network: "ici" within a slice, "dcn" between slices.
      times: how often a step runs it; loops of unknown length count once.

    """

    kind: str
    bytes: int
    groups: tuple[Group, ...]
    network: str
    times: int


def find_collectives(program: Program, slice_of: Sequence[int]) -> list[Collective]:
    """Each collective of a program once, in the order of the text.

    Args:
      program: compiled for these devices.
      slice_of: for each position in the mesh, the slice its device is in.

    """
    found: dict[tuple[str, str, int], Collective] = {}
    for computation, lines in program.computations.items():
        for line in lines:
            instruction = _INSTRUCTION.match(line)
            if not instruction or not program.runs[computation]:
                continue
            channel = _CHANNEL.search(line)
            name = channel[1] if channel else instruction["name"]
            for collective in _read(instruction, line, computation, slice_of, program.runs[computation]):
                # Instructions that were combined into one keep the channel of one of them.
                key = (instruction["kind"], name, collective.bytes)
                if key not in found or found[key].times < collective.times:
                    found[key] = collective
    return list(found.values())


def _read(
    instruction: re.Match[str], line: str, computation: str, slice_of: Sequence[int], times: int
) -> Iterator[Collective]:
    kind = instruction["kind"]
    if kind == "send":
        # Sends of another kind go to the host itself, not to another slice.
        if crossing := _DCN_KIND.search(line):
            kind = crossing[1].lower().replace("_", "-")
            yield Collective(kind, shape_bytes(tuple_elements(instruction["shape"])[0]), (), "dcn", times)
        return
    groups = parse_groups(line, len(slice_of))
    crosses = any(len({slice_of[position] for position in group}) > 1 for group in groups)
    size = shape_bytes(_payload(kind, bool(instruction["start"]), instruction["shape"]))
    if kind == "reduce-scatter":
        size *= len(groups[0])
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    yield Collective(kind, size, groups, "dcn" if crosses else "ici", times)


def _payload(kind: str, start: bool, shape: str) -> str:
    """The part of a result that is data: the start of an asynchronous one repeats its input before it."""
    elements = tuple_elements(shape)
    return elements[1] if start and kind != "all-reduce" and len(elements) > 1 else shape
