"""The device mesh: its axes, which rows of a batch each process loads, and batches placed on it.

The mesh always has four axes, most of them usually of size 1:

- `slices`: pod slices joined by the data-centre network; only gradients cross it;
- `data`: replicas of the parameters inside a slice;
- `fsdp`: parameters and batch are both split over it;
- `tensor`: parameters only; tensor-parallel neighbours see the same rows.

The batch is split over slices x data x fsdp, parameters over fsdp and tensor. The axes are always
of type Auto: `jax.jit` places the collectives.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from offsites_jax.errors import UserError
from offsites_jax.nn.shards import BATCH_AXES

AXES = (*BATCH_AXES, "tensor")
PARAMETER_AXES = ("fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """The `mesh` section of an experiment.

    Attributes:
        data: Size of the `data` axis within one slice.
        fsdp: Size of the `fsdp` axis.
        tensor: Size of the `tensor` axis.
        slices: Number of pod slices; on CPU and GPU the devices are split in order.
        cpu_devices: Virtual devices to run on when the platform is CPU; 0 keeps JAX's number.

    One of `data`, `fsdp` and `tensor` may be -1: what the others leave.

    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    slices: int = 1
    cpu_devices: int = 0


def create_mesh(settings: MeshSettings, devices: Sequence[Any] | None = None) -> Mesh:
    """Lays `devices` (default: all of them) out as a mesh with the axes `AXES`.

    Inside a slice the order follows the chips' wiring, so neighbours on an axis are neighbours on
    the torus. One process alone may leave devices unused; several may not.

    Raises:
        UserError: The sizes do not fit the devices, their slices or their wiring.

    """
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(settings, len(devices))
    used = devices[: math.prod(shape)]
    if len(used) < len(devices) and len({device.process_index for device in devices}) > 1:
        raise UserError(
            f"mesh {_sizes(shape)} uses {len(used)} of {len(devices)} devices: "
            "a run on several processes must use all; set one of data, fsdp, tensor to -1"
        )
    blocks = [_arrange(block, shape[1:]) for block in _split_slices(used, settings.slices)]
    return Mesh(np.stack(blocks), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_shape(settings: MeshSettings, num_devices: int) -> tuple[int, int, int, int]:
    """The sizes of `AXES` on `num_devices` devices, with -1 filled in.

    Raises:
        UserError: A size is impossible, more than one is -1, or the product does not fit.

    """
    sizes = {axis: getattr(settings, axis) for axis in AXES}
    for axis, size in sizes.items():
        if size < 1 and (size != -1 or axis == "slices"):
            left = "" if axis == "slices" else ", or -1 for what the others leave"
            raise UserError(f"mesh.{axis} is {size}: give a size of at least 1{left}")
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise UserError(f"mesh.{' and mesh.'.join(open_axes)} are -1: only one of them may be")
    needed = math.prod(size for size in sizes.values() if size != -1)
    if open_axes:
        if num_devices % needed:
            raise UserError(
                f"mesh {_sizes(sizes.values())} does not fit: {num_devices} devices are no multiple "
                f"of {needed}; give sizes that divide them"
            )
        sizes[open_axes[0]] = num_devices // needed
    elif needed > num_devices:
        raise UserError(
            f"mesh {_sizes(sizes.values())} needs {needed} devices but there are {num_devices}: "
            "make an axis smaller (on CPU: or raise mesh.cpu_devices)"
        )
    return sizes["slices"], sizes["data"], sizes["fsdp"], sizes["tensor"]


def platform_of(mesh: Mesh) -> str:
    """What the mesh runs on: "cpu", "gpu" or "tpu" (also for an ahead-of-time topology)."""
    return mesh.devices.flat[0].platform


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first dimension split over `BATCH_AXES`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def num_batch_shards(mesh: Mesh) -> int:
    """How many pieces a batch is split into: slices x data x fsdp."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(mesh: Mesh, batch_size: int, accumulate: int = 1, key: str = "train.batch_size") -> None:
    """Makes sure every device gets the same number of rows of every micro-batch.

    Args:
        mesh: The mesh.
        batch_size: Rows of a global batch.
        accumulate: Micro-batches it is cut into.
        key: Where the size comes from, for the message.

    Raises:
        UserError: `batch_size` is no multiple of accumulate x slices x data x fsdp.

    """
    shards = num_batch_shards(mesh)
    if batch_size < 1 or batch_size % (shards * accumulate):
        raise UserError(
            f"config.{key}: {batch_size} must be a multiple of {shards * accumulate}: the mesh splits "
            f"it in {shards} ({_sizes(mesh.shape.values())}), train.accumulate in {accumulate}"
        )


def data_shard(mesh: Mesh, process: int | None = None) -> tuple[int, int]:
    """Which part of every batch a process loads: part `index` of `count` equal parts.

    Processes whose devices hold the same rows (a tensor axis that spans hosts) get the same index
    and must load the same data. Part 0 holds the batch's first row.

    Args:
        mesh: The mesh.
        process: Whose part to tell (default: this process).

    Raises:
        UserError: The processes' rows overlap in part, so that no such parts exist.

    """
    held = _blocks_of_processes(mesh)
    parts = sorted(set(held.values()))
    if sum(map(len, parts)) != num_batch_shards(mesh) or len(set(map(len, parts))) != 1:
        raise UserError(
            f"mesh {_sizes(mesh.shape.values())} gives the {len(held)} processes overlapping or "
            "unequal parts of the batch: choose mesh.tensor so that it divides, or is a multiple "
            "of, the devices of a process"
        )
    return parts.index(held[_this(process)]), len(parts)


def local_rows(mesh: Mesh, batch_size: int, process: int | None = None) -> Int[np.ndarray, "local_batch"]:
    """The row numbers of a global batch that a process holds, ascending.

    On a torus they need not be adjacent, since the mesh follows the wiring rather than the hosts.
    A loader that reads exactly these rows makes the global batch equal row by row on every
    topology; one that reads the contiguous part of `data_shard` makes it equal as a set.
    """
    check_batch_size(mesh, batch_size)
    blocks = _blocks_of_processes(mesh)[_this(process)]
    return np.arange(batch_size).reshape(num_batch_shards(mesh), -1)[list(blocks)].reshape(-1)


def put_batch(batch: Any, mesh: Mesh, batch_size: int) -> Any:
    """Makes global arrays, split over `BATCH_AXES`, from this process's part of a batch.

    Args:
        batch: Tree of host arrays with the rows of this process's `data_shard` first.
        mesh: The mesh.
        batch_size: Rows of the global batch.

    Returns:
        The same tree of `jax.Array`s with `batch_size` rows.

    Raises:
        UserError: The batch does not divide over the mesh, or a field has another number of rows.

    """
    sharding = batch_sharding(mesh)
    rows = len(local_rows(mesh, batch_size))
    alone = jax.process_count() == 1

    def place(path: Any, field: np.ndarray) -> jax.Array:
        field = np.asarray(field)
        if field.shape[:1] != (rows,):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(
                f"batch field '{name}' has shape {field.shape}: its first dimension must be the "
                f"{rows} rows this process holds of a batch of {batch_size}"
            )
        if alone:
            return jax.device_put(field, sharding)  # the same, in half the time
        # Without the global shape, processes could silently disagree about it and hang later.
        shape = (batch_size, *field.shape[1:])
        return jax.make_array_from_process_local_data(sharding, field, shape)

    return jax.tree_util.tree_map_with_path(place, batch)


def constrain(x: Any, spec: PartitionSpec) -> Any:
    """Asks for the sharding `spec` of the array or tree `x` inside `jit`.

    Does nothing where no mesh is set, so the same code runs without one. Axes that an enclosing
    `shard_map` has made manual are left out: there the split has already happened.
    """
    axes = jax.sharding.get_abstract_mesh().auto_axes
    if not axes:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*(_keep(e, axes) for e in spec)))


def _keep(entry: Any, axes: Sequence[str]) -> tuple[str, ...] | None:
    """One entry of a PartitionSpec without the names that are not in `axes`."""
    names = (entry,) if isinstance(entry, str) else entry or ()
    return tuple(name for name in names if name in axes) or None


def _this(process: int | None) -> int:
    return jax.process_index() if process is None else process


@functools.cache
@functools.lru_cache(maxsize=8)
def _blocks_of_processes(mesh: Mesh) -> dict[int, tuple[int, ...]]:
    """For each process, which of the `num_batch_shards` blocks of rows its devices hold."""
    owners = np.vectorize(lambda device: device.process_index, otypes=[int])(mesh.devices)
    owners = owners.reshape(num_batch_shards(mesh), -1)  # the batch axes are the leading ones
    return {
        int(process): tuple(np.flatnonzero((owners == process).any(axis=1)).tolist())
        for process in np.unique(owners)
    }


def _split_slices(devices: list[Any], count: int) -> list[list[Any]]:
    """Groups the devices by slice: by hardware on TPU, in order elsewhere."""
    if devices[0].platform == "tpu":
        index = [getattr(device, "slice_index", 0) for device in devices]
        found = sorted(set(index))
        if len(found) != count:
            raise UserError(
                f"mesh.slices is {count} but the devices form {len(found)} TPU slices: "
                f"set mesh.slices to {len(found)}"
            )
        return [[d for d, i in zip(devices, index, strict=True) if i == s] for s in found]
    size = len(devices) // count
    return [devices[start : start + size] for start in range(0, len(devices), size)]


def _arrange(devices: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Orders the devices of one slice by their wiring."""
    try:
        # Splitting physical axes is needed on 2-D tori (v5e, v6e); it is used only where needed.
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    except (AssertionError, NotImplementedError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"mesh {_sizes((1, *shape))} cannot be laid on {len(devices)} devices of kind "
            f"{devices[0].device_kind}: choose sizes that follow its topology ({reason})"
        ) from error


def _sizes(shape: Any) -> str:
    return " x ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
