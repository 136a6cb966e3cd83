"""The network has the published sizes, and streams as it hears whole recordings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.nn.transducer import transducer_loss
from offsites_jax.projects.euphonia.decoding.greedy import greedy, start_greedy
from offsites_jax.projects.euphonia.model import VARIANTS, ModelConfig, Transducer

TINY = ModelConfig(features=5, cells=9, projection=6, embedding=4, joint=7, vocabulary=5, layers=4)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def initialise(config, seed=0):
    one = jnp.ones(1, jnp.int32)
    rows, labels = jnp.zeros((1, 2, config.features)), jnp.zeros((1, 1), jnp.int32)
    return Transducer(config).init(jax.random.key(seed), rows, 2 * one, labels, one)["params"]


@pytest.mark.parametrize(
    ("name", "total", "encoder", "personal"),
    [
        ("rnnt_wp4096", 122_098_304, 98_697_216, 63_258_624),
        ("rnnt_grapheme76", 119_006_924, 98_697_216, 63_258_624),
        ("he2019_wp4096", 120_525_440, 97_124_352, 61_685_760),
        ("he2019_grapheme76", 117_434_060, 97_124_352, 61_685_760),
        ("rnnt_small", 3_171_488, None, 1_746_944),
    ],
)
def test_published_sizes(name, total, encoder, personal):
    params = jax.eval_shape(lambda: initialise(VARIANTS[name]))
    assert count(params) == total
    assert encoder is None or count(params["encoder"]) == encoder
    assert sum(count(params["encoder"][f"layers_{index}"]) for index in range(5)) == personal


@pytest.fixture(scope="module")
def params():
    return initialise(TINY)


@pytest.fixture(scope="module")
def heard():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(3, 14, 5)), jnp.float32), jnp.array([14, 9, 1])


def test_pieces_of_a_stream_are_encoded_as_the_whole(params, heard):
    rows, counts = heard
    encode = jax.jit(
        lambda rows, counts, states: Transducer(TINY).apply(
            {"params": params}, rows, counts, states, method="encode"
        )
    )
    whole, frames, last = encode(rows, counts, None)
    assert frames.tolist() == [7, 5, 1]
    states, found = None, []
    for start, end in ((0, 2), (2, 8), (8, 14)):
        left = jnp.clip(counts - start, 0, end - start)
        piece, _, states = encode(rows[:, start:end], left, states)
        found.append(piece)
    real = np.arange(7) < np.asarray(frames)[:, None]
    pieces = np.concatenate(found, axis=1)
    np.testing.assert_allclose(pieces[real], np.asarray(whole)[real], atol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(states), jax.tree.leaves(last), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_loss_is_that_of_the_joint_network_written_out(params, heard):
    rows, counts = heard
    model, labels, label_counts = (
        Transducer(TINY),
        jnp.array([[1, 4, 2], [3, 3, 0], [2, 0, 0]]),
        jnp.array([3, 2, 0]),
    )
    found = model.apply({"params": params}, rows, counts, labels, label_counts)
    sound, frames, _ = model.apply({"params": params}, rows, counts, method="encode")
    text, states = [], None
    for said in (jnp.zeros(3, jnp.int32), *labels.T):
        column, states = model.apply({"params": params}, said, states, method="predict_next")
        text.append(column)
    logits = model.apply(
        {"params": params},
        sound[:, :, None],
        jnp.stack(text, 1)[:, None],
        method=lambda m, s, t: m.joint(s, t),
    )
    expected = transducer_loss(logits, labels, frames, label_counts)
    np.testing.assert_allclose(found["nll"], expected, rtol=1e-5)


def test_the_row_of_the_blank_is_never_looked_up(params, heard):
    rows, counts = heard

    def loss(table):
        changed = {**params, "predictor": {**params["predictor"], "embedding": table}}
        labels, none = jnp.array([[1, 0], [2, 4], [0, 0]]), jnp.array([1, 2, 0])
        return Transducer(TINY).apply({"params": changed}, rows, counts, labels, none)["nll"].sum()

    gradient = jax.grad(loss)(params["predictor"]["embedding"])
    assert not np.any(gradient[0])
    assert np.any(gradient[1])
    assert not np.any(gradient[3])


def by_hand(params, sound, count, most, labels_per_frame):
    """Greedy decoding of one utterance, one decision at a time."""
    model = Transducer(TINY)
    text, states = model.apply({"params": params}, jnp.zeros(1, jnp.int32), None, method="predict_next")
    said, frames, total = [], [], 0.0
    for frame in range(count):
        for emitted in range(labels_per_frame + 1):
            scores = np.asarray(model.apply({"params": params}, sound[frame][None], text, method="scores"))[0]
            full = len(said) == most or emitted == labels_per_frame
            best = 0 if full else int(scores.argmax())
            total += scores[best]
            if not best:
                break
            said.append(best)
            frames.append(frame)
            text, states = model.apply({"params": params}, jnp.array([best]), states, method="predict_next")
    return said, frames, total


@pytest.mark.parametrize(("most", "labels_per_frame"), [(12, 2), (3, 3)])
def test_greedy_decoding_is_one_decision_after_another(heard, most, labels_per_frame):
    # Scaled up, so that labels are emitted at all.
    params = jax.tree.map(lambda leaf: 3 * leaf, initialise(TINY, seed=4))
    rows, counts = heard
    sound, frames, _ = Transducer(TINY).apply({"params": params}, rows, counts, method="encode")
    state = start_greedy(Transducer(TINY), params, 3, most)
    halves = [(sound[:, :3], jnp.minimum(frames, 3)), (sound[:, 3:], jnp.maximum(frames - 3, 0))]
    for part, left in halves:
        state = greedy(Transducer(TINY), params, part, left, state, labels_per_frame=labels_per_frame)
    emitted = 0
    for row in range(3):
        labels, at, total = by_hand(params, sound[row], int(frames[row]), most, labels_per_frame)
        number = int(state.said.counts[row])
        assert state.said.labels[row, :number].tolist() == labels
        assert state.said.frames[row, :number].tolist() == at
        np.testing.assert_allclose(state.said.log_probs[row], total, rtol=1e-5)
        emitted += number
    assert emitted > 3


def test_impossible_sizes_are_named():
    with pytest.raises(UserError, match=r"model.reduce_after: is 9, must be at most layers = 8"):
        ModelConfig(reduce_after=9)
    with pytest.raises(UserError, match=r"model.vocabulary: is 1"):
        ModelConfig(vocabulary=1)
