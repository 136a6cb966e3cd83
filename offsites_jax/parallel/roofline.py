"""The least time a program can take on a chip: that of its slowest resource.

The four are taken to overlap perfectly and each to run at its published peak, so the estimate is a floor: a
real step is slower, by waiting, latency, and arithmetic that does not fill the matrix units. It serves to
compare meshes and batch sizes and to see what a step will be bound by, not to promise a speed.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from offsites_jax.parallel.collectives import Collective
from offsites_jax.parallel.hlo import Group
from offsites_jax.parallel.topology import Topology

# The two halves of a TPU7x talk six times as fast as one link (docs.cloud.google.com/tpu/docs/tpu7x).
_LINKS_INSIDE_CHIP = 6


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that each resource needs for one run of a program, if it did nothing else.

    Attributes:
      compute: the matrix units.
      hbm: memory of the chip.
      ici: links inside a slice.
      dcn: the network between slices.

    """

    compute: float
    hbm: float
    ici: float
    dcn: float

    @property
    def seconds(self) -> float:
        """The slowest of the four."""
        return max(dataclasses.astuple(self))

    @property
    def bound(self) -> str:
        """Name of the slowest."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


def roofline(
    topology: Topology,
    coordinates: Sequence[tuple[int, ...]],
    *,
    flops: float,
    bytes_accessed: float,
    collectives: Sequence[Collective],
) -> Roofline:
    """Estimates one run of a program.

    Args:
      topology: where it would run.
      coordinates: for each position in the mesh, where on the torus of its slice the chip is.
      flops: operations of one chip.
      bytes_accessed: between one chip and its memory.
      collectives: of one device.

    """
    chip = topology.chip
    return Roofline(
        compute=flops / chip.flops,
        hbm=bytes_accessed / chip.hbm_bandwidth,
        ici=sum(_ici_seconds(c, topology, coordinates) for c in collectives if c.network == "ici"),
        dcn=sum(_dcn_seconds(c, topology) for c in collectives if c.network == "dcn"),
    )


def sent_bytes(kind: str, size: int, members: int, ring: int) -> float:
    """Bytes the busiest device sends for a collective of `size` bytes among `members` devices.

    Ring algorithms, as in jax-ml/scaling-book, chapter "Sharded Matrices": each device passes on all but its
    own part, twice for an all-reduce. In an all-to-all a part travels a quarter of the ring on average.

    Args:
      kind: of collective.
      size: as in `Collective.bytes`.
      members: devices that take part.
      ring: devices along the longest axis they span.

    """
    if kind.startswith("collective"):
        return size
    share = size * (members - 1) / members
    if kind == "all-reduce":
        return 2 * share
    return share * max(1.0, ring / 4) if kind.endswith("all-to-all") else share


def spans(group: Group, coordinates: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """How many different places along each axis of the torus a group has."""
    return tuple(len(set(places)) for places in zip(*(coordinates[p] for p in group), strict=True))


def links(span: Sequence[int], topology: Topology) -> int:
    """Links of a chip that carry a collective over this span: two along a ring, one along a line."""
    sizes = itertools.zip_longest(
        span[: len(topology.shape)], topology.shape, topology.chip.closes(topology.shape)
    )
    used = sum(2 if closed and places == size else 1 for places, size, closed in sizes if places > 1)
    return used or _LINKS_INSIDE_CHIP


def _ici_seconds(collective: Collective, topology: Topology, coordinates: Sequence[tuple[int, ...]]) -> float:
    group = max(collective.groups, key=len)
    span = spans(group, coordinates)
    # A permutation uses one direction of one link.
    ways = 1 if collective.kind == "collective-permute" else links(span, topology)
    sent = sent_bytes(collective.kind, collective.bytes, len(group), max(span))
    return collective.times * sent * topology.chip.devices / (ways * topology.chip.link_bandwidth)


def _dcn_seconds(collective: Collective, topology: Topology) -> float:
    sent = sent_bytes(collective.kind, collective.bytes, topology.slices, 1)
    return collective.times * sent * topology.chip.devices / topology.chip.dcn_bandwidth
