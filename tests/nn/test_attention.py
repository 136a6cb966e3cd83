"""A few heads at a time against all at once: values, gradients, and what a TPU moves."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.nn.attention import _by_groups, attend

COMPILES = """
import json, os
from offsites_jax.cli import plan
os.environ.update(plan.ENVIRONMENT)
import jax, jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from offsites_jax.nn.attention import attend
from offsites_jax.parallel.hlo import parse_program
from offsites_jax.parallel.topology import describe_devices, parse_topology
from offsites_jax.parallel.traffic import hbm_traffic

sharding = SingleDeviceSharding(describe_devices(parse_topology("v5e:2x2"))[0])
heads = jax.ShapeDtypeStruct((64, 196, 16, 32), jnp.bfloat16, sharding=sharding)
bias = jax.ShapeDtypeStruct((1, 16, 196, 196), jnp.float32, sharding=sharding)

def traffic(heads_at_once):
    def loss(query, key, value, bias):
        return attend(query, key, value, bias, heads_at_once=heads_at_once).astype(jnp.float32).var()
    compiled = jax.jit(jax.grad(loss, range(4))).lower(heads, heads, heads, bias).compile()
    return hbm_traffic(parse_program(compiled.as_text()))

print(json.dumps([traffic(2), traffic(0)]))
"""


def draw(shape, seed):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(("heads", "group"), [(4, 2), (6, 3), (4, 1)])
@pytest.mark.parametrize("biased", [True, False])
def test_groups_of_heads_give_the_same_values_and_gradients(heads, group, biased):
    query, key, value = (draw((2, 9, heads, 8), seed) for seed in range(3))
    bias = draw((1, heads, 9, 9), 3) if biased else None

    def loss(function, query, key, value, bias):
        return jnp.sum(jnp.sin(function(query, key, value, bias)))

    grouped = jax.jit(lambda *xs: loss(lambda *ys: _by_groups(*ys, group=group), *xs))
    whole = jax.jit(lambda *xs: loss(jax.nn.dot_product_attention, *xs))
    np.testing.assert_allclose(grouped(query, key, value, bias), whole(query, key, value, bias), rtol=1e-5)
    which = range(4 if biased else 3)
    for a, b in zip(
        jax.grad(grouped, which)(query, key, value, bias),
        jax.grad(whole, which)(query, key, value, bias),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("heads_at_once", [0, 1, 2, 5, 99])
def test_every_number_of_heads_at_once_attends(heads_at_once):
    query, key, value = (draw((1, 4, 6, 8), seed) for seed in range(3))
    expected = jax.nn.dot_product_attention(query, key, value)
    found = attend(query, key, value, None, heads_at_once=heads_at_once)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_on_a_tpu_products_stay_on_the_chip():
    done = subprocess.run(
        [sys.executable, "-c", COMPILES], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    few, all_at_once = json.loads(done.stdout.splitlines()[-1])
    arrays = 64 * 196 * 16 * 32 * 2  # bytes of queries, keys, values, results or a gradient of them
    assert few < all_at_once / 2
    assert few > 7 * arrays, "inputs, results and gradients move"
