"""The mesh, the parts of a batch, and where its rows end up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import (
    AXES,
    BATCH_AXES,
    MeshSettings,
    batch_sharding,
    check_batch_size,
    constrain,
    create_mesh,
    data_shard,
    local_rows,
    mesh_shape,
    platform_of,
    put_batch,
    replicated,
)


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    """What the mesh code reads of a device."""

    id: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"
    slice_index: int = 0


def fake_mesh(processes: list[int], shape: tuple[int, ...]) -> Mesh:
    devices = [FakeDevice(i, process) for i, process in enumerate(processes)]
    return Mesh(np.array(devices, object).reshape(shape), AXES)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (MeshSettings(), (1, 8, 1, 1)),
        (MeshSettings(fsdp=4), (1, 2, 4, 1)),
        (MeshSettings(data=1, fsdp=-1, tensor=2), (1, 1, 4, 2)),
        (MeshSettings(data=2, fsdp=2, tensor=-1), (1, 2, 2, 2)),
        (MeshSettings(slices=2, fsdp=2), (2, 2, 2, 1)),
        (MeshSettings(data=2, fsdp=2), (1, 2, 2, 1)),
    ],
)
def test_sizes_are_filled_in(settings, expected):
    mesh = create_mesh(settings)
    assert tuple(mesh.shape[axis] for axis in AXES) == expected == mesh_shape(settings, 8)
    assert mesh.axis_types == (AxisType.Auto,) * 4
    assert platform_of(mesh) == "cpu"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (MeshSettings(data=-1, fsdp=-1), "mesh.data and mesh.fsdp are -1"),
        (MeshSettings(fsdp=3), "fsdp=3 .* 8 devices are no multiple of 3"),
        (MeshSettings(data=4, fsdp=4), "needs 16 devices but there are 8"),
        (MeshSettings(tensor=16), "8 devices are no multiple of 16"),
        (MeshSettings(tensor=0), "mesh.tensor is 0"),
        (MeshSettings(slices=-1), "mesh.slices is -1"),
    ],
)
def test_impossible_sizes_are_refused_with_the_numbers(settings, message):
    with pytest.raises(UserError, match=message):
        create_mesh(settings)


def test_virtual_slices_split_the_devices_in_order():
    devices = create_mesh(MeshSettings(slices=2, data=2, fsdp=2)).devices
    assert [device.id for device in devices[0].flat] == [0, 1, 2, 3]
    assert [device.id for device in devices[1].flat] == [4, 5, 6, 7]


def test_tpu_slices_must_be_the_hardware_ones():
    devices = [FakeDevice(i, i, "tpu", "TPU v5 lite", i % 2) for i in range(4)]
    with pytest.raises(UserError, match="slices is 1 but the devices form 2 TPU slices"):
        create_mesh(MeshSettings(), devices)


def test_several_processes_may_not_leave_devices_unused():
    devices = [FakeDevice(i, i // 4) for i in range(8)]
    with pytest.raises(UserError, match="uses 4 of 8 devices"):
        create_mesh(MeshSettings(data=4), devices)


@pytest.mark.parametrize(
    ("processes", "shape", "expected"),
    [
        ([0, 0, 0, 0, 1, 1, 1, 1], (1, 8, 1, 1), {0: (0, 2), 1: (1, 2)}),
        ([0, 0, 0, 0, 1, 1, 1, 1], (1, 1, 1, 8), {0: (0, 1), 1: (0, 1)}),
        ([0, 0, 1, 1, 2, 2, 3, 3], (1, 2, 1, 4), {0: (0, 2), 1: (0, 2), 2: (1, 2), 3: (1, 2)}),
        ([1, 1, 1, 1, 0, 0, 0, 0], (2, 1, 4, 1), {1: (0, 2), 0: (1, 2)}),
        ([0, 1, 2, 3, 0, 1, 2, 3], (1, 8, 1, 1), {p: (p, 4) for p in range(4)}),
        # The order of a 4x4 v5e slice of four hosts, which follows a ring through the torus.
        (
            [0, 0, 1, 1, 1, 1, 0, 2, 3, 3, 3, 3, 2, 2, 2, 0],
            (1, 1, 16, 1),
            {0: (0, 4), 1: (1, 4), 2: (2, 4), 3: (3, 4)},
        ),
    ],
)
def test_data_shards_cover_the_batch_once(processes, shape, expected):
    mesh = fake_mesh(processes, shape)
    assert {process: data_shard(mesh, process) for process in expected} == expected
    rows = {data_shard(mesh, process): local_rows(mesh, 32, process) for process in expected}
    assert sorted(np.concatenate(list(rows.values()))) == list(range(32))


@pytest.mark.parametrize(
    ("processes", "shape"),
    [
        ([0, 0, 0, 1, 1, 1, 2, 2], (1, 4, 1, 2)),  # 0 and 1 share a row
        ([0, 0, 0, 1], (1, 4, 1, 1)),
    ],
)
def test_overlapping_or_unequal_parts_are_refused(processes, shape):
    with pytest.raises(UserError, match="overlapping or unequal parts of the batch"):
        data_shard(fake_mesh(processes, shape), 0)


def test_local_rows_follow_the_devices_not_the_hosts():
    mesh = fake_mesh([0, 1, 1, 0], (1, 4, 1, 1))
    assert local_rows(mesh, 8, 0).tolist() == [0, 1, 6, 7]
    assert local_rows(mesh, 8, 1).tolist() == [2, 3, 4, 5]


def test_put_batch_gives_each_device_its_rows():
    mesh = create_mesh(MeshSettings(slices=2, data=1, fsdp=2, tensor=2))
    host = {"x": np.arange(24.0).reshape(8, 3), "label": {"id": np.arange(8)}}
    batch = put_batch(host, mesh, 8)
    assert batch["x"].sharding == batch_sharding(mesh)
    np.testing.assert_array_equal(batch["label"]["id"], host["label"]["id"])
    for shard in batch["x"].addressable_shards:
        part = shard.device.id // 2  # two tensor neighbours hold the same rows
        np.testing.assert_array_equal(shard.data, host["x"][2 * part : 2 * part + 2])


def test_put_batch_names_the_field_of_wrong_length():
    mesh = create_mesh(MeshSettings())
    with pytest.raises(UserError, match=r"'label/id' has shape \(6,\).* the 8 rows"):
        put_batch({"label": {"id": np.arange(6)}}, mesh, 8)
    with pytest.raises(UserError, match=r"batch_size: 12 must be a multiple of 8"):
        put_batch({"x": np.zeros(12)}, mesh, 12)


def test_micro_batches_must_divide_too():
    mesh = create_mesh(MeshSettings(fsdp=2, tensor=2))
    check_batch_size(mesh, 16, accumulate=4)
    with pytest.raises(UserError, match=r"batch_size: 24 must be a multiple of 16.* in 4 .* in 4"):
        check_batch_size(mesh, 24, accumulate=4)


def test_constrain_places_under_a_mesh_and_passes_through_without():
    x = jnp.arange(16.0).reshape(8, 2)
    assert constrain(x, P(BATCH_AXES)) is x
    mesh = create_mesh(MeshSettings(fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: constrain(x + 1, P(BATCH_AXES)))(x)
    assert y.sharding.is_equivalent_to(batch_sharding(mesh), 2)
    np.testing.assert_array_equal(y, x + 1)


def test_constrain_leaves_out_manual_axes():
    mesh = create_mesh(MeshSettings(slices=2, fsdp=2))
    x = jax.device_put(jnp.arange(16.0), batch_sharding(mesh))

    def per_slice(x):
        x = constrain(x, P(BATCH_AXES))
        return jax.lax.psum(x.sum(), "slices")

    def total(manual):
        mapped = jax.shard_map(
            per_slice, in_specs=P(tuple(a for a in BATCH_AXES if a in manual)), out_specs=P(),
            axis_names=manual, check_vma=False,
        )  # fmt: skip
        with jax.set_mesh(mesh):
            return jax.jit(mapped)(x)

    assert total({"slices"}) == 120.0
    # All axes manual: the sum over slices of device 0's position, rows 0-1 and 8-9.
    assert total(set(AXES)) == 0 + 1 + 8 + 9


def test_replicated_arrays_are_whole_everywhere():
    mesh = create_mesh(MeshSettings(tensor=2))
    x = jax.device_put(np.arange(4), replicated(mesh))
    assert isinstance(x.sharding, NamedSharding)
    assert all(shard.data.shape == (4,) for shard in x.addressable_shards)
