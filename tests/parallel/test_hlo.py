"""Program text is read as XLA means it: sizes, groups, and how often each computation runs."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.parallel.hlo import parse_groups, parse_program, shape_bytes, tuple_elements

DATA = pathlib.Path(__file__).parent / "data"


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint32", "float16", "bfloat16", "float32", "complex64"])
def test_sizes_are_those_of_numpy(dtype):
    names = {"bool": "pred", "int8": "s8", "uint32": "u32", "float16": "f16", "bfloat16": "bf16"}
    name = names.get(dtype, dtype.replace("float", "f").replace("complex", "c"))
    array = np.zeros((3, 5), jnp.dtype(dtype))
    assert shape_bytes(f"{name}[3,5]{{1,0:T(8,128)(2,1)S(1)}}") == array.nbytes


def test_sizes_of_tuples_scalars_and_tokens():
    assert shape_bytes("(f32[]{:T(128)}, /*index=1*/s4[7]{0}, f8e4m3fn[2,2]{1,0}, token[])") == 4 + 3 + 4
    assert shape_bytes("f32[<=8,2]{1,0}") == 64


def test_tuples_are_cut_at_their_own_commas_only():
    nested = "((f32[2,4]{1,0:T(4,128)}, s32[]), (f32[4,4]{1,0}), u32[]{:S(2)})"
    assert tuple_elements(nested) == ["(f32[2,4]{1,0:T(4,128)}, s32[])", "(f32[4,4]{1,0})", "u32[]{:S(2)}"]
    assert tuple_elements("bf16[2,4]{1,0}") == ["bf16[2,4]{1,0}"]


def groups_along(shape, axes, ids=None):
    """Groups by brute force: devices whose places agree on every axis but `axes`."""
    ids = np.arange(np.prod(shape)).reshape(shape) if ids is None else ids
    found = {}
    for place in itertools.product(*map(range, shape)):
        rest = tuple(p for axis, p in enumerate(place) if axis not in axes)
        found.setdefault(rest, []).append(int(ids[place]))
    return {tuple(group) for group in found.values()}


@pytest.mark.parametrize(
    ("attribute", "shape", "axes"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", (4, 2), (1,)),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", (4, 2), (1,)),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", (4, 2), (0,)),
        ("mesh['a'=2,'b'=4,'c'=2] {'a','c'}", (2, 4, 2), (0, 2)),
        ("mesh['a'=8] {'a':(1)2}", (2, 4), (0,)),
        ("mesh['a'=8] {'a':(2)4}", (2, 4), (1,)),
        ("mesh['a'=16,'b'=2] {'a':(2)4,'b'}", (2, 4, 2, 2), (1, 3)),
        ("mesh['a'=16] {'a':(1)2,'a':(4)2}", (2, 2, 2, 2), (0, 2)),
        ("[4,2]<=[8]", (4, 2), (1,)),
        ("[2,4]<=[4,2]T(1,0)", (4, 2), (0,)),
    ],
)
def test_groups_in_every_form_they_are_printed_in(attribute, shape, axes):
    line = f"%x = f32[8]{{0}} all-reduce(%y), channel_id=1, replica_groups={attribute}, to_apply=%add"
    assert set(parse_groups(line, int(np.prod(shape)))) == groups_along(shape, axes)


@pytest.mark.parametrize("ids", ["0,2,1,3", "[2,2]T(1,0)", "[2,2]<=[2,2]T(1,0)"])
def test_groups_of_a_mesh_whose_devices_are_permuted(ids):
    line = f"replica_groups=mesh['a'=2,'b'=2], device_ids=({ids}) {{'b'}}, use_global_device_ids=true"
    assert parse_groups(line, 4) == ((0, 2), (1, 3))


def test_a_transposed_mesh_gives_the_same_groups_by_another_name():
    transposed = (
        "replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_0'}, to_apply=%add"
    )
    plain = "replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_1'}, to_apply=%add"
    assert set(parse_groups(transposed, 8)) == set(parse_groups(plain, 8))


def test_groups_in_a_form_nobody_knows_are_an_error_and_not_a_guess():
    with pytest.raises(UserError, match=r"cannot read .*mesh"):
        parse_groups("replica_groups=mesh['a'=4]: {'a'}", 4)


def test_no_groups_are_everybody_and_pairs_are_groups_of_two():
    assert parse_groups("all-reduce(%y), replica_groups={}, to_apply=%add", 4) == ((0, 1, 2, 3),)
    assert parse_groups("collective-permute(%y), source_target_pairs={{0,1},{1,2},{2,0}}", 3) == (
        (0, 1),
        (1, 2),
        (2, 0),
    )


def test_loops_of_a_tpu_program_run_as_often_as_their_condition_says():
    program = parse_program((DATA / "loop.txt").read_text())
    assert program.loops == (4, 4)
    assert program.runs["wide.wide.region_2.14_spmd.clone.sunk"] == 4
    assert program.runs[program.entry] == 1


LOOPS = """
%inner_body (p: s32[]) -> s32[] {
  %x = s32[] add(%p, %p)
}

%below_three (p: s32[]) -> pred[] {
  %three = s32[] constant(3)
  ROOT %lt = pred[] compare(%p, %three), direction=LT
}

%outer_body (p: s32[]) -> s32[] {
  ROOT %w = s32[] while(%p), condition=%below_three, body=%inner_body
}

%until_told (p: s32[]) -> pred[] {
  ROOT %ne = pred[] compare(%p, %q), direction=NE
}

ENTRY %main (p: s32[]) -> s32[] {
  %a = s32[] while(%p), condition=%below_three, body=%outer_body
  %b = s32[] while(%a), condition=%until_told, body=%inner_body
  ROOT %c = s32[] while(%b), condition=%c1, body=%outer_body, backend_config={"known_trip_count":{"n":"5"}}
}
"""


def test_nested_loops_multiply_and_unknown_ones_count_once():
    program = parse_program(LOOPS)
    assert program.loops == (3, 3, None, 5)
    assert program.runs["outer_body"] == 3 + 5
    assert program.runs["inner_body"] == 3 * (3 + 5) + 1


def test_a_real_program_of_this_machine():
    def steps(x):
        return jax.lax.scan(lambda carry, _: (jnp.sin(carry @ carry), None), x, length=7)[0]

    text = jax.jit(steps).lower(jax.ShapeDtypeStruct((64, 64), jnp.float32)).compile().as_text()
    program = parse_program(text)
    assert 7 in program.loops
    assert max(program.runs.values()) in (7, 8)  # the condition is looked at once more at most
