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
from offsites_jax.projects.euphonia.decoding.greedy import greedy, start_greedy
from offsites_jax.projects.euphonia.model import ModelConfig, Transducer

TINY = Transducer(ModelConfig(features=5, cells=9, projection=6, embedding=4, joint=7, vocabulary=4, layers=4))
FRAMES, PER_FRAME, MOST = 3, 2, 6
WIDE = 256  # more than 3 + 9 + 27 + ... texts that come up at once


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

    @functools.cache
    def text(labels):
        before = None if not labels else text(labels[:-1])[1]
        last = jnp.asarray(labels[-1:] or (0,), jnp.int32)
        return TINY.apply({"params": params}, last, before, method="predict_next")

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


def run(params, sound, settings, counts=None, most=MOST, fusion=None):
    @jax.jit
    def search(sound, counts):
        start = start_beam(TINY, params, settings.width, most, fusion)
        state = beam_search(TINY, params, sound, counts, start, settings, fusion)
        return state, ranking(state.beam, settings.length_power)

    counts = jnp.full(len(sound), sound.shape[1]) if counts is None else counts
    return jax.vmap(search)(sound, counts)


def texts_of(found, row):
    """Labels of each hypothesis with its score, the best first."""
    state, (places, scores) = found
    for place, score in zip(places[row].tolist(), scores[row].tolist(), strict=True):
        if np.isfinite(score):
            count = int(state.beam.counts[row, place])
            yield tuple(state.beam.labels[row, place, :count].tolist()), score


def test_a_wide_beam_gives_the_probability_over_all_alignments(params, sound, scores):
    # With one label a frame all of 1 + 3 + 9 + 27 texts fit, and none is left out on the way.
    settings = BeamSettings(width=64, labels_per_frame=1)
    found = run(params, sound, settings)
    for row in range(2):
        expected = enumerate_texts(scores, sound[row], 1)
        ours = dict(texts_of(found, row))
        assert ours.keys() == expected.keys()
        assert len(ours) == 40
        for labels, log_prob in ours.items():
            np.testing.assert_allclose(log_prob, np.log(expected[labels]), atol=2e-5)
        assert list(ours) == sorted(expected, key=lambda labels: -expected[labels])


def test_so_it_does_with_several_labels_a_frame(params, sound, scores):
    settings = BeamSettings(width=WIDE, labels_per_frame=PER_FRAME)
    found = run(params, sound[:, :2], settings)
    expected = enumerate_texts(scores, sound[0, :2], PER_FRAME)
    ours = dict(texts_of(found, 0))
    assert len(expected) == sum(3**length for length in range(5))
    assert ours.keys() == expected.keys()
    for labels, log_prob in ours.items():
        np.testing.assert_allclose(log_prob, np.log(expected[labels]), atol=2e-5)
    np.testing.assert_allclose(np.exp(list(ours.values())).sum(), sum(expected.values()), rtol=1e-5)
