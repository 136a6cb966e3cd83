"""However sound is cut up, put aside and gone on with, what is heard is what the whole gives."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.data.audio import LogMelConfig
from offsites_jax.data.audio.frontend import features
from offsites_jax.data.text.graphemes import GraphemeTokenizer
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.euphonia.decoding import stream
from offsites_jax.projects.euphonia.decoding.beam import BeamSettings, beam_search, ranking, start_beam
from offsites_jax.projects.euphonia.decoding.greedy import greedy, start_greedy
from offsites_jax.projects.euphonia.decoding.listener import Decoding, Listener
from offsites_jax.projects.euphonia.decoding.stream import advance, finish, start_stream, step
from offsites_jax.projects.euphonia.decoding.suspend import load_stream, save_stream
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
BEAM = BeamSettings(width=4, labels_per_frame=2)


def initialise(blank):
    """Parameters of a network that says something: scaled up, and not too fond of blank."""
    one = jnp.ones(1, jnp.int32)
    rows, labels = jnp.zeros((1, 2, 48)), jnp.zeros((1, 1), jnp.int32)
    params = jax.jit(MODEL.init)(jax.random.key(3), rows, 2 * one, labels, one)["params"]
    params = jax.tree.map(lambda leaf: 3 * leaf, params)
    bias = params["joint"]["scores"]["bias"]
    params["joint"]["scores"]["bias"] = bias.at[0].set(blank)
    return params


@pytest.fixture(scope="module")
def listener():
    settings = Decoding(rows=4, labels_per_frame=2, silence=0.12)
    return Listener(MODEL, initialise(-1.0), FRONTEND, GraphemeTokenizer(" abcd"), settings)


@pytest.fixture(scope="module")
def searcher(listener):
    return dataclasses.replace(
        listener, params=initialise(-2.5), decoding=Decoding(rows=4, beam=BEAM, doubts=80)
    )


@pytest.fixture(scope="module")
def sound():
    """A second and a bit of 8 kHz: 46 rows and a few samples more, so pieces and pairs are left over."""
    rng = np.random.default_rng(0)
    loud = np.repeat(rng.uniform(0, 8000, 29), 400)[:11400]
    found = (loud * rng.normal(size=11400)).clip(-32768, 32767).astype(np.int16)
    assert len(features(found, FRONTEND)) % 4 == 3
    return found


@pytest.fixture(scope="module")
def whole(listener, searcher, sound):
    """Frames, greedy hypothesis and beam of the whole recording at once."""

    @jax.jit
    def run(params, beam_params, rows):
        counts = jnp.array([rows.shape[1]])

        def encode(params):
            return MODEL.apply({"params": params}, rows, counts, method="encode")

        frames, frame_counts, _ = encode(params)
        start = start_greedy(MODEL, params, 1, 200)
        said = greedy(MODEL, params, frames, frame_counts, start, labels_per_frame=2).said
        start = start_beam(MODEL, beam_params, BEAM.width, 200)
        beam = beam_search(MODEL, beam_params, encode(beam_params)[0][0], frame_counts[0], start, BEAM).beam
        return frames[0], said, beam, ranking(beam)

    return jax.device_get(run(listener.params, searcher.params, features(sound, FRONTEND)[None]))


def cut(sound, seed):
    """Chunks of very different lengths, some empty."""
    ends = np.sort(np.random.default_rng(seed).integers(0, len(sound), 12))
    return np.split(sound, [0, *ends, ends[-1]])


def run_stream(recogniser, chunks, state=None):
    """The result, and what was heard after each chunk."""
    heard, state = [], state or start_stream(recogniser)
    for chunk in chunks:
        state, new = step(recogniser, state, chunk)
        heard.append(new)
    return finish(recogniser, state), heard


def test_pieces_are_encoded_as_the_whole(listener, sound, whole):
    rows, state, found = features(sound, FRONTEND), start_stream(listener), []
    for start in range(0, len(rows), 4):
        state, frames = advance(listener, state, rows[start : start + 4])
        found.append(frames)
    np.testing.assert_allclose(np.concatenate(found), whole[0], atol=1e-5)
    assert state.frame_count == len(whole[0]) == -(-len(rows) // 2)


def test_chunks_of_any_length_give_what_the_whole_gives_greedily(listener, sound, whole):
    _, said, _, _ = whole
    expected = said.labels[0, : said.counts[0]].tolist()
    before = stream._piece._cache_size()
    for chunks in ([sound], cut(sound, 1), cut(sound, 2), np.split(sound, range(130, len(sound), 130))):
        found, _ = run_stream(listener, chunks)
        assert list(found.labels) == expected
        assert list(found.frames) == said.frames[0, : said.counts[0]].tolist()
        np.testing.assert_allclose(found.alternatives[0].log_prob, said.log_probs[0], rtol=1e-5)
        assert found.text == " ".join(listener.tokenizer.decode(expected).split())
        assert len(found.alternatives) == 1
    assert stream._piece._cache_size() <= before + 1
    # More than one piece has room for, and not all at one place.
    assert len(expected) > 2 * listener.decoding.most_labels
    assert len(set(found.frames)) > 8


def test_a_beam_streams_as_it_searches_the_whole(searcher, sound, whole):
    _, _, beam, (places, scores) = whole
    texts = {}
    for place, score in zip(places, scores, strict=True):
        labels = beam.labels[place, : beam.counts[place]].tolist()
        texts.setdefault(" ".join(searcher.tokenizer.decode(labels).split()), score)
    for chunks in ([sound], cut(sound, 1)):
        found, heard = run_stream(searcher, chunks)
        assert [one.text for one in found.alternatives] == list(texts)
        log_probs = [one.log_prob for one in found.alternatives]
        np.testing.assert_allclose(log_probs, list(texts.values()), atol=1e-3)
        best = int(places[0])
        assert list(found.labels) == beam.labels[best, : beam.counts[best]].tolist()
        assert list(found.frames) == beam.frames[best, : beam.counts[best]].tolist()
    stable = [one.stable for one in heard]
    assert stable[-1]
    assert all(later.startswith(first) for first, later in itertools.pairwise([*stable, found.text]))
    assert all(one.text.startswith(one.stable) for one in heard)


def test_a_beam_goes_on_where_doubts_have_no_room(searcher, sound):
    brief = dataclasses.replace(searcher, decoding=dataclasses.replace(searcher.decoding, doubts=1))
    states = [step(each, start_stream(each), sound)[0] for each in (brief, searcher)]
    assert states[0].decoder.beam.counts.max() <= 1 < states[1].decoder.beam.counts.max()
    found, wide = finish(brief, states[0]), finish(searcher, states[1])
    assert found.frame_count == wide.frame_count
    assert found.alternatives[0].log_prob <= wide.alternatives[0].log_prob + 1e-3


@pytest.mark.parametrize("kind", ["listener", "searcher"])
def test_a_stream_put_aside_goes_on_as_if_it_had_not_been(kind, request, sound, tmp_path):
    recogniser = request.getfixturevalue(kind)
    expected, _ = run_stream(recogniser, [sound])
    state, chunks = start_stream(recogniser), cut(sound, 5)
    for number, chunk in enumerate(chunks):
        save_stream(recogniser, state, tmp_path / f"{number}.npz")
        state, _ = step(recogniser, load_stream(recogniser, tmp_path / f"{number}.npz"), chunk)
    assert finish(recogniser, state) == expected


def test_a_stream_of_another_model_or_a_damaged_one_is_refused(listener, searcher, sound, tmp_path):
    file = tmp_path / "stream.npz"
    state, _ = step(listener, start_stream(listener), sound[:4000])
    save_stream(listener, state, file)
    changed = jax.tree.map(lambda leaf: leaf * 1.001, listener.params)
    for other in (dataclasses.replace(listener, params=changed), searcher):
        with pytest.raises(UserError, match=r"stream\.npz: the stream of another model"):
            load_stream(other, file)
    with pytest.raises(UserError, match=r"none\.npz: no such file"):
        load_stream(listener, tmp_path / "none.npz")
    content = file.read_bytes()
    for damaged in (content[:-100], b"", b"no archive"):
        file.write_bytes(damaged)
        with pytest.raises(DamagedDataError, match=r"stream\.npz: no saved stream"):
            load_stream(listener, file)


def test_an_utterance_has_ended_after_enough_silence(listener, sound):
    found, heard = run_stream(listener, np.split(sound, range(240, len(sound), 240)))
    ended = []
    for one in heard:
        frames = round(one.seconds / 0.06)
        before = [frame for frame in found.frames if frame < frames]
        # At least two frames of 60 ms without a label, once something was said.
        ended.append(bool(before) and frames - 1 - before[-1] >= 2)
    assert [one.ended for one in heard] == ended
    assert any(ended)
    assert not all(ended)


def test_less_than_a_frame_says_nothing(listener):
    found, heard = run_stream(listener, [np.zeros(100, np.int16), np.zeros(0, np.int16)])
    assert found.text == ""
    assert found.labels == ()
    assert found.frame_count == 0
    assert not heard[-1].ended


def test_impossible_settings_are_named():
    with pytest.raises(UserError, match=r"decoding.rows: is 3, must be an even number"):
        Decoding(rows=3)
    with pytest.raises(UserError, match=r"decoding.doubts: is 0"):
        Decoding(doubts=0)
