"""The floor of a program's time, against hand-made sums and simulated rings."""

import itertools

import numpy as np
import pytest

from offsites_jax.parallel.collectives import Collective
from offsites_jax.parallel.roofline import Roofline, ring_bytes, roofline, spanned
from offsites_jax.parallel.topology import parse_topology

MEGA = 2**20


def places(topology):
    """The chips of a slice in row order, each once per device it shows."""
    chips = itertools.product(*map(range, topology.shape))
    padded = [(*place, 0, 0)[:3] for place in chips]
    return [place for place in padded for _ in range(topology.chip.devices)]


def seconds(name, kind, group, slices=1, network="ici", times=1):
    topology = parse_topology(name, slices)
    collective = Collective(kind, MEGA, (group,) if group else (), network, times)
    found = roofline(topology, places(topology), flops=0, bytes_accessed=0, collectives=[collective])
    return getattr(found, network)


def simulated_ring(members, reduce):
    """Bytes a device sends when parts go round a ring until all have all; an all-reduce goes round twice."""
    part = MEGA / members
    held = np.eye(members, dtype=bool)
    sent = np.zeros(members)
    while not held.all():
        for device in range(members):  # each passes on the part it got last, to its right
            sent[device] += part
        held |= np.roll(held, 1, axis=0)
    return sent.max() * (2 if reduce else 1)


@pytest.mark.parametrize("members", [2, 3, 8, 16])
def test_ring_bytes_are_those_of_a_simulated_ring(members):
    assert ring_bytes("all-gather", MEGA, members) == pytest.approx(simulated_ring(members, reduce=False))
    assert ring_bytes("reduce-scatter", MEGA, members) == pytest.approx(simulated_ring(members, reduce=False))
    assert ring_bytes("all-reduce", MEGA, members) == pytest.approx(simulated_ring(members, reduce=True))
    assert ring_bytes("collective-permute", MEGA, members) == MEGA


ROW = tuple(range(16))  # of v5e:16x16: a closed ring, both directions of 50 GB/s
ALL = tuple(range(256))


def test_a_closed_axis_carries_data_both_ways_and_a_torus_on_two_axes():
    gather = seconds("v5e:16x16", "all-gather", ROW)
    assert gather == pytest.approx(MEGA * 15 / 16 / (2 * 50e9))
    assert seconds("v5e:16x16", "all-reduce", ROW) == pytest.approx(2 * gather)
    assert seconds("v5e:16x16", "all-gather", ALL) == pytest.approx(MEGA * 255 / 256 / (4 * 50e9))
    assert seconds("v5e:16x16", "all-gather", ROW, times=3) == pytest.approx(3 * gather)


def test_an_open_line_has_half_the_bandwidth():
    assert seconds("v5e:8x8", "all-gather", tuple(range(8))) == pytest.approx(MEGA * 7 / 8 / 50e9)
    half_a_ring = seconds("v5e:16x16", "all-gather", ROW[:8])
    assert half_a_ring == pytest.approx(MEGA * 7 / 8 / 50e9)


def test_three_axes_close_when_all_are_multiples_of_four():
    everybody = tuple(range(64))
    assert seconds("v5p:4x4x4", "all-gather", everybody) == pytest.approx(MEGA * 63 / 64 / (6 * 100e9))
    assert seconds("v5p:2x4x8", "all-gather", everybody) == pytest.approx(MEGA * 63 / 64 / (3 * 100e9))


@pytest.mark.parametrize(
    ("name", "group", "size", "ring"), [("v5e:16x16", ROW, 16, True), ("v5e:8x8", tuple(range(8)), 8, False)]
)
def test_all_to_all_loads_the_busiest_link(name, group, size, ring):
    loads = np.zeros((size, 2))  # bytes over the link to the right of each place, by direction
    for source, target in itertools.permutations(range(size), 2):
        right = (target - source) % size
        step = 1 if (right <= size / 2 if ring else target > source) else -1
        place = source
        while place != target:
            loads[place if step > 0 else (place - 1) % size, (1 - step) // 2] += MEGA / size
            place = (place + step) % size if ring else place + step
    # Ties at half the ring all go right here; they could go either way.
    busiest = loads.sum(axis=1).max() / 2
    assert seconds(name, "all-to-all", group) == pytest.approx(busiest / 50e9, rel=1e-6)


def test_slices_talk_over_the_share_of_the_network():
    assert seconds("v5e:4x4", "all-reduce", (), slices=2, network="dcn") == pytest.approx(MEGA / 3.125e9)
    assert seconds("v6e:4x4", "all-gather", (), slices=4, network="dcn") == pytest.approx(
        MEGA * 3 / 4 / 12.5e9
    )


def test_two_devices_of_a_chip_share_its_links():
    one_line = tuple(range(0, 8, 4))  # the same half of two neighbouring chips
    assert seconds("tpu7x:2x2x1", "all-gather", one_line) == pytest.approx(2 * MEGA / 2 / 100e9)
    topology = parse_topology("tpu7x:2x2x1")
    assert spanned((0, 1), topology, places(topology)) == [(2, 6)], "inside a chip"


def test_the_slowest_resource_bounds():
    topology = parse_topology("v5e:2x4")
    found = roofline(topology, places(topology), flops=197e12, bytes_accessed=819e9 / 2, collectives=())
    assert found == Roofline(compute=1.0, hbm=0.5, ici=0, dcn=0)
    assert (found.seconds, found.bound) == (1.0, "compute")
    assert Roofline(1, 2, 3, 4).bound == "dcn"
