"""The chips' figures agree with each other and with what is published of whole pods."""

import pytest

from offsites_jax.parallel.chips import CHIPS

GIB = 2**30


def test_every_chip_has_a_peak_and_memory_below_its_capacity():
    capacity = {"v4": 32, "v5e": 16, "v5p": 96, "v6e": 32, "tpu7x": 192}  # GiB
    assert set(CHIPS) == set(capacity)
    for name, chip in CHIPS.items():
        assert chip.flops > 1e14
        assert 0.96 * capacity[name] * GIB < chip.hbm_bytes < capacity[name] * GIB


def test_a_chip_counts_all_its_devices():
    assert CHIPS["tpu7x"].flops == pytest.approx(2307e12)
    assert CHIPS["v5p"].flops == pytest.approx(459e12)


@pytest.mark.parametrize(
    ("name", "cut", "published"),
    # Links that a cut through the middle of a full pod meets, times both directions of each; the published
    # bisection bandwidth counts one.
    [("v5e", 2 * 16, 1.6e12), ("v6e", 2 * 16, 3.2e12), ("v4", 2 * 16 * 16, 24e12)],
)
def test_links_add_up_to_the_bisection_bandwidth_of_a_pod(name, cut, published):
    assert cut * CHIPS[name].link_bandwidth == pytest.approx(published, rel=0.07)


@pytest.mark.parametrize(
    ("name", "shape", "closed"),
    [
        ("v5e", (16, 16), (True, True)),
        ("v5e", (8, 16), (False, True)),
        ("v5p", (4, 4, 8), (True, True, True)),
        ("v5p", (2, 2, 4), (False, False, False)),
    ],
)
def test_which_axes_are_rings(name, shape, closed):
    assert CHIPS[name].closes(shape) == closed
