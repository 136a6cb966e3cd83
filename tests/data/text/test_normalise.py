"""Text before scoring."""

import pytest

from offsites_jax.data.text.normalise import normalise
from offsites_jax.data.text.numbers import cardinal, ordinal
from offsites_jax.errors import UserError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello,  World!\n", "hello world"),
        ("It\u2019s o\u02bcclock, \u2018quoted\u2019 'words'", "it's o'clock quoted words"),
        ("[laughs] turn {noise} it <beep> on", "turn it on"),
        ("rock-n-roll \u2014 well\u2026yes", "rock n roll well yes"),
        ("the U.S.A. and e.g. this", "the usa and eg this"),
        ("\ufb01ne \uff28\uff29 caf\u0065\u0301", "fine hi caf\u00e9"),
        ("\u00c9T\u00c9 \u0417\u0412\u0423\u041a", "\u00e9t\u00e9 \u0437\u0432\u0443\u043a"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940!", "\u0939\u093f\u0928\u094d\u0926\u0940"),
        ("dial 1 & press 21", "dial one and press twenty one"),
        ("1,250 at 3.5%", "one thousand two hundred fifty at three point five percent"),
        ("the 21st and 100th", "the twenty first and one hundredth"),
        ("room 007, B2", "room zero zero seven b two"),
        ("1,2,3", "one two three"),
        ("1234567890123456", "one two three four five six seven eight nine zero one two three four five six"),
        ("... ' - []", ""),
        ("", ""),
    ],
)
def test_version_1(text, words):
    assert normalise(text) == words
    assert normalise(words) == words  # nothing is left to do
    assert normalise(text, version=1) == words


def test_contractions_are_written_out_on_demand():
    text = "I can't, won't and don't; it's mine, they're John's, I'm here and we'll see you've"
    words = "i can not will not and do not it is mine they are john's i am here and we will see you have"
    assert normalise(text, contractions=True) == words
    assert normalise("isn\u2019t", contractions=True) == normalise("is not")
    assert normalise("Don't") == "don't"


def test_numbers_of_other_languages_stay():
    assert normalise("Appuyez sur 1,", english_numbers=False) == "appuyez sur 1"


@pytest.mark.parametrize(
    ("number", "words", "place"),
    [
        (0, "zero", "zeroth"),
        (12, "twelve", "twelfth"),
        (20, "twenty", "twentieth"),
        (45, "forty five", "forty fifth"),
        (113, "one hundred thirteen", "one hundred thirteenth"),
        (1000, "one thousand", "one thousandth"),
        (1_000_105, "one million one hundred five", "one million one hundred fifth"),
        (999_999_999_999_999, None, None),
    ],
)
def test_numbers(number, words, place):
    if words is None:
        assert cardinal(number).startswith("nine hundred ninety nine trillion nine hundred")
        with pytest.raises(ValueError, match="no words here"):
            cardinal(number + 1)
    else:
        assert (cardinal(number), ordinal(number)) == (words, place)


def test_every_number_below_a_thousand_has_words_of_its_own():
    assert len({cardinal(number) for number in range(1000)}) == 1000
    assert len({ordinal(number) for number in range(1000)}) == 1000


def test_an_unknown_version_is_refused():
    with pytest.raises(UserError, match=r"no version 9; take one of \[1\]"):
        normalise("a", version=9)
