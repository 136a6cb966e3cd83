"""Topologies by name, and what is said of names that are none."""

import importlib.util

import pytest
from jax.experimental import topologies

from offsites_jax.errors import UserError
from offsites_jax.parallel.topology import describe_devices, parse_topology


def test_names_are_chips_in_a_shape():
    topology = parse_topology("v5e:4x8", slices=3)
    assert (topology.shape, topology.slices, topology.num_chips, topology.num_devices) == ((4, 8), 3, 96, 96)
    assert parse_topology("v5p:2x2x4").num_devices == 16
    assert parse_topology("tpu7x:2x2x2").num_devices == 16, "each chip shows two devices"


@pytest.mark.parametrize(
    ("name", "slices", "message"),
    [
        ("v9:2x2", 1, r"'v9:2x2' is no topology; known forms are v4:2x2x4, v5e:16x16"),
        ("v5litepod-16", 1, r"known forms are"),
        ("v5e", 1, r"known forms are"),
        ("v5e:2x2x2", 1, r"a slice of v5e has 2 axes, as in v5e:16x16"),
        ("v5p:4x4", 1, r"a slice of v5p has 3 axes, as in v5p:4x4x8"),
        ("v5e:0x4", 1, r"a slice of v5e has 2 axes"),
        ("v5e:32x32", 1, r"the largest slice of v5e has 256 chips \(16x16\); join slices with --slices"),
        ("v5e:1x256", 1, r"the largest slice of v5e"),
        ("v4:16x16x32", 1, r"the largest slice of v4 has 4096 chips"),
        ("v5e:4x4", 0, r"--slices: 0 is no number"),
    ],
)
def test_other_names_are_refused(name, slices, message):
    with pytest.raises(UserError, match=message):
        parse_topology(name, slices)


def test_without_the_compiler_one_line_says_what_to_install(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'offsites-jax\[plan\]'") as error:
        describe_devices(parse_topology("v5e:2x4"))
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v5e:2x4", {}),
        ("v5e:1x1", {"chips_per_host_bounds": (1, 1, 1)}),
        ("v6e:1x1", {"chips_per_host_bounds": (1, 1, 1)}),
    ],
)
def test_a_single_chip_is_a_host_of_its_own(monkeypatch, name, options):
    """Otherwise the compiler lays out hosts of 2 x 2 chips and refuses the slice."""
    asked = {}

    class Described:
        devices = ("chip",)

    def describe(**arguments):
        asked.update(arguments)
        return Described()

    monkeypatch.setenv("TPU_LIBRARY_PATH", "libtpu.so")
    monkeypatch.setattr(topologies, "get_topology_desc", describe)
    assert describe_devices(parse_topology(name)) == ["chip"]
    assert asked == {"platform": "tpu", "topology_name": name, **options}
