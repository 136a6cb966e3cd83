"""The page of an utterance shows what the network holds of a text: against sums over all ways to say it."""

import itertools
import json
import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.data.audio import LogMelConfig
from offsites_jax.data.audio.frontend import features
from offsites_jax.data.text.graphemes import GraphemeTokenizer
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.analysis.alignment import Pair, align, compare
from offsites_jax.projects.euphonia.analysis.utterance_page import (
    BANNER,
    explain,
    summary,
    word_rows,
    write_explained,
)
from offsites_jax.projects.euphonia.decoding.listener import Decoding, Listener
from offsites_jax.projects.euphonia.decoding.stream import recognise
from offsites_jax.projects.euphonia.decoding.words import Word
from offsites_jax.projects.euphonia.model import ModelConfig, Transducer

MODEL = Transducer(
    ModelConfig(
        features=48,
        cells=9,
        projection=6,
        embedding=4,
        joint=7,
        vocabulary=6,
        layers=3,
        reduce_after=1,
        predictor_layers=1,
    )
)
FRONTEND = LogMelConfig(
    sample_rate=8000, window=256, step=80, fft=512, mels=12, high_hz=3800.0, mean=(7.0,) * 12, std=(2.0,) * 12
)


@pytest.fixture(scope="module")
def listener():
    one = jnp.ones(1, jnp.int32)
    rows, labels = jnp.zeros((1, 2, 48)), jnp.zeros((1, 1), jnp.int32)
    params = jax.jit(MODEL.init)(jax.random.key(3), rows, 2 * one, labels, one)["params"]
    params = jax.tree.map(lambda leaf: 3 * leaf, params)
    bias = params["joint"]["scores"]["bias"]
    params["joint"]["scores"]["bias"] = bias.at[0].set(-1.0)
    return Listener(MODEL, params, FRONTEND, GraphemeTokenizer(" abcd"), Decoding(8, 2))


@pytest.fixture(scope="module")
def sound():
    """Eight rows, four frames."""
    rng = np.random.default_rng(0)
    found = (np.repeat(rng.uniform(0, 8000, 5), 400) * rng.normal(size=2000)).clip(-32768, 32767)
    assert len(features(found.astype(np.int16), FRONTEND)) == 8
    return found.astype(np.int16)


def probabilities(listener, rows, labels):
    """Log-probability of every path [frame of each label], by the model's own step functions, one by one."""
    bind = {"params": listener.params}
    sound, _, _ = MODEL.apply(bind, rows[None], jnp.array([len(rows)]), method="encode")
    text, states = MODEL.apply(bind, jnp.zeros(1, jnp.int32), None, method="predict_next")
    texts = [text]
    for label in labels:
        text, states = MODEL.apply(bind, jnp.array([label]), states, method="predict_next")
        texts.append(text)
    scores = [
        [MODEL.apply(bind, frame[None], text, method="scores")[0] for text in texts] for frame in sound[0]
    ]
    scores = np.asarray(scores, np.float64)  # [frames, labels + 1, vocabulary]
    found = {}
    for path in itertools.combinations_with_replacement(range(len(scores)), len(labels)):
        total = sum(
            scores[frame, place, label] for place, (frame, label) in enumerate(zip(path, labels, strict=True))
        )
        said = [sum(at <= frame for at in path) for frame in range(len(scores))]
        total += sum(scores[frame, count, 0] for frame, count in enumerate(said))
        found[path] = total
    return found


def test_an_alignment_is_the_sum_over_all_ways_to_say_it(listener, sound):
    rows, labels = features(sound, FRONTEND), (2, 1, 5)
    paths = probabilities(listener, rows, labels)
    total = np.logaddexp.reduce(list(paths.values()))
    spoken, passed = np.zeros((4, 3)), np.zeros((4, 4))
    for path, log_prob in paths.items():
        share = np.exp(log_prob - total)
        for place, frame in enumerate(path):
            spoken[frame, place] += share
        for frame in range(4):
            before, after = sum(at < frame for at in path), sum(at <= frame for at in path)
            passed[frame, before : after + 1] += share
    found = align(listener, rows, labels)
    assert found.log_prob == pytest.approx(total, rel=1e-4)
    np.testing.assert_allclose(found.spoken, spoken, atol=1e-4)
    np.testing.assert_allclose(found.passed, passed, atol=1e-4)
    np.testing.assert_allclose(found.spoken.sum(0), 1, atol=1e-5)
    assert [word.text for word in found.words] == ["a", "d"]
    first, last = spoken[:, 0].argmax(), spoken[:, 2].argmax()
    assert found.words[0].start == pytest.approx(first * 0.06)
    assert found.words[1].end == pytest.approx((max(spoken.argmax(0)) + 1) * 0.06)
    assert last <= max(spoken.argmax(0))


def test_words_are_put_side_by_side():
    said, heard = "turn the big light off now", "turn light of now please"
    first, *middle, last = compare(said.split(" "), heard.split(" "))
    assert (first, last) == (Pair(0, 0), Pair(None, 4))
    assert middle == [Pair(1, None), Pair(2, None), Pair(3, 1), Pair(4, 2), Pair(5, 3)]
    assert compare(["a"], []) == (Pair(0, None),)


def test_a_page_tells_what_was_said_and_heard(listener, sound, tmp_path):
    found = explain(listener, sound, "A, cab!")
    heard = recognise(listener, sound)
    assert [word.text for word in found.alignment.words] == ["a", "cab"]
    assert " ".join(word.text for word in found.heard) == heard.text
    assert found.errors.reference == 2
    page = write_explained(tmp_path, found, listener, sound, name="x<1>", recogniser="the base")
    root = ElementTree.fromstring(page.read_text().removeprefix("<!DOCTYPE html>\n"))
    text = " ".join(root.itertext())
    assert "Recording x<1>" in text
    assert BANNER in text
    assert "a cab" in text
    assert heard.text in text
    picture = (tmp_path / "utterance.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["said"] == {"text": "a cab", "logp": found.alignment.log_prob}
    assert stored["wer"] == found.errors.rate
    assert [row["said"] for row in stored["words"] if row["said"]] == ["a", "cab"]


def test_errors_are_told_apart_and_whether_the_search_is_to_blame(listener, sound):
    found = explain(listener, sound, "a cab")
    words = tuple(
        Word(text, 0.06 * place, 0.06 * place + 0.06) for place, text in enumerate(("a", "bad", "cab"))
    )
    pairs = (Pair(0, 0), Pair(None, 1), Pair(1, 2))
    changed = found._replace(heard=words, pairs=pairs, heard_log_prob=found.alignment.log_prob + 2)
    assert [row["verdict"] for row in word_rows(changed)] == ["right", "added", "right"]
    assert "by 2.0 nats" in summary(changed, "the base")
    missed = found._replace(heard=(), pairs=(Pair(0, None), Pair(1, None)), heard_log_prob=-1e3)
    assert [row["verdict"] for row in word_rows(missed)] == ["missed", "missed"]
    assert "Heard by the base: nothing" in summary(missed, "the base")
    assert "a wider beam" in summary(missed, "the base")


def test_what_cannot_be_aligned_is_named(listener, sound):
    with pytest.raises(UserError, match="--text: nothing is left of it"):
        explain(listener, sound, "[noise] ...")
    with pytest.raises(UserError, match=r"no label for 'x'"):
        explain(listener, sound, "a xa")
