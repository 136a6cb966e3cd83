"""A split that asks whether training works at all: a few utterances to learn by heart, as many unheard."""

import os
from collections.abc import Iterable

from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.manifest import Utterance
from offsites_jax.projects.euphonia.splits import Split, given_split, phrase_key


def memory_split(
    utterances: Iterable[Utterance], count: int, seconds: tuple[float, float] = (1.0, 4.0)
) -> Split:
    """The first utterances of a corpus for training, the next ones with other phrases for the test.

    In byte order of their names, so that nobody chooses. A test phrase is not one of the training, and has no
    letter that training lacks: a tokenizer trained on it could not write that. All others are in no part.

    Args:
      utterances: with their lengths, as `read_corpus` gives them.
      count: for training; at most as many are for the test.
      seconds: least and greatest length of those that are taken.

    Raises:
      UserError: fewer utterances of that length.

    """
    if count < 1:
        raise UserError(f"{count} utterances to memorize; give 1 or more")
    shortest, longest = seconds
    fitting = [one for one in utterances if one.duration_s and shortest <= one.duration_s <= longest]
    fitting.sort(key=lambda one: os.fsencode(one.utt_id))
    if len(fitting) < count:
        raise UserError(
            f"{len(fitting)} utterances last {shortest:g} to {longest:g} s, fewer than {count}; take fewer"
        )
    learnt, rest = fitting[:count], fitting[count:]
    phrases = {phrase_key(one.text) for one in learnt}
    letters = set().union(*phrases)
    unheard = [
        one for one in rest if (key := phrase_key(one.text)) not in phrases and letters.issuperset(key)
    ]
    part = {one.utt_id: "train" for one in learnt} | {one.utt_id: "test" for one in unheard[:count]}
    return given_split(fitting, lambda one: part.get(one.utt_id))
