"""A wide beam finds the exact probability of every text, as counted over all alignments."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.decoding.beam import (
    BeamSettings,
    Fusion,
    beam_search,
    ranking,
    start_beam,
)
from offsites_jax.projects.euphonia.model import ModelConfig, Transducer

TINY = Transducer(
    ModelConfig(features=5, cells=9, projection=6, embedding=4, joint=7, vocabulary=4, layers=4)
)
FRAMES, MOST = 3, 6


@pytest.fixture(scope="module")
def params():
    """Scaled up, so that texts differ in probability."""
    one = jnp.ones(1, jnp.int32)
    found = TINY.init(jax.random.key(7), jnp.zeros((1, 2, 5)), 2 * one, jnp.zeros((1, 1), jnp.int32), one)
    return jax.tree.map(lambda leaf: 3 * leaf, found["params"])


@pytest.fixture(scope="module")
def sound():
    return 2 * jax.random.normal(jax.random.key(1), (2, FRAMES, 7))


@pytest.fixture(scope="module")
def scores(params):
    """Log-probabilities of blank and labels at any frame after any labels, as float64, each made once."""

    predict = jax.jit(
        lambda last, before: TINY.apply({"params": params}, last, before, method="predict_next")
    )

    @functools.cache
    def text(labels):
        before = None if not labels else text(labels[:-1])[1]
        return predict(jnp.asarray(labels[-1:] or (0,), jnp.int32), before)

    @functools.cache
    def output():
        output = TINY.apply({"params": params}, method=lambda model: model.joint.output())
        return [np.asarray(part, np.float64) for part in output]

    @functools.cache
    def table(frame, labels):
        hidden = np.tanh(np.asarray(frame, np.float64) + np.asarray(text(labels)[0][0], np.float64))
        logits = hidden @ output()[0] + output()[1]
        return logits - np.log(np.exp(logits).sum())

    return table


def enumerate_texts(scores, sound, per_frame):
    """Probability of every text by adding up all alignments."""
    texts = {}
    for counts in itertools.product(range(per_frame + 1), repeat=len(sound)):
        for labels in itertools.product((1, 2, 3), repeat=sum(counts)):
            total, said = 0.0, 0
            for frame, count in zip(sound, counts, strict=True):
                for label in (*labels[said : said + count], 0):
                    total += scores(tuple(frame.tolist()), labels[:said])[label]
                    said += label > 0
            texts[labels] = texts.get(labels, 0.0) + np.exp(total)
    return texts


def run(params, pieces, counts, settings, most=MOST, fusion=None):
    """Searches utterances whose frames come in pieces."""
    search = jax.jit(jax.vmap(functools.partial(beam_search, TINY, params, settings=settings, fusion=fusion)))
    state = start_beam(TINY, params, settings.width, most, fusion)
    state = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(counts)), state)
    for piece in pieces:
        state = search(piece, jnp.clip(counts, 0, piece.shape[1]), state)
        counts = counts - piece.shape[1]
    return state.beam, jax.vmap(functools.partial(ranking, length_power=settings.length_power))(state.beam)


def texts_of(found, row):
    """Labels of each hypothesis with its score, the best first."""
    beam, (places, scores) = found
    for place, score in zip(places[row].tolist(), scores[row].tolist(), strict=True):
        if np.isfinite(score):
            yield tuple(beam.labels[row, place, : int(beam.counts[row, place])].tolist()), score


def in_order(ours):
    return list(ours) == sorted(ours, key=lambda labels: -ours[labels])


def test_a_wide_beam_gives_the_probability_over_all_alignments(params, sound, scores):
    # All 1 + 3 + 9 + 27 texts fit, and none is left out on the way. The second utterance is shorter.
    settings = BeamSettings(width=40, labels_per_frame=1)
    found = run(params, [sound], jnp.array([3, 2]), settings)
    for row, count in ((0, 3), (1, 2)):
        expected = enumerate_texts(scores, sound[row, :count], 1)
        ours = dict(texts_of(found, row))
        assert ours.keys() == expected.keys()
        assert len(ours) == sum(3**length for length in range(count + 1))
        for labels, log_prob in ours.items():
            np.testing.assert_allclose(log_prob, np.log(expected[labels]), atol=2e-5)
        assert list(ours) == sorted(expected, key=lambda labels: -expected[labels])


def test_so_it_does_with_several_labels_a_frame_piece_by_piece(params, sound, scores):
    settings = BeamSettings(width=121, labels_per_frame=2)
    found = run(params, [sound[:1, :1], sound[:1, 1:2]], jnp.array([2]), settings)
    expected = enumerate_texts(scores, sound[0, :2], 2)
    ours = dict(texts_of(found, 0))
    assert len(expected) == 121
    assert ours.keys() == expected.keys()
    for labels, log_prob in ours.items():
        np.testing.assert_allclose(log_prob, np.log(expected[labels]), atol=2e-5)
    assert in_order(ours)


def test_a_narrow_beam_lists_no_text_twice_and_none_as_too_probable(params, sound, scores):
    settings = BeamSettings(width=4, labels_per_frame=2, length_power=0.7)
    found = run(params, [sound], jnp.array([3, 3]), settings, most=3)
    for row in range(2):
        expected = enumerate_texts(scores, sound[row], 2)
        listed = list(texts_of(found, row))
        ours = dict(listed)
        assert len(ours) == len(listed) == 4
        assert in_order(ours)
        for labels, score in ours.items():
            assert len(labels) <= 3
            assert score * max(len(labels), 1) ** 0.7 <= np.log(expected[labels]) + 2e-5


def test_a_language_model_has_its_say_at_every_label(params, sound, scores):
    # It remembers the label before: a pair of labels has a score, in both directions.
    table = np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32)
    fusion = Fusion(
        jnp.zeros((), jnp.int32), lambda before: jnp.asarray(table)[before], lambda _, label: label
    )
    settings = BeamSettings(width=40, labels_per_frame=1)
    found = run(params, [sound], jnp.array([3, 3]), settings, fusion=fusion)
    for row in range(2):
        ours = dict(texts_of(found, row))
        assert len(ours) == 40
        assert in_order(ours)
        for labels, probability in enumerate_texts(scores, sound[row], 1).items():
            bonus = sum(table[pair] for pair in itertools.pairwise((0, *labels)))
            np.testing.assert_allclose(ours[labels], np.log(probability) + bonus, atol=2e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"width": 0}, "beam.width: is 0"), ({"length_power": -1.0}, "beam.length_power: is -1.0")],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        BeamSettings(**settings)
