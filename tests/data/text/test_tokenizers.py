"""Tokenizers of characters and of word pieces."""

import itertools

import pytest
import sentencepiece

from offsites_jax.data.text.graphemes import ENGLISH, GraphemeTokenizer, train_graphemes
from offsites_jax.data.text.numbers import cardinal
from offsites_jax.data.text.pieces import PieceTokenizer, train_pieces
from offsites_jax.errors import DamagedDataError, UserError

VERBS = ("turn on", "turn off", "open", "close", "dim", "lock", "play")
TEXTS = [
    f"{verb} the light {cardinal(n)} in the {cardinal(7 * n)}"
    for verb, n in itertools.product(VERBS, range(1, 90))
]


def _tokenizers():
    return [
        GraphemeTokenizer(),
        train_graphemes(TEXTS),
        train_pieces(TEXTS, 60),
        train_pieces(TEXTS, 60, "bpe"),
    ]


def test_text_comes_back_and_the_blank_is_never_in_it():
    for tokenizer in _tokenizers():
        for text in TEXTS:
            labels = tokenizer.encode(text)
            assert 0 < min(labels) <= max(labels) < tokenizer.size
            assert tokenizer.decode(labels) == text
            assert tokenizer.decode([0, *labels[:3], 0, *labels[3:], 0]) == text
        assert tokenizer.encode("") == []
        assert tokenizer.decode([]) == ""
        assert len(tokenizer.labels) == tokenizer.size
        assert tokenizer.labels[0] == ""


def test_published_sizes():
    assert GraphemeTokenizer().size == 76
    assert train_graphemes(TEXTS, 76).size == 76
    assert set("".join(TEXTS)) <= set(train_graphemes(TEXTS, 76).labels)
    assert train_graphemes(TEXTS).labels == ("", *sorted(set("".join(TEXTS))))
    assert train_pieces(TEXTS, 60).size == 60


def test_frequent_words_become_one_piece():
    tokenizer = train_pieces(TEXTS, 60, "bpe")
    assert [tokenizer.labels[label] for label in tokenizer.encode("the")] == ["\u2581the"]
    for kind in ("unigram", "bpe"):
        lengths = [len(train_pieces(TEXTS, size, kind).encode(" ".join(TEXTS))) for size in (30, 60)]
        assert lengths[1] < 0.8 * lengths[0]


def test_unknown_characters_are_listed():
    for tokenizer in (train_graphemes(TEXTS), train_pieces(TEXTS, 60)):
        with pytest.raises(UserError, match=r"no label for 'z' \(U\+007A\), '\u00e9' \(U\+00E9\);"):
            tokenizer.encode("open the z\u00e9 z door")
    many = "".join(map(chr, range(0x400, 0x420)))
    with pytest.raises(UserError, match="and 12 more; normalise the text"):
        GraphemeTokenizer().encode(many)


def test_files(tmp_path):
    for tokenizer in _tokenizers():
        file = tmp_path / "vocabulary"
        tokenizer.save(file)
        again = type(tokenizer).load(file)
        assert again.labels == tokenizer.labels
        assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
        assert [entry.name for entry in tmp_path.iterdir()] == ["vocabulary"]
    other = sentencepiece.SentencePieceProcessor(model_file=str(file))
    assert other.decode(other.encode(TEXTS[0])) == TEXTS[0]  # a model like any other


def test_training_gives_the_same_pieces_again(tmp_path):
    for name in ("a", "b"):
        train_pieces(iter(TEXTS), 60).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_damaged_files_are_named(tmp_path):
    file = tmp_path / "broken"
    for content in (b"", b"{", b"[1]", b'{"kind": "pieces"}', b'{"kind": "graphemes"}', b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(DamagedDataError, match="broken: no list of graphemes"):
            GraphemeTokenizer.load(file)
    file.write_bytes(b"no model")
    with pytest.raises(DamagedDataError, match="broken: pieces: no SentencePiece model"):
        PieceTokenizer.load(file)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=str(file), vocab_size=60, minloglevel=2
    )
    with pytest.raises(DamagedDataError, match="has no blank at label 0"):
        PieceTokenizer.load(f"{file}.model")


def test_sizes_that_do_not_fit():
    with pytest.raises(UserError, match=r"20 characters for 10 labels.*drop"):
        train_graphemes(["abcdefghijklmnopqrst"], 11)
    with pytest.raises(UserError, match="only 75 characters for 199 labels"):
        train_graphemes(TEXTS, 200)
    with pytest.raises(UserError, match="no text"):
        train_graphemes([])
    for size in (5, 100_000):
        with pytest.raises(UserError, match=rf"pieces: {size} cannot be trained \(Vocabulary size"):
            train_pieces(TEXTS, size)
    with pytest.raises(UserError, match=r"cannot be trained \(no text\)"):
        train_pieces([])
    with pytest.raises(UserError, match="no character come twice"):
        GraphemeTokenizer("abca")
    assert len(set(ENGLISH)) == len(ENGLISH) == 75
