"""The parameter table against numpy, on split and whole parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.train.overview import overview, render


def tree():
    rng = np.random.default_rng(0)
    return {
        "encoder": {
            "conv": {"kernel": rng.normal(1, 2, (16, 8)), "bias": np.full(8, 0.5)},
            "scale": np.ones(4),
        },
        "temperature": np.float32(14.3),
    }


def split():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    specs = {
        "encoder": {
            "conv": {"kernel": PartitionSpec(("data", "fsdp")), "bias": PartitionSpec("fsdp")},
            "scale": PartitionSpec(),
        },
        "temperature": PartitionSpec(),
    }
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    return jax.device_put(jax.tree.map(jnp.float32, tree()), shardings)


def test_rows_say_what_numpy_says():
    rows = {row.name: row for row in overview(split())}
    assert list(rows) == ["encoder/conv/bias", "encoder/conv/kernel", "encoder/scale", "temperature"]
    kernel = tree()["encoder"]["conv"]["kernel"]
    row = rows["encoder/conv/kernel"]
    assert (row.shape, row.dtype, row.count) == ((16, 8), "float32", 128)
    np.testing.assert_allclose([row.mean, row.std], [kernel.mean(), kernel.std()], rtol=1e-5)
    np.testing.assert_allclose([rows["temperature"].mean, rows["temperature"].std], [14.3, 0], rtol=1e-6)
    assert rows["temperature"].count == 1


def test_rows_say_how_parameters_are_split():
    rows = {row.name: (row.spec, row.device_bytes) for row in overview(split())}
    assert rows == {
        "encoder/conv/kernel": ("data+fsdp", 128 * 4 // 8),
        "encoder/conv/bias": ("fsdp", 8 * 4 // 4),
        "encoder/scale": ("", 16),
        "temperature": ("", 4),
    }


def test_arrays_off_the_mesh_are_whole():
    rows = overview(jax.tree.map(jnp.float32, tree()))
    assert {row.spec for row in rows} == {""}
    assert sum(row.device_bytes for row in rows) == 4 * (128 + 8 + 4 + 1)


def test_shapes_alone_have_no_moments():
    params = split()
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
    for known, shape in zip(overview(params), overview(abstract), strict=True):
        assert (shape.mean, shape.std) == (None, None)
        assert (shape.name, shape.spec, shape.device_bytes) == (known.name, known.spec, known.device_bytes)


def test_text_has_modules_with_totals():
    params = {"net": {"kernel": jnp.ones((1000, 2)), "bias": jnp.zeros(3)}, "scale": jnp.full(1, 0.25)}
    assert render(params).splitlines() == [
        "parameter  shape   sharding  count  mean  std",
        "net                          2,003",
        "  bias     3                     3     0    0",
        "  kernel   1000x2            2,000     1    0",
        "scale      1                     1  0.25    0",
        "2,004 parameters, 0.0 MiB on each device",
    ]


def test_an_empty_tree_is_an_empty_table():
    assert render({}).splitlines()[-1] == "0 parameters, 0.0 MiB on each device"
