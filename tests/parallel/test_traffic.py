"""HBM traffic of compiled TPU programs, against programs whose traffic follows from their arrays."""

import json
import subprocess
import sys

import pytest

from offsites_jax.parallel.hlo import parse_program
from offsites_jax.parallel.traffic import hbm_bytes, hbm_traffic

MIB = 2**20

COMPILES = """
import json, os
from offsites_jax.cli import plan
os.environ.update(plan.ENVIRONMENT)
import jax, jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from offsites_jax.parallel.hlo import parse_program
from offsites_jax.parallel.topology import describe_devices, parse_topology
from offsites_jax.parallel.traffic import hbm_traffic

sharding = SingleDeviceSharding(describe_devices(parse_topology("v5e:2x2"))[0])

def traffic(function, *shapes, dtype=jnp.float32, **options):
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape in shapes]
    text = jax.jit(function, **options).lower(*arguments).compile().as_text()
    return hbm_traffic(parse_program(text))

def through(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

def put(x, part):
    return jax.lax.dynamic_update_slice(x, part, (0, 0))

whole = (8192, 8192)
print(json.dumps({
    "elementwise": traffic(lambda x: jnp.tanh(x) + 1, whole),
    "sum": traffic(jnp.sum, whole),
    "loop": traffic(through, (1024, 1024), (24, 1024, 1024)),
    "part": traffic(lambda x: jax.lax.dynamic_slice(x, (0, 0), (8, 8192)) * 2, whole),
    "in place": traffic(put, whole, (8, 8192), donate_argnums=0),
    "narrow": traffic(lambda x: x + 1, (2**20, 24)),
}))
"""


@pytest.fixture(scope="module")
def compiled():
    done = subprocess.run(
        [sys.executable, "-c", COMPILES], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_elementwise_program_reads_and_writes_once(compiled):
    assert compiled["elementwise"] == 2 * 256 * MIB


def test_a_sum_writes_next_to_nothing(compiled):
    assert 256 * MIB <= compiled["sum"] < 257 * MIB


def test_a_loop_reads_every_layers_weights_once(compiled):
    weights, activations = 24 * 4 * MIB, 4 * MIB
    assert weights <= compiled["loop"] <= weights + 2 * 24 * activations


def test_of_a_large_array_only_the_part_that_is_used_counts(compiled):
    part = 8 * 8192 * 4
    assert compiled["part"] == 2 * part
    assert part <= compiled["in place"] <= 3 * part


def test_no_count_is_below_the_arrays_themselves(compiled):
    """24 columns may lie along rows of tiles, without padding, or along lanes, with 128 for 24."""
    logical = 2 * 2**20 * 24 * 4
    assert compiled["narrow"] in (logical, logical * 128 / 24)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[8,24]{1,0:T(8,128)}", 8 * 128 * 4),
        ("f32[8,24]{0,1:T(8,128)}", 24 * 128 * 4),
        ("bf16[5,24]{1,0:T(8,128)(2,1)}", 8 * 128 * 2),
        ("f32[3]{0:T(128)}", 128 * 4),
        ("f32[]{:T(128)}", 4),
        ("f32[8,24]{1,0:T(8,128)S(1)}", 0),
        ("(f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)}, u32[]{:S(2)})", 8 * 128 * 4),
    ],
)
def test_padding_counts_and_on_chip_memory_does_not(shape, size):
    assert hbm_bytes(shape) == size


PREFETCHED = """\
ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%start)
  %twice = f32[8,128]{1,0:T(8,128)S(1)} add(%done, %done)
  ROOT %out = f32[8,128]{1,0:T(8,128)} multiply(%twice, %done)
}
"""


def test_a_prefetch_reads_once_and_on_chip_work_is_free():
    assert hbm_traffic(parse_program(PREFETCHED)) == 2 * 8 * 128 * 4


NESTED = """\
%slice (whole: f32[64,8,128], at: s32[]) -> f32[1,8,128] {
  %whole = f32[64,8,128]{2,1,0:T(8,128)} parameter(0)
  %at = s32[]{:T(128)S(6)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %part = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%whole, %at, %zero, %zero)
}

%update (into: f32[64,8,128], new: f32[1,8,128], where: s32[]) -> f32[64,8,128] {
  %into = f32[64,8,128]{2,1,0:T(8,128)} parameter(0)
  %new = f32[1,8,128]{2,1,0:T(8,128)} parameter(1)
  %where = s32[]{:T(128)S(6)} parameter(2)
  %nought = s32[]{:T(128)} constant(0)
  ROOT %put = f32[64,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%into, %new, %where, %nought, %nought)
}

%outer (a: f32[64,8,128], b: f32[64,8,128], i: s32[]) -> f32[64,8,128] {
  %a = f32[64,8,128]{2,1,0:T(8,128)} parameter(0)
  %b = f32[64,8,128]{2,1,0:T(8,128)} parameter(1)
  %i = s32[]{:T(128)S(6)} parameter(2)
  %row = f32[1,8,128]{2,1,0:T(8,128)} fusion(%a, %i), kind=kLoop, calls=%slice
  %twice = f32[1,8,128]{2,1,0:T(8,128)} add(%row, %row)
  ROOT %done = f32[64,8,128]{2,1,0:T(8,128)} fusion(%b, %twice, %i), kind=kLoop, calls=%update
}

ENTRY %main (x: f32[64,8,128], y: f32[64,8,128], n: s32[]) -> f32[64,8,128] {
  %x = f32[64,8,128]{2,1,0:T(8,128)} parameter(0)
  %y = f32[64,8,128]{2,1,0:T(8,128)} parameter(1)
  %n = s32[]{:T(128)S(6)} parameter(2)
  ROOT %out = f32[64,8,128]{2,1,0:T(8,128)} fusion(%x, %y, %n), kind=kLoop, calls=%outer
}
"""


def test_a_part_counts_as_one_inside_a_fusion_in_a_fusion():
    assert hbm_traffic(parse_program(NESTED)) == 2 * 8 * 128 * 4  # one row read, one written
