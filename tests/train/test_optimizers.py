"""Optimizers against update rules written out in float64 numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.errors import UserError
from offsites_jax.train.optimizers import (
    Optimizer,
    ParameterRule,
    check_patterns,
    create_optimizer,
    learning_rate,
)
from offsites_jax.train.schedules import Schedule
from offsites_jax.train.state import flatten, group_paths, select

RATE = Schedule("linear", peak=0.05, end=0.01, warmup_steps=2, warmup_from=0.02, total_steps=20)
STEPS = 6


def random_tree(seed, kernel=(3, 4)):
    rng = np.random.default_rng(seed)
    return {
        "dense": {"kernel": rng.normal(size=kernel), "bias": rng.normal(size=kernel[1:])},
        "norm": {"scale": rng.normal(size=kernel[1:])},
    }


def as_f32(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def run(section, params, gradients):
    """Parameters after one update per gradient, as the compiled step would move them."""
    tx = create_optimizer(section, params, total_steps=20)

    @jax.jit
    def update(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = as_f32(params)
    state = tx.init(params)
    for grads in gradients:
        params, state = update(params, state, as_f32(grads))
    return params, state


def check(section, rule, *, steps=STEPS, kernel=(3, 4), rtol=1e-5, seed=0):
    """Compares with `rule(path) -> f(w, g, rate, t) -> new w`, one stateful function per leaf."""
    params = random_tree(seed, kernel)
    gradients = [random_tree(seed + 1 + i, kernel) for i in range(steps)]
    found, _ = run(section, params, gradients)
    rate = learning_rate(section, 20)
    for path, start in flatten(params).items():
        update, weight = rule(path), start
        for t, grads in enumerate(gradients, start=1):
            weight = update(weight, flatten(grads)[path], float(rate(t - 1)), t)
        np.testing.assert_allclose(flatten(found)[path], weight, rtol=rtol, atol=1e-6, err_msg=path)


def rms(x):
    return np.sqrt(np.mean(x**2))


def adam_direction(b1, b2, eps):
    m = v = 0.0

    def direction(g, t):
        nonlocal m, v
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        return (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)

    return direction


def test_sgd():
    check(Optimizer("sgd", RATE), lambda _: lambda w, g, rate, t: w - rate * g)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum(nesterov):
    def rule(_):
        velocity = 0.0

        def update(w, g, rate, t):
            nonlocal velocity
            velocity = 0.8 * velocity + g
            return w - rate * (g + 0.8 * velocity if nesterov else velocity)

        return update

    check(Optimizer("momentum", RATE, momentum=0.8, nesterov=nesterov), rule)


def test_adam():
    def rule(_):
        direction = adam_direction(0.5, 0.99, 1e-7)
        return lambda w, g, rate, t: w - rate * direction(g, t)

    check(Optimizer("adam", RATE, b1=0.5, b2=0.99, eps=1e-7), rule)


def test_a_moment_in_bfloat16_takes_half_and_steps_nearly_alike():
    start, gradients = random_tree(0), [random_tree(1 + step) for step in range(STEPS)]
    whole, whole_state = run(Optimizer("adam", RATE), start, gradients)
    half, half_state = run(Optimizer("adam", RATE, moment_dtype="bfloat16"), start, gradients)
    travelled = max(
        np.abs(a - b).max() for a, b in zip(flatten(whole).values(), flatten(start).values(), strict=True)
    )
    apart = max(
        np.abs(a - b).max() for a, b in zip(flatten(whole).values(), flatten(half).values(), strict=True)
    )
    assert 0 < apart < 0.02 * travelled
    sizes = [
        sum(leaf.nbytes for leaf in jax.tree.leaves(state) if leaf.ndim)
        for state in (whole_state, half_state)
    ]
    assert sizes[1] == 0.75 * sizes[0], "the second moment stays as it was"


def test_amsgrad_never_forgets_a_large_gradient():
    def rule(_):
        m = v = largest = 0.0

        def update(w, g, rate, t):
            nonlocal m, v, largest
            m, v = 0.9 * m + 0.1 * g, 0.5 * v + 0.5 * g**2
            largest = np.maximum(largest, v / (1 - 0.5**t))
            return w - rate * (m / (1 - 0.9**t)) / (np.sqrt(largest) + 1e-8)

        return update

    check(Optimizer("adam", RATE, b2=0.5, amsgrad=True), rule)


def test_adamw_decays_weights_but_not_biases_and_scales():
    def rule(path):
        direction = adam_direction(0.9, 0.999, 1e-8)
        decay = 0.1 if path.endswith("kernel") else 0.0
        return lambda w, g, rate, t: w - rate * (direction(g, t) + decay * w)

    check(Optimizer("adamw", RATE, weight_decay=0.1), rule)


def test_rmsprop_is_tensorflows():
    def rule(_):
        mean_square, momentum = 1.0, 0.0

        def update(w, g, rate, t):
            nonlocal mean_square, momentum
            mean_square = mean_square + (g * g - mean_square) * (1 - 0.9)
            momentum = 0.9 * momentum + rate * g / np.sqrt(mean_square + 1e-3)
            return w - momentum

        return update

    check(Optimizer("rmsprop_tf", RATE), rule, steps=20, rtol=3e-6)


def test_lamb():
    def rule(path):
        direction = adam_direction(0.9, 0.999, 1e-6)
        decay = 0.1 if path.endswith("kernel") else 0.0

        def update(w, g, rate, t):
            step = direction(g, t) + decay * w
            return w - rate * step * np.linalg.norm(w) / np.linalg.norm(step)

        return update

    check(Optimizer("lamb", RATE, weight_decay=0.1), rule)


def test_adafactor_factors_matrices():
    def rule(path):
        rows = columns = full = 0.0

        def second_moment(g, t):
            nonlocal rows, columns, full
            keep = 1 - t**-0.8
            if g.ndim == 1:
                full = keep * full + (1 - keep) * g**2
                return full
            rows = keep * rows + (1 - keep) * (g**2).mean(1)
            columns = keep * columns + (1 - keep) * (g**2).mean(0)
            return np.outer(rows, columns) / rows.mean()

        def update(w, g, rate, t):
            step = g / np.sqrt(second_moment(g, t))
            return w - rate * step / max(1.0, rms(step)) * max(rms(w), 1e-3)

        return update

    check(Optimizer("adafactor", RATE), rule, kernel=(128, 130), steps=3)


def test_lion():
    def rule(path):
        m, decay = 0.0, 0.1 if path.endswith("kernel") else 0.0

        def update(w, g, rate, t):
            nonlocal m
            step = np.sign(0.9 * m + 0.1 * g)
            m = 0.99 * m + 0.01 * g
            return w - rate * (step + decay * w)

        return update

    check(Optimizer("lion", RATE, weight_decay=0.1), rule)


def test_sm3():
    def rule(_):
        covers, average = None, 0.0

        def update(w, g, rate, t):
            nonlocal covers, average
            if covers is None:
                covers = [np.zeros(n) for n in g.shape]
            axes = range(g.ndim)
            spread = [np.expand_dims(covers[i], [j for j in axes if j != i]) for i in axes]
            bound = g**2 + np.minimum.reduce(np.broadcast_arrays(*spread))
            covers = [bound.max(tuple(j for j in axes if j != i)) for i in axes]
            average = 0.7 * average + 0.3 * g / np.sqrt(bound)
            return w - rate * average

        return update

    check(Optimizer("sm3", RATE, momentum=0.7), rule)


def test_l2_passes_through_the_optimizer():
    def rule(path):
        direction = adam_direction(0.9, 0.999, 1e-8)
        l2 = 0.1 if path.endswith("kernel") else 0.0
        return lambda w, g, rate, t: w - rate * direction(g + l2 * w, t)

    check(Optimizer("adam", RATE, l2=0.1), rule)


def test_global_clip_counts_every_tensor_and_the_l2_gradient():
    params, grads = random_tree(0), random_tree(1)
    found, _ = run(Optimizer("sgd", 1.0, clip_norm=0.5, l2=0.3), params, [grads])
    grads["dense"]["kernel"] = grads["dense"]["kernel"] + 0.3 * params["dense"]["kernel"]
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    assert norm > 0.5
    wanted = jax.tree.map(lambda w, g: w - g * 0.5 / norm, params, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, wanted)


def test_clip_per_tensor_leaves_short_gradients_alone():
    params = {"long": np.zeros(4), "short": np.zeros(4), "zero": np.zeros(4)}
    grads = {"long": np.full(4, 50.0), "short": np.full(4, 0.1), "zero": np.zeros(4)}
    found, _ = run(Optimizer("sgd", 1.0, clip_norm_per_tensor=5.0), params, [grads])
    np.testing.assert_allclose(found["long"], np.full(4, -2.5), rtol=1e-6)
    np.testing.assert_allclose(found["short"], np.full(4, -0.1), rtol=1e-6)
    np.testing.assert_array_equal(found["zero"], np.zeros(4))


def test_settings_scale_rates_and_the_first_match_holds():
    params, grads = random_tree(0), random_tree(1)
    rules = (ParameterRule("^dense/bias", rate=3.0), ParameterRule("^dense/", rate=0.1))
    found, _ = run(Optimizer("sgd", 0.5, settings=rules), params, [grads])
    for path, factor in {"dense/bias": 1.5, "dense/kernel": 0.05, "norm/scale": 0.5}.items():
        wanted = flatten(params)[path] - factor * flatten(grads)[path]
        np.testing.assert_allclose(flatten(found)[path], wanted, rtol=1e-5, err_msg=path)


@pytest.mark.parametrize(
    ("section", "decaying"),
    [
        (Optimizer("sgd", 1.0, weight_decay=0.1), {"dense/kernel"}),
        (Optimizer("sgd", 1.0, weight_decay=0.1, decay_mask=("bias", "^norm")),
         {"dense/bias", "norm/scale"}),
        (Optimizer("sgd", 1.0, weight_decay=0.1, decay_mask=("",),
                   settings=(ParameterRule("dense", weight_decay=False),)), {"norm/scale"}),
        (Optimizer("sgd", 1.0, l2=0.1, decay_mask=("scale$",)), {"norm/scale"}),
    ],
)  # fmt: skip
def test_decay_masks(section, decaying):
    params = jax.tree.map(np.ones_like, random_tree(0))
    found, _ = run(section, params, [jax.tree.map(np.zeros_like, params)])
    moved = {path for path, weight in flatten(found).items() if np.any(weight != 1)}
    assert moved == decaying
    np.testing.assert_allclose(flatten(found)[min(decaying)], 0.9, rtol=1e-6)


def test_scanned_biases_do_not_decay():
    params = {"layers": {"kernel": np.ones((5, 3, 4)), "bias": np.ones((5, 4))}}
    zeros = jax.tree.map(np.zeros_like, params)
    found, _ = run(Optimizer("sgd", 1.0, weight_decay=0.1), params, [zeros])
    np.testing.assert_allclose(found["layers"]["kernel"], 0.9, rtol=1e-6)
    np.testing.assert_array_equal(found["layers"]["bias"], 1.0)


NAMES = ["sgd", "momentum", "adam", "adamw", "rmsprop_tf", "lamb", "adafactor", "lion", "sm3"]


@pytest.mark.parametrize("name", NAMES)
def test_state_is_arrays_with_int32_counts_and_stable_types(name):
    params = random_tree(0)
    section = Optimizer(name, RATE, clip_norm=1.0, settings=(ParameterRule("dense", 0.1),))
    tx = create_optimizer(section, jax.eval_shape(lambda: as_f32(params)), 20)
    before = jax.eval_shape(tx.init, as_f32(params))
    grads = as_f32(params)
    after = jax.eval_shape(lambda s: tx.update(grads, s, grads)[1], before)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(before))
    kinds = {leaf.dtype for leaf in jax.tree.leaves(before)}
    assert kinds <= {jnp.dtype("float32"), jnp.dtype("int32")}
    assert jnp.dtype("int32") in kinds
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(before)] == [
        (x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(after)
    ]


def test_frozen_parameters_have_no_state():
    params = random_tree(0)
    section = Optimizer("adam", 1e-3, frozen=("kernel$",))
    trained = group_paths(params, {"main": ".*"}, {"main": section.frozen})["main"]
    tx = create_optimizer(section, select(params, trained), 20)
    shapes = {leaf.shape for leaf in jax.tree.leaves(tx.init(as_f32(select(params, trained))))}
    assert shapes == {(), (4,)}


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def test_members_train_as_each_would_alone():
    """Clipping, decay, schedule and moments are a member's own; one without a usable gradient stays still."""
    section = Optimizer("adamw", RATE, weight_decay=0.1, clip_norm=0.5, members=True)
    members = [random_tree(seed) for seed in range(4)]
    gradients = [[random_tree(10 * seed + step) for step in range(STEPS)] for seed in range(4)]
    for step in range(2, STEPS):  # the third stops, the fourth leaves the real numbers in one weight
        gradients[2][step] = jax.tree.map(np.zeros_like, gradients[2][step])
    gradients[3][1]["dense"]["kernel"][0, 0] = np.nan
    stacked = [
        jax.tree.map(lambda *x: np.stack(x), *[own[step] for own in gradients]) for step in range(STEPS)
    ]
    found, state = run(section, jax.tree.map(lambda *x: np.stack(x), *members), stacked)
    kept = [gradients[0], gradients[1], gradients[2][:2], [g for i, g in enumerate(gradients[3]) if i != 1]]
    for index, (start, own) in enumerate(zip(members, kept, strict=True)):
        alone, alone_state = run(dataclasses.replace(section, members=False), start, own)
        for (path, ours), theirs in zip(
            flatten({"params": found}).items(), jax.tree.leaves(alone), strict=True
        ):
            np.testing.assert_allclose(ours[index], theirs, rtol=1e-5, atol=1e-7, err_msg=path)
        for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(alone_state), strict=True):
            np.testing.assert_allclose(ours[index], theirs, rtol=1e-5, atol=1e-7)


def test_members_share_their_leading_axis():
    shapes = {"a": jax.ShapeDtypeStruct((4, 3), jnp.float32), "b": jax.ShapeDtypeStruct((2,), jnp.float32)}
    with pytest.raises(UserError, match=r"optimizer.members: .* share a leading axis, but have \[2, 4\]"):
        create_optimizer(Optimizer("adam", members=True), shapes, 20)


@pytest.mark.parametrize("name", ["lamb", "adafactor"])
def test_sharded_updates_equal_unsharded_ones(name):
    params, grads = as_f32(random_tree(0, (128, 136))), as_f32(random_tree(1, (128, 136)))
    section = Optimizer(name, 0.1, weight_decay=0.1, clip_norm=0.5, clip_norm_per_tensor=0.4)
    tx = create_optimizer(section, params, 20)

    @jax.jit
    def update(params, grads):
        return tx.update(grads, tx.init(params), params)[0]

    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    sharded = update(jax.device_put(params, split), jax.device_put(grads, split))
    for path, wanted in flatten(update(params, grads)).items():
        np.testing.assert_allclose(flatten(sharded)[path], wanted, rtol=1e-5, atol=1e-7, err_msg=path)


@pytest.mark.parametrize(("how", "factor"), [("none", 1.0), ("linear", 4.0), ("sqrt", 2.0)])
def test_a_larger_batch_raises_the_rate_as_told(how, factor):
    section, params, grads = Optimizer("sgd", RATE, rate_with_batch=how), random_tree(0), random_tree(1)
    tx = create_optimizer(section, params, total_steps=20, batch_ratio=4.0)
    updates, _ = tx.update(as_f32(grads), tx.init(as_f32(params)), as_f32(params))
    for path, update in flatten(updates).items():
        np.testing.assert_allclose(update, -factor * 0.02 * flatten(grads)[path], rtol=1e-6, err_msg=path)
    shown = learning_rate(section, 20, batch_ratio=4.0)
    assert float(shown(1)) == pytest.approx(factor * 0.035)


def test_section_is_read_from_plain_values():
    plain = {
        "name": "adamw",
        "learning_rate": {"name": "cosine", "peak": 1, "warmup_steps": 4},
        "settings": [{"match": "dense", "rate": 2}],
        "frozen": ["norm"],
    }
    section = msgspec.convert(plain, Optimizer)
    assert section.settings == (ParameterRule("dense", 2.0),)
    assert float(learning_rate(section, 20)(2)) == 0.5
    assert msgspec.convert({"learning_rate": 1}, Optimizer).learning_rate == 1


@pytest.mark.parametrize(
    ("section", "names"),
    [
        (Optimizer("adm"), [".name", "adam"]),
        (Optimizer("adam", learning_rate=-1.0), [".learning_rate"]),
        (Optimizer("adam", learning_rate=Schedule("cosine")), [".learning_rate.peak"]),
        (Optimizer("sgd", momentum=0.9), [".momentum", "sgd"]),
        (Optimizer("adam", weight_decay=0.1), [".weight_decay", "adamw"]),
        (Optimizer("rmsprop_tf", weight_decay=0.1), [".weight_decay", "l2"]),
        (Optimizer("adam", b1=1.0), [".b1"]),
        (Optimizer("adam", clip_norm=-1.0), [".clip_norm"]),
        (Optimizer("adamw", decay_mask=("dense/kernal",)), [".decay_mask", "dense/kernel"]),
        (Optimizer("adam", settings=(ParameterRule("nrom"),)), [".settings[0].match", "norm"]),
        (Optimizer("adam", settings=(ParameterRule("norm", 0.0),)), [".settings[0].rate", "frozen"]),
        (Optimizer("adam", settings=(ParameterRule("(norm"),)), [".settings[0].match", "regex"]),
    ],
)  # fmt: skip
def test_errors_name_the_field(section, names):
    with pytest.raises(UserError) as error:
        create_optimizer(section, random_tree(0), 20, where="optimizer.generator")
    message = str(error.value)
    assert message.startswith("config.optimizer.generator.")
    assert "\n" not in message
    assert all(name in message for name in names), message


def test_a_pattern_that_freezes_nothing_is_an_error():
    paths = list(flatten(random_tree(0)))
    check_patterns(["^dense/", "scale"], paths, "optimizer.frozen")
    with pytest.raises(UserError, match=r"config\.optimizer\.frozen: '\^dens/kernel' .* dense/kernel"):
        check_patterns(["bias", "^dens/kernel"], paths, "optimizer.frozen")
