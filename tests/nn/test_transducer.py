"""The transducer loss against all alignments one by one, warprnnt_numba, finite differences, and itself."""

import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.nn.transducer import fused_transducer_loss, reduce_loss, transducer_loss
from offsites_jax.nn.transducer_arcs import joint_arcs, logit_arcs
from offsites_jax.nn.transducer_lattice import alphas, alphas_by_rows, lattice_loss, occupancies

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden/transducer.npz")
NAMES = sorted(name.removeprefix("loss/") for name in GOLDEN if name.startswith("loss/"))
BATCH, FRAMES, LABELS, VOCABULARY, JOINT = 8, 7, 4, 6, 5


def batch_of(batch=BATCH):
    """Joint parts, labels and lengths; among the latter one frame, no label, more labels than frames."""
    draw = np.random.default_rng(0)
    shapes = ((batch, FRAMES, JOINT), (batch, LABELS + 1, JOINT), (JOINT, VOCABULARY), (VOCABULARY,))
    joint = [draw.standard_normal(shape).astype(np.float32) for shape in shapes]
    labels = draw.integers(1, VOCABULARY, (batch, LABELS))
    frames = np.resize([7, 1, 5, 2, 6, 1, 7, 3], batch)
    counts = np.resize([4, 3, 0, 4, 1, 0, 2, 4], batch)
    return joint, labels, frames, counts


def logits_of(encoded, predicted, kernel, bias):
    return jnp.tanh(encoded[:, :, None] + predicted[:, None]) @ kernel + bias


def all_alignments(logits, labels, blank=0):
    """Log-probability, and how often each arc is used, from every alignment of one utterance, float64."""
    log_p = logits.astype(np.float64)
    log_p = log_p - np.log(np.exp(log_p).sum(-1, keepdims=True))
    frames, count = len(logits), len(labels)
    uses, scores = [], []
    for places in itertools.combinations_with_replacement(range(frames), count):  # the frame of each label
        blanks, speaks = np.zeros((2, frames, count + 1))
        for t in range(frames):
            blanks[t, sum(place <= t for place in places)] = 1
        for u, t in enumerate(places):
            speaks[t, u] = 1
        spoken = [log_p[t, u, labels[u]] for u, t in enumerate(places)]
        scores.append((blanks * log_p[..., blank]).sum() + sum(spoken))
        uses.append((blanks, speaks))
    total = np.logaddexp.reduce(scores)
    return total, np.tensordot(np.exp(np.array(scores) - total), np.array(uses), 1)


@functools.cache
def enumerated():
    """Losses, arc uses and gradients of the sum, of `batch_of`; zeros outside the lengths."""
    joint, labels, frames, counts = batch_of()
    logits = np.asarray(logits_of(*joint), np.float64)
    losses, gradient, uses = [], np.zeros_like(logits), np.zeros((2, *logits.shape[:3]))
    for row, (t, u) in enumerate(zip(frames, counts, strict=True)):
        total, found = all_alignments(logits[row, :t, : u + 1], labels[row, :u])
        losses.append(-total)
        uses[:, row, :t, : u + 1] = found
        p = np.exp(logits[row, :t, : u + 1])
        slope = p / p.sum(-1, keepdims=True) * found.sum(0)[..., None]
        slope[..., 0] -= found[0]
        for place, label in enumerate(labels[row, :u]):
            slope[:, place, label] -= found[1, :, place]
        gradient[row, :t, : u + 1] = slope
    return np.array(losses), uses, gradient


@jax.jit
def unfused(joint, labels, frames, counts):
    logits = logits_of(*joint)
    loss, pull = jax.vjp(lambda logits: transducer_loss(logits, labels, frames, counts), logits)
    return loss, pull(jnp.ones_like(loss))[0]


def test_values_and_gradients_are_those_of_all_alignments():
    losses, _, gradient = enumerated()
    loss, found = unfused(*batch_of())
    np.testing.assert_allclose(loss, losses, rtol=1e-5)
    np.testing.assert_allclose(found, gradient, atol=2e-6)


def test_occupancies_are_how_often_alignments_use_each_arc():
    joint, labels, frames, counts = batch_of()
    arcs = logit_arcs(logits_of(*joint), np.pad(labels, ((0, 0), (0, 1)))[:, None])
    found = occupancies(*arcs, frames, counts)
    np.testing.assert_allclose(found, enumerated()[1], atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_equals_warprnnt(name):
    blank, fastemit = name.split("/")
    data = {key: GOLDEN[key] for key in ("labels", "frames", "counts")}

    @jax.jit
    def losses(logits):
        return transducer_loss(logits, *data.values(), blank=int(blank), fastemit_lambda=float(fastemit))

    loss, pull = jax.vjp(losses, GOLDEN["logits"])
    np.testing.assert_allclose(loss, GOLDEN[f"loss/{name}"], rtol=1e-5)
    np.testing.assert_allclose(pull(jnp.asarray(GOLDEN["weights"]))[0], GOLDEN[f"gradient/{name}"], atol=2e-5)


def test_finite_differences_along_random_directions():
    _, labels, frames, counts = batch_of(3)
    draw = np.random.default_rng(1)
    logits, direction = draw.standard_normal((2, 3, FRAMES, LABELS + 1, VOCABULARY)).astype(np.float32)

    @jax.jit
    def total(logits):
        return transducer_loss(logits, labels, frames, counts).sum()

    step = 1e-2
    slope = (total(logits + step * direction) - total(logits - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, (jax.grad(total)(logits) * direction).sum(), rtol=2e-3)


def test_rows_and_diagonals_reach_cells_alike():
    arcs = -np.random.default_rng(2).exponential(3.0, (2, 3, 9, 6)).astype(np.float32)
    expected = np.full((3, 9, 6), -np.inf)
    expected[:, 0, 0] = 0
    for t, u in itertools.product(range(9), range(6)):
        if t:
            expected[:, t, u] = np.logaddexp(expected[:, t, u], expected[:, t - 1, u] + arcs[0, :, t - 1, u])
        if u:
            expected[:, t, u] = np.logaddexp(expected[:, t, u], expected[:, t, u - 1] + arcs[1, :, t, u - 1])
    np.testing.assert_allclose(alphas(*arcs), expected, rtol=1e-5)
    np.testing.assert_allclose(alphas_by_rows(*arcs), expected, rtol=1e-5)


@functools.partial(jax.jit, static_argnames=("chunk_size", "fastemit_lambda"))
def fused_with_gradients(joint, labels, frames, counts, chunk_size=None, fastemit_lambda=0.0):
    def losses(*joint):
        return fused_transducer_loss(
            *joint, labels, frames, counts, chunk_size=chunk_size, fastemit_lambda=fastemit_lambda
        )

    loss, pull = jax.vjp(losses, *joint)
    return loss, pull(jnp.linspace(0.5, 1.5, len(loss)))


@functools.partial(jax.jit, static_argnames="fastemit_lambda")
def unfused_with_gradients(joint, labels, frames, counts, fastemit_lambda=0.0):
    def losses(*joint):
        return transducer_loss(logits_of(*joint), labels, frames, counts, fastemit_lambda=fastemit_lambda)

    loss, pull = jax.vjp(losses, *joint)
    return loss, pull(jnp.linspace(0.5, 1.5, len(loss)))


def assert_close(found, expected, atol=5e-6):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
def test_fused_equals_unfused(chunk_size):
    found = fused_with_gradients(*batch_of(), chunk_size=chunk_size, fastemit_lambda=0.25)
    assert_close(found, unfused_with_gradients(*batch_of(), fastemit_lambda=0.25))


def test_fused_never_holds_all_logits():
    joint, labels, frames, counts = batch_of()
    program = str(
        jax.make_jaxpr(lambda *a: fused_with_gradients(*a, chunk_size=2))(joint, labels, frames, counts)
    )
    assert f"{BATCH},2,{LABELS + 1},{VOCABULARY}]" in program
    assert f"{FRAMES},{LABELS + 1},{VOCABULARY}]" not in program
    assert f"{FRAMES + 1},{LABELS + 1},{VOCABULARY}]" not in program


@pytest.mark.parametrize("rubbish", [1e4, np.inf, -np.inf, np.nan])
def test_what_lies_outside_the_lengths_does_nothing(rubbish):
    joint, labels, frames, counts = batch_of()
    clean = np.asarray(logits_of(*joint))
    outside = (np.arange(FRAMES)[:, None] >= frames[:, None, None]) | (
        np.arange(LABELS + 1) > counts[:, None, None]
    )
    labels = np.where(np.arange(LABELS) < counts[:, None], labels, -7)

    @jax.jit
    def run(logits):
        loss, pull = jax.vjp(lambda logits: transducer_loss(logits, labels, frames, counts), logits)
        return loss, pull(jnp.ones_like(loss))[0]

    loss, gradient = run(np.where(outside[..., None], np.float32(rubbish), clean))
    assert_close((loss, gradient), unfused(*batch_of()), 0)
    np.testing.assert_array_equal(np.asarray(gradient)[outside], 0)


def test_rubbish_behind_the_ends_of_both_inputs_of_the_joint_does_nothing():
    (encoded, predicted, *output), labels, frames, counts = batch_of()
    late = np.arange(FRAMES)[:, None] >= frames[:, None, None]
    behind = np.arange(LABELS + 1)[:, None] > counts[:, None, None]
    dirty = [np.where(late, np.nan, encoded), np.where(behind, np.inf, predicted), *output]
    found = fused_with_gradients(dirty, labels, frames, counts, chunk_size=3)
    assert_close(found, unfused_with_gradients(*batch_of()))
    np.testing.assert_array_equal(np.asarray(found[1][0])[late[..., 0]], 0)
    np.testing.assert_array_equal(np.asarray(found[1][1])[behind[..., 0]], 0)


def test_extreme_logits_inside_stay_exact():
    _, labels, frames, counts = batch_of(3)
    logits = np.random.default_rng(3).choice([-1e4, 0.0, 1e4], (3, FRAMES, LABELS + 1, VOCABULARY))
    logits += np.random.default_rng(4).standard_normal(logits.shape)
    loss, pull = jax.vjp(
        lambda x: transducer_loss(x, labels, frames, counts), jnp.asarray(logits, jnp.float32)
    )
    gradient = pull(jnp.ones(3))[0]
    for row, (t, u) in enumerate(zip(frames, counts, strict=True)):
        total = best_alignment(logits[row, :t, : u + 1], labels[row, :u])
        np.testing.assert_allclose(loss[row], -total, rtol=1e-5, atol=2e-2)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient.sum(-1), 0, atol=1e-3)


def best_alignment(logits, labels):
    """As `all_alignments`, but stable: log-probability only."""
    log_p = logits - np.logaddexp.reduce(logits, -1, keepdims=True)
    scores = []
    for places in itertools.combinations_with_replacement(range(len(logits)), len(labels)):
        blanks = [log_p[t, sum(place <= t for place in places), 0] for t in range(len(logits))]
        scores.append(sum(blanks) + sum(log_p[t, u, labels[u]] for u, t in enumerate(places)))
    return np.logaddexp.reduce(scores)


def test_an_utterance_left_out_may_hold_nan():
    joint, labels, frames, counts = batch_of()
    dirty = [joint[0].copy(), *joint[1:]]
    dirty[0][1] = np.nan
    valid = np.arange(BATCH) != 1

    @jax.jit
    def gradients(joint):
        def total(joint):
            loss = fused_transducer_loss(*joint, labels, frames, counts, chunk_size=3)
            return reduce_loss(loss, counts, valid)[0]

        return jax.grad(total)(joint)

    clean = [joint[0].copy(), *joint[1:]]
    assert_close(gradients(dirty), gradients(clean))
    np.testing.assert_array_equal(gradients(clean)[0][1], 0)


def test_bfloat16_is_accepted_and_summed_in_float32():
    joint, labels, frames, counts = batch_of()
    narrow = [jnp.asarray(x, jnp.bfloat16) for x in joint]
    loss, gradients = fused_with_gradients(narrow, labels, frames, counts, chunk_size=3)
    expected, wide = unfused_with_gradients([x.astype(jnp.float32) for x in narrow], labels, frames, counts)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=2e-2)
    for one, other in zip(gradients, wide, strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(one.astype(jnp.float32), other, atol=2e-2 * np.abs(other).max())
    logits = logits_of(*narrow)
    as_is = transducer_loss(logits, labels, frames, counts)
    np.testing.assert_array_equal(as_is, transducer_loss(logits.astype(jnp.float32), labels, frames, counts))
    slope = jax.grad(lambda x: transducer_loss(x, labels, frames, counts).sum())(logits)
    assert slope.dtype == jnp.bfloat16


def test_speakers_can_be_mapped_over_with_one_output_layer():
    joint, labels, frames, counts = batch_of()
    halves = [x.reshape(2, BATCH // 2, *x.shape[1:]) for x in (*joint[:2], labels, frames, counts)]

    @jax.jit
    def mapped(kernel, bias, *halves):
        def total(kernel, bias, *halves):
            encoded, predicted, *others = halves
            mapped = jax.vmap(lambda e, p, *o: fused_transducer_loss(e, p, kernel, bias, *o, chunk_size=3))
            losses = mapped(encoded, predicted, *others)
            return (losses.reshape(-1) * jnp.linspace(0.5, 1.5, BATCH)).sum(), losses.reshape(-1)

        (_, losses), found = jax.value_and_grad(total, (2, 3, 0, 1), has_aux=True)(kernel, bias, *halves)
        return losses, (found[0].reshape(joint[0].shape), found[1].reshape(joint[1].shape), *found[2:])

    assert_close(mapped(*joint[2:], *halves), unfused_with_gradients(*batch_of()))


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_batch_split_over_eight_devices_gives_the_same(by_hand):
    joint, labels, frames, counts = batch_of()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("data"), PartitionSpec()
    specs = ((split, split, whole, whole), split, split, split, split)
    weights = np.linspace(0.5, 1.5, BATCH).astype(np.float32)

    def run(joint, labels, frames, counts, weights):
        loss, pull = jax.vjp(
            lambda *j: fused_transducer_loss(*j, labels, frames, counts, chunk_size=3), *joint
        )
        return loss, pull(weights)

    if by_hand:
        run = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=(split, specs[0]))
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    found = jax.jit(run, in_shardings=shardings)(tuple(joint), labels, frames, counts, weights)
    assert_close(found, unfused_with_gradients(*batch_of()))


def test_an_impossible_length_of_zero_frames_is_finite_and_pushes_nothing():
    arcs = jnp.full((2, 3, 2), -1.0), jnp.full((2, 3, 2), -1.0)
    loss, pull = jax.vjp(lambda *a: lattice_loss(*a, jnp.array([0, 3]), jnp.array([0, 1])), *arcs)
    assert loss[0] > 1e20
    for gradient in pull(jnp.ones(2)):
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[0], 0)


def test_arcs_of_the_joint_are_those_of_its_logits():
    joint, labels, _, _ = batch_of()
    labels = np.pad(labels, ((0, 0), (0, 1)), constant_values=2)
    expected = logit_arcs(logits_of(*joint), labels[:, None], 3)
    assert_close(joint_arcs(*joint, labels, 3, 2), expected)
    log_p = jax.nn.log_softmax(logits_of(*joint))
    np.testing.assert_allclose(expected[0], log_p[..., 3], atol=1e-6)
    np.testing.assert_allclose(expected[1][:, 4, 1], log_p[np.arange(BATCH), 4, 1, labels[:, 1]], atol=1e-6)


def test_reductions_leave_invalid_rows_out():
    loss, counts = jnp.array([2.0, 6.0, jnp.nan]), jnp.array([0, 3, 5])
    valid = jnp.array([True, True, False])
    found = {name: reduce_loss(loss, counts, valid, name) for name in ("mean", "sum", "per_label")}
    assert {name: tuple(map(float, pair)) for name, pair in found.items()} == {
        "mean": (8.0, 2.0),
        "sum": (8.0, 1.0),
        "per_label": (4.0, 2.0),
    }
