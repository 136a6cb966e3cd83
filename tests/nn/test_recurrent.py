"""The projected LSTM against torch, against its equations in float64 numpy, and against itself in pieces."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from offsites_jax.errors import UserError
from offsites_jax.nn.recurrent import (
    LSTMParameters,
    LSTMSettings,
    LSTMState,
    ProjectedLSTM,
    initial_state,
    projected_lstm,
    reduce_time,
)

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden/projected_lstm.npz")
SMALL = LSTMSettings(cells=6, projection=4)
FORMS = {
    "plain": SMALL,
    "capped": LSTMSettings(cells=6, projection=4, cell_cap=0.3),
    "cell norm": LSTMSettings(cells=6, projection=4, ln_on_c=True, epsilon=1e-2),
    "residual": LSTMSettings(cells=6, projection=4, residual=True, layer_norm=False, cell_cap=None),
}
BATCH, FRAMES, WIDTH = 8, 9, 4
LENGTHS = np.array([9, 1, 4, 0, 9, 2, 7, 9])
MASK = np.arange(FRAMES) < LENGTHS[:, None]


def from_torch(name, *, gradient=False):
    """A kernel or bias in torch's layout (i, f, g, o; output first) in ours (g, i, f, o; input first)."""
    values = GOLDEN[f"gradient/{name}" if gradient else name]
    enter, forget, candidate, leave = np.split(values, 4)
    return np.stack([candidate, enter, forget, leave]).transpose(*range(2, values.ndim + 1), 0, 1)


def close(found, expected, tolerance=1e-5):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_without_layer_norm_it_is_torch_and_so_are_its_gradients():
    settings = LSTMSettings(cells=6, projection=3, layer_norm=False, cell_cap=None)
    kernels = (from_torch("weight_ih_l0"), from_torch("weight_hh_l0"), GOLDEN["weight_hr_l0"].T)
    bias = from_torch("bias_ih_l0") + from_torch("bias_hh_l0")
    parameters = LSTMParameters(*(x.astype(np.float32) for x in (*kernels, bias)))
    state = LSTMState(*(GOLDEN[name].astype(np.float32) for name in ("output0", "cell0")))

    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def run(parameters, x):
        y, last = projected_lstm(parameters, x, None, state, settings)
        return (y * GOLDEN["weights"].astype(np.float32)).sum(), (y, last)

    (_, (y, last)), (to_parameters, to_x) = jax.jit(run)(parameters, GOLDEN["x"].astype(np.float32))
    close((y, last), (GOLDEN["y"], GOLDEN["output"], GOLDEN["cell"]))
    expected = [from_torch(f"{name}_l0", gradient=True) for name in ("weight_ih", "weight_hh")]
    expected += [GOLDEN["gradient/weight_hr_l0"].T, from_torch("bias_ih_l0", gradient=True)]
    close((to_parameters, to_x), (*expected, GOLDEN["gradient/x"]))


def drawn(settings, width=WIDTH):
    """Parameters, input and a state, float64; norms are not at their initial values."""
    draw = np.random.default_rng(0)
    cells, projection = settings.cells, settings.projection
    shapes = [(width, 4, cells), (projection, 4, cells), (cells, projection), (4, cells)]
    arrays = [draw.standard_normal(shape) for shape in shapes]
    arrays.append(draw.uniform(0.5, 2, (4, cells)) if settings.layer_norm else None)
    cell_norm = (None, None)
    if settings.ln_on_c:
        cell_norm = (draw.uniform(0.5, 2, cells), draw.standard_normal(cells))
    x = draw.standard_normal((BATCH, FRAMES, width))
    state = LSTMState(*(0.2 * draw.standard_normal((BATCH, size)) for size in (projection, cells)))
    return LSTMParameters(*arrays, *cell_norm), x, state


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def norm(x, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def by_equations(parameters, x, lengths, state, settings):
    """One utterance after the other, one frame after the other."""
    y = np.zeros((*x.shape[:2], settings.projection))
    m, c = (part.copy() for part in state)
    whole = np.concatenate([parameters.input_kernel, parameters.recurrent_kernel])
    for row, length in enumerate(lengths):
        for t in range(length):
            z = np.concatenate([x[row, t], m[row]]) @ whole.reshape(len(whole), -1)
            z = z.reshape(4, settings.cells)
            if settings.layer_norm:
                z = norm(z, settings.epsilon) * parameters.scale
            g, i, f, o = z + parameters.bias
            c[row] = sigmoid(f) * c[row] + sigmoid(i) * np.tanh(g)
            if settings.cell_cap:
                c[row] = np.clip(c[row], -settings.cell_cap, settings.cell_cap)
            seen = c[row]
            if settings.ln_on_c:
                seen = norm(seen, settings.epsilon) * parameters.cell_scale + parameters.cell_bias
            m[row] = (sigmoid(o) * np.tanh(seen)) @ parameters.projection
            y[row, t] = m[row] + (x[row, t] if settings.residual else 0)
    return y, LSTMState(m, c)


def single(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


@functools.partial(jax.jit, static_argnums=4)
def run(parameters, x, mask, state, settings):
    return projected_lstm(parameters, x, mask, state, settings)


@pytest.mark.parametrize("form", FORMS)
def test_follows_its_equations(form):
    settings = FORMS[form]
    parameters, x, state = drawn(settings)
    expected = by_equations(parameters, x, LENGTHS, state, settings)
    close(run(*single((parameters, x)), MASK, single(state), settings), expected, 2e-5)


def weighted(parameters, x, state, mask, settings):
    y, last = projected_lstm(parameters, x, mask, state, settings)
    return sum((jnp.cos(jnp.arange(part.size).reshape(part.shape)) * part).sum() for part in (y, *last))


weighted_gradients = jax.jit(jax.grad(weighted, (0, 1, 2)), static_argnums=4)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_finite_differences_of_the_equations(form):
    settings = FORMS[form]
    point = drawn(settings)
    draw = np.random.default_rng(5)
    direction = jax.tree.map(lambda a: draw.standard_normal(a.shape), point)

    def value(step):
        parameters, x, state = jax.tree.map(lambda a, b: a + step * b, point, direction)
        y, last = by_equations(parameters, x, LENGTHS, state, settings)
        return sum((np.cos(np.arange(part.size).reshape(part.shape)) * part).sum() for part in (y, *last))

    gradients = weighted_gradients(*single(point), MASK, settings)
    slope = sum(np.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (gradients, direction)), strict=True))
    np.testing.assert_allclose(slope, (value(1e-6) - value(-1e-6)) / 2e-6, rtol=1e-4)


def test_frames_that_do_not_exist_may_hold_nan_and_change_nothing():
    parameters, x, state = single(drawn(SMALL))
    dirty = jnp.where(MASK[..., None], x, jnp.nan)
    y, last = run(parameters, dirty, MASK, state, SMALL)
    np.testing.assert_array_equal(np.asarray(y)[~MASK], 0)
    np.testing.assert_array_equal(last.cell[3], state.cell[3])
    np.testing.assert_array_equal(last.output[3], state.output[3])
    clean = weighted_gradients(parameters, x, state, MASK, SMALL)
    found = weighted_gradients(parameters, dirty, state, MASK, SMALL)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(clean), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(np.asarray(found[1])[~MASK], 0)


@pytest.mark.parametrize("sizes", [(1,) * 9, (4, 5), (2, 6, 1)])
def test_chunks_give_what_one_run_gives(sizes):
    parameters, x, state = single(drawn(SMALL))
    whole = run(parameters, x, MASK, state, SMALL)
    pieces, ends = [], np.cumsum(sizes)
    for begin, end in zip(ends - sizes, ends, strict=True):
        y, state = run(parameters, x[:, begin:end], MASK[:, begin:end], state, SMALL)
        pieces.append(y)
    close((jnp.concatenate(pieces, 1), state), whole, 1e-6)


def test_speakers_are_mapped_over_as_if_alone():
    parameters, x, state = single(drawn(SMALL))
    several = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), parameters)
    mapped = jax.jit(jax.vmap(lambda p: weighted_gradients(p, x, state, MASK, SMALL)))(several)
    for row, scale in enumerate((1, 0.5)):
        alone = weighted_gradients(jax.tree.map(lambda a, s=scale: a * s, parameters), x, state, MASK, SMALL)
        close(jax.tree.map(lambda a, row=row: a[row], mapped), alone, 1e-4)


def test_a_batch_split_over_eight_devices_gives_the_same():
    parameters, x, _ = single(drawn(SMALL))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("data"), PartitionSpec()

    def gradients(parameters, x, mask):
        def total(parameters):
            y, last = projected_lstm(parameters, x, mask, initial_state(len(x), SMALL), SMALL)
            return jnp.square(y).sum() + jnp.square(last.cell).sum()

        return jax.grad(total)(parameters)

    by_hand = jax.shard_map(gradients, mesh=mesh, in_specs=(whole, split, split), out_specs=whole)
    close(jax.jit(by_hand)(parameters, x, MASK), jax.jit(gradients)(parameters, x, MASK), 1e-4)


def test_bfloat16_products_and_a_float32_state():
    parameters, x, _ = single(drawn(SMALL))
    layer = ProjectedLSTM(SMALL, jnp.bfloat16)
    found, last = layer.apply(
        {"params": {k: v for k, v in parameters._asdict().items() if v is not None}}, x, MASK
    )
    expected, _ = run(parameters, x, MASK, initial_state(BATCH, SMALL), SMALL)
    assert (found.dtype, last.cell.dtype, last.output.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.05 * np.abs(expected).max())


def test_gradients_survive_silence_at_the_start_of_eight_layers():
    layers = [ProjectedLSTM(SMALL, name=f"layer_{k}") for k in range(8)]
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 4)), jnp.float32).at[:, :3].set(0)
    variables = [jax.jit(layer.init)(jax.random.key(k), x) for k, layer in enumerate(layers)]

    @jax.jit
    @jax.grad
    def gradients(variables, x=x):
        for layer, own in zip(layers, variables, strict=True):
            x, _ = layer.apply(own, x)
        return jnp.square(x).sum()

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients(variables)))


@pytest.mark.parametrize(
    ("settings", "inputs", "count"),
    [
        (LSTMSettings(), 512, 10_764_288),
        (LSTMSettings(), 1280, 17_055_744),
        (LSTMSettings(ln_on_c=True, epsilon=1e-3), 640, 11_812_864 + 2 * 2048),
    ],
)
def test_counts_of_parameters(settings, inputs, count):
    layer = ProjectedLSTM(settings)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 2, inputs)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_kernels_are_uniform_within_the_inverse_root_of_their_inputs():
    params = ProjectedLSTM(LSTMSettings(cells=64, projection=20)).init(
        jax.random.key(0), jnp.zeros((1, 1, 44))
    )
    params = params["params"]
    for name, bound in (("input_kernel", 64**-0.5), ("recurrent_kernel", 64**-0.5), ("projection", 64**-0.5)):
        assert 0.95 * bound < np.abs(params[name]).max() <= bound
        assert abs(params[name].std() - bound / 3**0.5) < 0.05 * bound


def test_time_is_reduced_by_joining_pairs_and_an_odd_tail_is_joined_with_zeros():
    x = np.arange(2 * 5 * 3, dtype=np.float32).reshape(2, 5, 3)
    dirty = x.copy()
    dirty[1, 3:] = np.nan
    y, lengths = reduce_time(dirty, jnp.array([5, 3]))
    np.testing.assert_array_equal(lengths, [3, 2])
    rows = [np.concatenate([x[0, 2], x[0, 3]]), np.concatenate([x[0, 4], [0, 0, 0]])]
    np.testing.assert_array_equal(y[0, 1:], rows)
    np.testing.assert_array_equal(y[1], [x[1, :2].ravel(), [*x[1, 2], 0, 0, 0], [0] * 6])


@pytest.mark.parametrize(
    "wrong",
    [{"cells": 0}, {"projection": 0}, {"unroll": 0}, {"epsilon": 0.0}, {"cell_cap": 0.0}, {"ln_on_c": True}],
)
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(UserError, match="lstm"):
        LSTMSettings(**wrong)
