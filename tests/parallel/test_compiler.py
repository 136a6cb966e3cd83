"""What is said of programs and meshes that a topology cannot take."""

import jax
import jax.numpy as jnp
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from offsites_jax.errors import UserError
from offsites_jax.parallel import compiler
from offsites_jax.parallel.mesh import MeshSettings
from offsites_jax.parallel.topology import parse_topology

GIB = 2**30


@pytest.fixture
def on_cpu(monkeypatch):
    """Compilers whose devices are those of this machine."""
    monkeypatch.setattr(compiler, "describe_devices", lambda topology: jax.devices())
    return lambda name, slices=1: compiler.Compiler(parse_topology(name, slices))


@pytest.mark.parametrize(
    ("name", "slices", "settings", "message"),
    [
        ("v5e:2x4", 1, (2, 2), r"takes 4 devices, .* 1 slice\(s\) has 8; set --config.mesh.data=4$"),
        ("v5e:2x4", 1, (4, 4), r"takes 16 devices, but v5e:2x4 .* set --config.mesh.data=2$"),
        ("v5e:2x2", 2, (4, 2), r"slices=2 x data=4 .* takes 16 devices, .* set --config.mesh.data=2$"),
        ("v5e:2x4", 1, (1, 3), r"set --config.mesh.data and --config.mesh.fsdp$"),
        ("v5e:2x4", 1, (-1, 3), r"8 devices are no multiple of 3"),
    ],
)
def test_a_mesh_must_take_up_the_topology(on_cpu, name, slices, settings, message):
    with pytest.raises(UserError, match=message):
        on_cpu(name, slices).mesh(MeshSettings(*settings))


def test_an_open_axis_is_filled(on_cpu):
    assert dict(on_cpu("v5e:2x4").mesh(MeshSettings(-1, 2, 1)).shape) == {
        "slices": 1,
        "data": 4,
        "fsdp": 2,
        "tensor": 1,
    }


class Refused:
    """A jitted function whose compiler raises."""

    def __init__(self, message):
        self.message = message

    def lower(self, *arguments):
        return self

    def as_text(self):
        return self.message

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required "
        "for HLO temporaries (279.50G) exceeds available HBM (15.75G). HLO module: jit__lambda.",
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 279.50G of 15.75G hbm. Exceeded hbm "
        "capacity by 263.75G.",
    ],
)
def test_running_out_of_memory_is_an_answer(on_cpu, message):
    found = on_cpu("v5e:2x4")
    mesh = found.mesh(MeshSettings(4, 2, 1))
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    rows = jax.ShapeDtypeStruct((8 * GIB, 2), jnp.float32, sharding=split)
    cost = found.cost(mesh, Refused(message), rows, flops=1)
    assert not cost.fits
    assert cost.memory.total == 279.5 * GIB
    assert cost.memory.arguments == 8 * GIB, "one device of eight holds an eighth"
    assert cost.roofline is None


def test_other_refusals_are_errors_of_one_line(on_cpu):
    found = on_cpu("v5e:2x4")
    mesh = found.mesh(MeshSettings(8, 1, 1))
    with pytest.raises(
        UserError, match=r"^the TPU compiler refuses the program: UNIMPLEMENTED: no such thing$"
    ):
        found.cost(mesh, Refused("UNIMPLEMENTED: no such thing\nat line 3"), flops=1)


def test_a_cost_that_was_kept_needs_no_second_compile(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "describe_devices", lambda topology: jax.devices())
    kept, message = epath.Path(tmp_path / "plans"), "Used 279.50G of 15.75G hbm"

    def cost(function, topology="v5e:2x4"):
        found = compiler.Compiler(parse_topology(topology), kept)
        mesh = found.mesh(MeshSettings(4, 2, 1))
        scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
        return found.cost(mesh, function, scalar, flops=1)

    def no_compile():
        pytest.fail("compiled again")

    refused = Refused(message)
    first = cost(refused)
    monkeypatch.setattr(refused, "compile", no_compile)
    assert cost(refused) == first
    assert cost(Refused(message + " of another program")) != first
    for file in kept.iterdir():
        file.write_text("{")
    with pytest.raises(pytest.fail.Exception, match="compiled again"):
        cost(refused)
