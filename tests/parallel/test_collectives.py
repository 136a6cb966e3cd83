"""Collectives are found once each, with their size, their devices, their network and how often they run."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from offsites_jax.parallel.collectives import find_collectives
from offsites_jax.parallel.hlo import parse_program

DATA = pathlib.Path(__file__).parent / "data"
PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7))
ALL = (tuple(range(8)),)


def recorded(name, slice_of=(0,) * 8):
    return find_collectives(parse_program((DATA / f"{name}.txt").read_text()), slice_of)


def from_lines(*lines, slice_of=(0,) * 8):
    text = "\n".join(["ENTRY %main (p: f32[8]) -> f32[8] {", *(f"  {line}" for line in lines), "}"])
    return find_collectives(parse_program(text), slice_of)


def test_an_asynchronous_collective_printed_thrice_counts_once():
    gathers = [c for c in recorded("fused") if c.kind == "all-gather" and c.bytes == 3 * 3 * 16 * 16 * 2]
    assert len(gathers) == 1
    assert gathers[0].groups == PAIRS


def test_a_reduce_scatter_hides_in_a_fusion_as_an_all_reduce():
    (found,) = [c for c in recorded("fused") if c.kind == "reduce-scatter"]
    assert found.bytes == (64 * 32 + 128 * 64) * 2, "the whole of both inputs"
    assert found.groups == PAIRS
    assert [c.bytes for c in recorded("fused") if c.kind == "all-reduce"] == [128 * 10 * 4]


def test_collectives_in_a_loop_run_as_often_as_the_loop():
    found = recorded("loop")
    assert [(c.bytes, c.groups == ALL, c.times) for c in found] == [
        (3 * 16 * 4, False, 4),
        (4, True, 4),
        (3 * 16 * 4, True, 4),
        (4 + 4, True, 1),
        (4 + 4, False, 1),
        (4 + 4, False, 1),
    ]


def test_what_crosses_slices_is_a_send_to_the_host():
    found = recorded("slices", slice_of=(0,) * 8 + (1,) * 8)
    crossing = [c for c in found if c.network == "dcn"]
    assert [(c.kind, c.bytes) for c in crossing] == [("all-reduce", 128 * 4), ("all-reduce", 128 * 4)]
    assert len(found) - len(crossing) == 5, "channel 1 names both an all-reduce and a recv"


def test_groups_that_span_slices_cross_the_network():
    line = "%r = f32[8] all-reduce(%p), channel_id=1, replica_groups={{0,2},{1,3}}, to_apply=%add"
    assert from_lines(line, slice_of=(0, 0, 1, 1))[0].network == "dcn"
    assert from_lines(line, slice_of=(0, 1, 0, 1))[0].network == "ici"


def test_the_start_of_an_asynchronous_collective_repeats_its_input():
    found = from_lines(
        "%a = (f32[2]{0}, f32[16]{0}) all-gather-start(%p), channel_id=1, replica_groups=[1,8]<=[8]",
        "%b = f32[16]{0} all-gather-done(%a)",
        "%c = (f32[4]{0}, f32[4]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%p), channel_id=2, "
        "source_target_pairs={{0,1},{1,0}}",
        "%d = (f32[3]{0}, f32[5]{0}) all-reduce-start(%p, %q), channel_id=3, replica_groups={}",
        "%e = ((f32[8]{0}, f32[8]{0}), (f32[64]{0}, f32[64]{0})) all-gather-start(%p, %q), channel_id=4",
        "%f = f32[2]{0} reduce-scatter(%p), channel_id=5, replica_groups={{0,1,2,3},{4,5,6,7}}",
        "%g = (f32[1], u32[], token[]) send(%p, %t), channel_id=6, is_host_transfer=true",
    )
    assert [(c.kind, c.bytes) for c in found] == [
        ("all-gather", 16 * 4),
        ("collective-permute", 4 * 4),
        ("all-reduce", (3 + 5) * 4),
        ("all-gather", 2 * 64 * 4),
        ("reduce-scatter", 4 * 2 * 4),
    ]


def test_a_real_sharded_program_of_this_machine():
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    split = PartitionSpec("data", "fsdp")

    def five_sums(x):
        def body(carry, _):
            return jnp.sin(carry) + jax.lax.psum(carry, "fsdp"), None

        return jax.lax.scan(body, x, length=5)[0]

    def local(x):
        return five_sums(jax.lax.all_gather(x, "data", axis=0, tiled=True))

    function = jax.shard_map(local, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    shape = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=jax.sharding.NamedSharding(mesh, split))
    program = parse_program(jax.jit(function).lower(shape).compile().as_text())
    found = {c.kind: c for c in find_collectives(program, (0,) * 8)}
    ids = np.arange(8).reshape(2, 4)
    assert set(found["all-gather"].groups) == {tuple(row) for row in ids.T.tolist()}
    assert (found["all-gather"].bytes, found["all-gather"].times) == (16 * 8 * 4, 1)
    assert set(found["all-reduce"].groups) == {tuple(row) for row in ids.tolist()}
    assert (found["all-reduce"].bytes, found["all-reduce"].times) == (16 * 8 * 4, 5)
