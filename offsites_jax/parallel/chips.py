"""Published figures of TPU chips: what a roofline and a memory check are made of.

Sources, by chip:

- v4: docs.cloud.google.com/tpu/docs/v4 (compute, HBM, pod size); six links of 50 GB/s each way from
  arXiv 2304.01433; the network share of a chip from jax-ml/scaling-book, chapter "How to Think About
  TPUs" (25 GB/s for a host of four chips).
- v5e, v5p, v6e, tpu7x: docs.cloud.google.com/tpu/docs/v5e, /v6e and /tpu7x, whose last page has all of v5p,
  v6e and TPU7x in one table. ICI bandwidth is given there for all links of a chip and both directions
  together; one link one way is that figure over twice the number of links. Network bandwidth of v5e is its
  pod's 6.4 Tb/s over 256 chips.
- Where the torus closes: jax-ml/scaling-book, same chapter. A 2-D slice closes along an axis of 16, a 3-D
  slice when every axis is a multiple of 4; smaller slices are meshes, with half the bandwidth.

`hbm_bytes` is not the data sheet's capacity but what XLA:TPU leaves to a program, as its own out-of-memory
message names it (libtpu 0.0.52): 15.75 of 16 GiB on v5e, for example.
"""

import dataclasses

from offsites_jax.parallel.flops import peak_flops

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of TPU chip. Rates are per second and per chip, whatever number of JAX devices it shows.

    Attributes:
      name: as in a topology name, "v5e".
      device_kind: as JAX names its devices.
      devices: JAX devices a chip shows; each has its share of memory and bandwidth.
      axes: axes of its torus, 2 or 3.
      pod_chips: chips in the largest slice.
      hbm_bytes: memory a program may use.
      hbm_bandwidth: bytes between the chip and its memory.
      link_bandwidth: bytes over one interconnect link in one direction.
      dcn_bandwidth: bytes of a chip's share of the data-centre network in one direction.
      options: what a topology description needs to be told to list chips as a run sees them.

    """

    name: str
    device_kind: str
    devices: int
    axes: int
    pod_chips: int
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    dcn_bandwidth: float
    options: tuple[tuple[str, str], ...] = ()

    @property
    def flops(self) -> float:
        """Peak dense bfloat16 operations."""
        peak = peak_flops(self.device_kind)
        assert peak is not None, self.device_kind
        return peak * self.devices

    def closes(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Which axes of a slice of this shape are rings; the others are open lines."""
        if self.axes == 2:
            return tuple(size == 16 for size in shape)
        return (all(size % 4 == 0 for size in shape),) * len(shape)


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            device_kind="TPU v4",
            devices=1,
            axes=3,
            pod_chips=4096,
            hbm_bytes=int(30.75 * _GIB),
            hbm_bandwidth=1200e9,
            link_bandwidth=50e9,
            dcn_bandwidth=6.25e9,
            options=(("chip_config_name", "megacore"),),
        ),
        Chip(
            name="v5e",
            device_kind="TPU v5 lite",
            devices=1,
            axes=2,
            pod_chips=256,
            hbm_bytes=int(15.75 * _GIB),
            hbm_bandwidth=819e9,
            link_bandwidth=400e9 / 8,
            dcn_bandwidth=25e9 / 8,
        ),
        Chip(
            name="v5p",
            device_kind="TPU v5",
            devices=1,
            axes=3,
            pod_chips=8960,
            hbm_bytes=int(95.73 * _GIB),
            hbm_bandwidth=2765e9,
            link_bandwidth=1200e9 / 12,
            dcn_bandwidth=50e9 / 8,
        ),
        Chip(
            name="v6e",
            device_kind="TPU v6 lite",
            devices=1,
            axes=2,
            pod_chips=256,
            hbm_bytes=int(31.24 * _GIB),
            hbm_bandwidth=1638e9,
            link_bandwidth=800e9 / 8,
            dcn_bandwidth=100e9 / 8,
        ),
        Chip(
            name="tpu7x",
            device_kind="TPU7x",
            devices=2,
            axes=3,
            pod_chips=9216,
            hbm_bytes=int(2 * 94.74 * _GIB),
            hbm_bandwidth=7380e9,
            link_bandwidth=1200e9 / 12,
            dcn_bandwidth=100e9 / 8,
        ),
    )
}
