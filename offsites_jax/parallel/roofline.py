"""The least time a program can take on a chip: that of its slowest resource.

The four are taken to overlap perfectly and each to run at its published peak, so the estimate is a floor: a
real step is slower, by waiting, latency, and arithmetic that does not fill the matrix units. It serves to
compare meshes and batch sizes and to see what a step will be bound by, not to promise a speed.
"""

import dataclasses
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


def ring_bytes(kind: str, size: int, members: int) -> float:
    """Bytes every device sends for a collective of `size` bytes among `members` devices in a ring.

    As in jax-ml/scaling-book, chapter "Sharded Matrices": each passes on all but its own part, twice for an
    all-reduce; a permutation or broadcast passes on everything once.

    Args:
      kind: of collective.
      size: as in `Collective.bytes`.
      members: devices that take part.

    """
    if kind.startswith("collective"):
        return size
    return size * (members - 1) / members * (2 if kind == "all-reduce" else 1)


def spanned(
    group: Group, topology: Topology, coordinates: Sequence[tuple[int, ...]]
) -> list[tuple[int, int]]:
    """The axes of the torus that a group extends over, each as (places on it, links of a chip along it).

    Along an axis that closes to a ring and is spanned whole, data flows both ways; along a line the chip at
    its end has one link only.
    """
    closes = topology.chip.closes(topology.shape)
    places = [len(set(column)) for column in zip(*(coordinates[p] for p in group), strict=True)]
    axes = zip(places, topology.shape, closes, strict=False)  # coordinates may have an axis more
    found = [(count, 2 if closed and count == size else 1) for count, size, closed in axes if count > 1]
    return found or [(len(group), _LINKS_INSIDE_CHIP)]


def _ici_seconds(collective: Collective, topology: Topology, coordinates: Sequence[tuple[int, ...]]) -> float:
    kind, size = collective.kind, collective.bytes
    group = max(collective.groups, key=len)
    axes = spanned(group, topology, coordinates)
    if kind.endswith("all-to-all"):
        # On average a part travels a quarter of a ring or, past the middle of a line, of the line.
        per_link = max(size * places / 4 / links for places, links in axes)
    elif kind == "collective-permute":
        per_link = size  # one direction of one link
    else:
        per_link = ring_bytes(kind, size, len(group)) / sum(links for _, links in axes)
    return collective.times * per_link * topology.chip.devices / topology.chip.link_bandwidth


def _dcn_seconds(collective: Collective, topology: Topology) -> float:
    sent = ring_bytes(collective.kind, collective.bytes, topology.slices)
    return collective.times * sent * topology.chip.devices / topology.chip.dcn_bandwidth
