"""Numbers in digits as they are spoken in English."""

import re

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_THOUSANDS = ("", "thousand", "million", "billion", "trillion")
_LONGEST = 15  # digits; longer ones are read out one by one, as telephone numbers are
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip

_GROUPED = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_NUMBER = re.compile(r"([0-9]+)(?:\.([0-9]+)|(st|nd|rd|th)\b)?")


def spell_numbers(text: str) -> str:
    """Every number in digits as words: 1,250 and 3.5 and 21st, 007 and long ones digit by digit."""
    return _NUMBER.sub(_spell, _GROUPED.sub("", text))


def cardinal(number: int) -> str:
    """Words of a whole number below 10 ** 15: "one hundred five"."""
    if not 0 <= number < 10**_LONGEST:
        raise ValueError(f"{number} has no words here; take 0 to below 10 ** {_LONGEST}")
    groups = [(number // 1000**power % 1000, name) for power, name in enumerate(_THOUSANDS)]
    words = [f"{_below_thousand(value)} {name}" for value, name in reversed(groups) if value]
    return " ".join(" ".join(words).split()) or "zero"


def ordinal(number: int) -> str:
    """Words of a place in order: "twenty first"."""
    *front, last = cardinal(number).split()
    if last in _ORDINALS:
        return " ".join([*front, _ORDINALS[last]])
    return " ".join([*front, f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"])


def _below_thousand(value: int) -> str:
    hundreds, rest = divmod(value, 100)
    words = [_ONES[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        words += [_TENS[rest // 10]]
        rest %= 10
    if rest or not value:
        words += [_ONES[rest]]
    return " ".join(words)


def _spell(match: re.Match[str]) -> str:
    whole, fraction, suffix = match.groups()
    if len(whole) > _LONGEST or (len(whole) > 1 and whole[0] == "0"):
        words = _digits(whole)
    else:
        words = ordinal(int(whole)) if suffix else cardinal(int(whole))
    # Spaces keep a number apart from letters that touch it: "b2" is said as "b two".
    return f" {words} point {_digits(fraction)} " if fraction else f" {words} "


def _digits(text: str) -> str:
    return " ".join(_ONES[int(digit)] for digit in text)
