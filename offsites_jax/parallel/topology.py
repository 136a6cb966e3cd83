"""Real TPU slices by name, described by the TPU compiler on a machine that has none.

A topology such as `v5e:16x16` stands for devices that can be laid out as a mesh and compiled for, but not
run on.
"""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

from offsites_jax.errors import UserError
from offsites_jax.parallel.chips import CHIPS, Chip

FORMS = "v4:2x2x4, v5e:16x16, v5p:4x4x8, v6e:4x4, tpu7x:2x2x1"


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips of one kind, wired as a torus or mesh, in one slice or several joined by the data-centre network.

    Attributes:
      name: of one slice, "v5e:16x16".
      chip: what it is made of.
      shape: chips along each axis of a slice.
      slices: how many of them.

    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def num_chips(self) -> int:
        """Chips of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def num_devices(self) -> int:
        """JAX devices of all slices."""
        return self.num_chips * self.chip.devices


def parse_topology(name: str, slices: int = 1) -> Topology:
    """Reads "v5e:16x16".

    Raises:
      UserError: an unknown chip, or a shape that no slice of that chip has.

    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not found or found[1] not in CHIPS:
        raise UserError(f"--topology: {name!r} is no topology; known forms are {FORMS}")
    chip, shape = CHIPS[found[1]], tuple(map(int, found[2].split("x")))
    if len(shape) != chip.axes or 0 in shape:
        example = next(form for form in FORMS.split(", ") if form.startswith(f"{chip.name}:"))
        raise UserError(f"--topology: {name!r}: a slice of {chip.name} has {chip.axes} axes, as in {example}")
    largest = 16 if chip.axes == 2 else chip.pod_chips
    if max(shape) > largest or math.prod(shape) > chip.pod_chips:
        raise UserError(
            f"--topology: {name!r}: the largest slice of {chip.name} has {chip.pod_chips} chips"
            f"{' (16x16)' if chip.axes == 2 else ''}; join slices with --slices"
        )
    if slices < 1:
        raise UserError(f"--slices: {slices} is no number of slices")
    return Topology(name, chip, shape, slices)


def describe_devices(topology: Topology) -> list[Any]:
    """The devices of a topology, to lay a mesh over and compile for.

    Raises:
      UserError: the TPU compiler is not installed, or knows no such slice.

    """
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise UserError("the TPU compiler is missing; pip install 'offsites-jax[plan]' (no TPU is needed)")
    import jax
    from jax.experimental import topologies

    options: dict[str, Any] = dict(topology.chip.options)
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    if topology.shape == (1, 1):  # the compiler takes hosts for 2x2 chips unless told
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--topology: {topology.name!r} is no slice the TPU compiler knows: {reason}"
        ) from error
    return list(found.devices)
