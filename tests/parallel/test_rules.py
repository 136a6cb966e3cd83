"""Sharding rules: what is split, what follows, what is refused."""

import functools
import re
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import MeshSettings, batch_sharding, create_mesh
from offsites_jax.parallel.rules import Sharding, gather_ahead, leaf_names, shardings, state_shardings, table

SMALL = Sharding(fsdp_min_size=16)


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(64, name="wide")(x))
        return nn.Dense(8, name="head")(x)


@flax.struct.dataclass
class State:
    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any


def init_with(optimizer):
    def init(key):
        params = Mlp().init(key, jnp.zeros((1, 32)))["params"]
        return State(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state={"batch_stats": {"mean": jnp.zeros(64), "queue": jnp.zeros((128, 10))}},
            opt_state={"main": optimizer.init(params)},
            ema=jax.tree.map(jnp.copy, params),
        )

    return init


@pytest.fixture(scope="module")
def mesh():
    return create_mesh(MeshSettings(data=1, fsdp=4, tensor=2))


@pytest.fixture(scope="module")
def params():
    return jax.eval_shape(init_with(optax.sgd(1.0)), jax.random.key(0)).params


def specs(tree):
    return {name: sharding.spec for name, sharding in leaf_names(tree)}


def abstract(**shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def test_fsdp_splits_the_largest_dimension_that_divides(mesh):
    tree = abstract(
        large_last=(8, 16), large_first=(16, 8), tie=(8, 8), only_first=(8, 15), odd=(9, 15),
        small=(3, 4), conv=(3, 3, 4, 12),
    )  # fmt: skip
    assert specs(shardings(tree, mesh, SMALL)) == {
        "large_last": P(None, "fsdp"),
        "large_first": P("fsdp"),
        "tie": P(None, "fsdp"),
        "only_first": P("fsdp"),
        "odd": P(),
        "small": P(),
        "conv": P(None, None, None, "fsdp"),
    }


def test_an_axis_of_size_one_splits_nothing(params):
    mesh = create_mesh(MeshSettings())
    assert set(specs(shardings(params, mesh, SMALL)).values()) == {P()}


def test_first_matching_rule_wins_and_lists_from_json_will_do(mesh, params):
    settings = Sharding(
        rules=(
            ("wide/kernel", [None, ["fsdp", "tensor"]]),
            ("head/kernel", ("fsdp", "tensor")),
            ("kernel", "replicated"),
            ("bias$", "replicated"),
            (".*", "fsdp"),
        ),
        fsdp_min_size=1,
    )
    with pytest.raises(UserError, match=r"'kernel' has no effect.*'head/kernel'"):
        shardings(params, mesh, settings)
    rules = tuple(rule for rule in settings.rules if rule[0] != "kernel")
    found = specs(shardings(params, mesh, Sharding(rules=rules, fsdp_min_size=1)))
    assert found["wide/kernel"] == P(None, ("fsdp", "tensor"))
    assert found["head/kernel"] == P("fsdp", "tensor")
    assert found["wide/bias"] == found["head/bias"] == P()


def test_parameters_without_a_rule_are_fully_sharded(mesh, params):
    found = specs(shardings(params, mesh, Sharding((("bias", "replicated"),), fsdp_min_size=16)))
    assert found["wide/bias"] == P()
    assert found["wide/kernel"] == P(None, "fsdp")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("wide/kernal", "fsdp"), "'wide/kernal' matches no parameter: nearest .* wide/kernel"),
        (("heads?/kernel_", "fsdp"), "matches no parameter: nearest names are head/kernel"),
        (("kernel", ["fsdp", "tensr"]), "cannot be split over 'tensr'"),
        (("kernel", ["data"]), "cannot be split over 'data'"),
        (("kernel", ["fsdp", "fsdp"]), "uses a mesh axis twice"),
        (("kernel", "fdsp"), "unknown strategy 'fdsp'"),
        (("kernel", [4]), "cannot be split over '4'"),
        ("kernel", "'kernel' must be a pair"),
        (("kernel", "fsdp", 3), "must be a pair"),
        (("kernel", 4), "neither a strategy nor a list"),
        (("(kernel", "fsdp"), "is no regular expression"),
        (("bias", [None, "fsdp"]), r"lists 2 dimensions but 'head/bias' has shape \(8,\)"),
    ],
)
def test_wrong_rules_are_named(mesh, params, rule, message):
    with pytest.raises(UserError, match=message):
        shardings(params, mesh, Sharding(rules=(rule,)))


def test_what_does_not_divide_is_refused(mesh):
    settings = Sharding(rules=(("odd", [None, ["fsdp", "tensor"]]),))
    message = r"dimension 1 of 'odd' with shape \(8, 12\) cannot be split over fsdp=4 x tensor=2"
    with pytest.raises(UserError, match=message):
        shardings(abstract(odd=(8, 12)), mesh, settings)


@pytest.mark.parametrize("trained", [False, True])
def test_optimizer_state_and_average_follow_their_parameter(mesh, trained):
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    if trained:
        labels = {"wide": "frozen", "head": "trained"}
        optimizer = optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
    state = jax.eval_shape(init_with(optimizer), jax.random.key(0))
    rules = (("wide/kernel", ["tensor"]), ("head/kernel", ["tensor", "fsdp"]))
    found = specs(state_shardings(state, mesh, Sharding(rules, fsdp_min_size=64)))
    wanted = {
        "wide/kernel": P("tensor"),
        "head/kernel": P("tensor", "fsdp"),
        "wide/bias": P("fsdp"),
        "head/bias": P(),
    }
    followers = dict.fromkeys(wanted, 0)
    for name, spec in found.items():
        for parameter in wanted:
            if name.endswith("/" + parameter):
                assert spec == wanted[parameter], name
                followers[parameter] += 1
    moments = {"wide": 0 if trained else 2, "head": 2}
    assert followers == {name: 2 + moments[name[:4]] for name in wanted}  # params, ema, moments
    assert found["step"] == P()
    assert found["model_state/batch_stats/mean"] == P("fsdp")
    assert found["model_state/batch_stats/queue"] == P("fsdp")


def test_factored_moments_are_placed_by_their_own_shape(mesh):
    optimizer = optax.adafactor(1e-3, min_dim_size_to_factor=8)
    state = jax.eval_shape(init_with(optimizer), jax.random.key(0))
    settings = Sharding(rules=(("wide/kernel", ["fsdp", "tensor"]),), fsdp_min_size=64)
    rows = table(state, state_shardings(state, mesh, settings))
    factored = {row.shape: row.spec for row in rows if "v_" in row.name and "wide/k" in row.name}
    assert factored == {(32,): P(), (64,): P("fsdp")}


def test_sharded_init_equals_the_whole_one_and_shrinks_what_a_device_holds(mesh):
    init = init_with(optax.adam(1e-3))
    key = jax.random.key(7)
    state = jax.eval_shape(init, key)
    placed = state_shardings(state, mesh, SMALL)
    sharded = jax.jit(init, out_shardings=placed)(key)
    whole = jax.jit(init)(key)
    jax.tree.map(np.testing.assert_array_equal, sharded, whole)

    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(sharded))
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(whole))
    assert held < 0.26 * total
    assert sum(row.bytes_per_device for row in table(state, placed)) == held


def test_table_lists_every_leaf(mesh, params):
    rows = {row.name: row for row in table(params, shardings(params, mesh, SMALL))}
    assert list(rows) == [name for name, _ in leaf_names(params)]
    kernel = rows["wide/kernel"]
    assert (kernel.shape, kernel.dtype, kernel.spec) == ((32, 64), "float32", P(None, "fsdp"))
    assert kernel.bytes_per_device == 32 * 64 * 4 // 4


def test_table_knows_random_keys(mesh):
    keys = {"key": jax.eval_shape(lambda: jax.random.key(0))}
    [row] = table(keys, shardings(keys, mesh, SMALL))
    assert row.bytes_per_device == 8


def test_gathering_ahead_moves_parameters_instead_of_activations():
    """Without it the compiler may gather the activations of the whole batch; with it, values are the same."""
    mesh = create_mesh(MeshSettings(data=4, fsdp=2))
    settings = Sharding(fsdp_min_size=8)
    params = {"w1": jnp.ones((64, 128)) * 0.01, "w2": jnp.ones((128, 64)) * 0.02}
    placed = shardings(jax.eval_shape(lambda: params), mesh, settings)
    gather = gather_ahead(placed, settings)

    def loss(params, x, gather):
        params = gather(params)
        return jnp.sum(jnp.tanh(x @ params["w1"]) @ params["w2"])

    x = jax.device_put(
        np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32), batch_sharding(mesh)
    )
    with jax.set_mesh(mesh):
        sharded = jax.device_put(params, placed)
        plain = jax.jit(jax.grad(functools.partial(loss, gather=lambda p: p)), out_shardings=placed)
        ahead = jax.jit(jax.grad(functools.partial(loss, gather=gather)), out_shardings=placed)
        text = ahead.lower(sharded, x).compile().as_text()
        for name, gradient in ahead(sharded, x).items():
            np.testing.assert_allclose(gradient, plain(sharded, x)[name], rtol=1e-5)
    gathered = set(re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", text))
    assert gathered <= {"64,128", "128,64"}, "only parameters are gathered"
    assert gathered


def test_members_are_split_like_the_batch_and_never_gathered():
    mesh = create_mesh(MeshSettings(data=2, fsdp=4))
    settings = Sharding(rules=(("^own", "members"), (".*", "fsdp")), fsdp_min_size=8)
    params = {"own": jnp.ones((16, 24, 32)) * 0.01, "shared": jnp.ones((32, 24)) * 0.1}
    placed = shardings(jax.eval_shape(lambda: params), mesh, settings)
    assert placed["own"].spec == P(("slices", "data", "fsdp"))
    gather = gather_ahead(placed, settings)

    def loss(own, shared, x):
        params = gather({"own": own, "shared": shared})
        return jnp.sum(jnp.tanh(jnp.einsum("sbi,sij->sbj", x, params["own"]) @ params["shared"]) ** 2)

    x = np.random.default_rng(0).normal(size=(16, 4, 24)).astype(np.float32)
    expected = jax.grad(loss)(params["own"], params["shared"], x)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(params, placed)
        gradient = jax.jit(jax.grad(loss), out_shardings=placed["own"])
        compiled = gradient.lower(sharded["own"], sharded["shared"], jax.device_put(x, batch_sharding(mesh)))
        text = compiled.compile().as_text()
        found = gradient(sharded["own"], sharded["shared"], jax.device_put(x, batch_sharding(mesh)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert set(re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", text)) == {"32,24"}, "the shared one alone"
    assert "all-reduce" not in text
    with pytest.raises(UserError, match=r"'own' with shape \(12, 3\) cannot be split in 8 like the batch"):
        shardings({"own": jax.ShapeDtypeStruct((12, 3), jnp.float32)}, mesh, Sharding((("own", "members"),)))
