"""Members are computed alone: closed forms, on one device and on eight, at once and in turn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.parallel.members import each_member, with_gradient
from offsites_jax.parallel.mesh import MeshSettings, batch_sharding, constrain, create_mesh

ROWS = np.arange(16, dtype=np.float32).reshape(16, 1) + np.arange(3, dtype=np.float32)


def scaled(common, member):
    """A number and its gradient; with a mesh in sight, `constrain` would complain about the shape."""
    assert jax.sharding.get_abstract_mesh().empty

    def total(row):
        return common * jnp.sum(constrain(row, jax.sharding.PartitionSpec("data")) ** 2)

    return jax.value_and_grad(total)(member["row"])


@pytest.mark.parametrize("at_a_time", [0, 1, 2])
@pytest.mark.parametrize("settings", [None, {"data": 1}, {"data": 4, "fsdp": 2}, {"data": 2, "tensor": 4}])
def test_each_member_is_computed_where_it_is(settings, at_a_time):
    if settings is None:
        values, gradients = jax.jit(lambda rows: each_member(scaled, 2.0, {"row": rows}, at_a_time))(ROWS)
    else:
        mesh = create_mesh(MeshSettings(**settings, cpu_devices=8))
        rows = jax.device_put(ROWS, batch_sharding(mesh))
        with jax.set_mesh(mesh):
            step = jax.jit(lambda rows: each_member(scaled, jnp.float32(2), {"row": rows}, at_a_time))
            values, gradients = step(rows)
            program = step.lower(rows).compile().as_text()
        assert values.sharding.is_equivalent_to(batch_sharding(mesh), 1)
        assert not [name for name in ("all-reduce", "all-gather", "permute", "all-to-all") if name in program]
    np.testing.assert_allclose(values, 2 * np.sum(ROWS**2, 1), rtol=1e-6)
    np.testing.assert_allclose(gradients, 4 * ROWS, rtol=1e-6)


def test_a_known_gradient_is_what_differentiation_finds():
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.float32(3)}
    known = {"a": jnp.array([5.0, -1.0]), "b": jnp.float32(7)}

    def loss(params):
        return 2 * with_gradient(jnp.float32(11), params, known) + params["b"]

    value, found = jax.jit(jax.value_and_grad(loss))(params)
    assert float(value) == 25
    np.testing.assert_array_equal(found["a"], [10, -2])
    assert float(found["b"]) == 15
