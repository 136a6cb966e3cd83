"""Labels become the words that their tokenizer spells, with times; files are in the formats of others."""

import itertools
import json

import numpy as np
import pytest

from offsites_jax.data.text.graphemes import GraphemeTokenizer
from offsites_jax.data.text.pieces import train_pieces
from offsites_jax.projects.euphonia.decoding.outputs import Transcript, write_outputs
from offsites_jax.projects.euphonia.decoding.stream import Alternative
from offsites_jax.projects.euphonia.decoding.words import (
    Word,
    captions_of,
    spellings_of,
    text_of,
    words_of,
)

WORDS = (
    Word("turn", 0.0, 0.3),
    Word("it", 0.36, 0.48),
    Word("on", 0.54, 0.72),
    Word("<now>", 3725.1, 3725.64),
)


@pytest.fixture(scope="module")
def pieces():
    return train_pieces(["turn on the light", "turn the light off", "go on", "off it goes"] * 20, 21)


def test_graphemes_become_words_with_the_frames_that_emitted_them():
    tokenizer = GraphemeTokenizer(" abc")
    labels, frames = [1, 2, 3, 1, 1, 4, 2], [0, 2, 2, 3, 5, 6, 9]  # " ab  ca"
    words = words_of(labels, frames, spellings_of(tokenizer), 0.06)
    assert words == (Word("ab", 0.12, 0.18), Word("ca", 0.36, 0.6))
    assert words_of([], [], spellings_of(tokenizer), 0.06) == ()
    assert words_of([1, 1], [0, 4], spellings_of(tokenizer), 0.06) == ()


def test_pieces_become_words_at_their_spaces(pieces):
    labels = pieces.encode("turn the light on")
    words = words_of(labels, range(len(labels)), spellings_of(pieces), 0.06)
    assert [word.text for word in words] == ["turn", "the", "light", "on"]
    assert words[0].start == 0.0
    assert words[-1].end == pytest.approx(0.06 * len(labels))
    for before, after in itertools.pairwise(words):
        assert before.end == after.start


def test_text_is_what_the_tokenizer_decodes_also_of_nonsense(pieces):
    rng = np.random.default_rng(0)
    for tokenizer in (pieces, GraphemeTokenizer()):
        spellings = spellings_of(tokenizer)
        for length in range(12):
            labels = rng.integers(1, tokenizer.size, length).tolist()
            expected = tokenizer.decode(labels).split()
            assert text_of(labels, spellings).split() == expected
            words = words_of(labels, [0] * length, spellings, 0.06)
            assert [word.text for word in words] == expected


def test_more_labels_only_add_to_a_text(pieces):
    rng = np.random.default_rng(1)
    spellings = spellings_of(pieces)
    labels = rng.integers(1, pieces.size, 40).tolist()
    for length in range(40):
        assert text_of(labels[: length + 1], spellings).startswith(text_of(labels[:length], spellings))


def test_captions_break_at_silence_and_where_they_have_grown_too_long():
    assert [one.text for one in captions_of(WORDS, 0.8)] == ["turn it on", "<now>"]
    assert [one.text for one in captions_of(WORDS, 0.8, most_characters=7)] == ["turn it", "on", "<now>"]
    assert [one.text for one in captions_of(WORDS, 0.8, most_seconds=0.4)] == ["turn", "it on", "<now>"]
    assert captions_of((), 0.8) == ()


def test_files_are_in_the_formats_that_others_read(tmp_path):
    nbest = (Alternative("turn it on <now>", -1.5), Alternative("turn on <now>", -2.25))
    said = Transcript("a-1", "ann", WORDS, captions_of(WORDS, 0.8), nbest, 0.123456)
    nothing = Transcript("a-2", "", (), (), (Alternative("", -0.5),), 0.1)
    rejected = [{"utt": "a-3", "reason": "empty"}]
    write_outputs(tmp_path, [said, nothing], {"a-1": "turn it on now", "b": "x"}, rejected)
    read = {file.name: file.read_text() for file in tmp_path.iterdir()}
    rows = [json.loads(line) for line in read["hyp.jsonl"].splitlines()]
    assert rows[0] == {
        "utt": "a-1",
        "speaker": "ann",
        "text": "turn it on <now>",
        "logp": -1.5,
        "nbest": [{"text": "turn it on <now>", "logp": -1.5}, {"text": "turn on <now>", "logp": -2.25}],
        "words": [{"w": w.text, "start": w.start, "end": w.end} for w in WORDS],
        "rtf": 0.1235,
    }
    assert rows[1]["text"] == ""
    assert read["hyp.trn"] == "turn it on <now> (a-1)\n(a-2)\n"
    assert read["ref.trn"] == "turn it on now (a-1)\n"
    assert read["hyp.ctm"].splitlines() == [
        "a-1 1 0.000 0.300 turn",
        "a-1 1 0.360 0.120 it",
        "a-1 1 0.540 0.180 on",
        "a-1 1 3725.100 0.540 <now>",
    ]
    assert read["a-1.srt"] == (
        "1\n00:00:00,000 --> 00:00:00,720\nturn it on\n\n2\n01:02:05,100 --> 01:02:05,640\n<now>\n\n"
    )
    assert read["a-1.vtt"] == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:00.720\nturn it on\n\n"
        "01:02:05.100 --> 01:02:05.640\n&lt;now&gt;\n\n"
    )
    assert read["a-2.vtt"] == "WEBVTT\n\n"
    assert json.loads(read["rejected.jsonl"]) == rejected[0]
