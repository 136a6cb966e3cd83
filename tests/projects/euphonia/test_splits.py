"""Splits: phrases stay on one side, shares hold, and nothing depends on who else is in the cohort."""

import dataclasses
import hashlib
import itertools
import json
import random
from collections import Counter

import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.manifest import Utterance
from offsites_jax.projects.euphonia.splits import (
    Parts,
    Split,
    check_split,
    given_split,
    make_split,
    nested_subsets,
    phrase_key,
    read_split,
    write_split,
)

DOMAINS = ("home_automation", "caregiver", "conversational")


def _cohort(speakers=3, phrases=110, repeats=10, prefix=""):
    """Every speaker says each phrase once, and the first few four times more in other spelling."""
    rows = []
    for speaker in range(speakers):
        name = f"E{speaker}"
        for number in range(phrases):
            text = f"{prefix or name} phrase number {number}"
            domain = DOMAINS[0 if number < 80 else 1 if number < 98 else 2]
            for take in range(5 if number < repeats else 1):
                said = text if not take % 2 else f"{text.upper()}!"
                rows.append(Utterance(f"{name}-{number}-{take}", name, "a.wav", said, domain=domain))
    return rows


def test_phrases_stay_together_and_shares_hold():
    rows = _cohort()
    split = make_split(rows, least_utterances=100)
    known = {row.utt_id: row for row in rows}
    for speaker, parts in split.speakers.items():
        own = [row.utt_id for row in rows if row.speaker == speaker]
        assert sorted((*parts.train, *parts.dev, *parts.test)) == sorted(own)
        keys = [{known[name].text.lower().rstrip("!") for name in part} for part in parts]
        assert not keys[0] & keys[1]
        assert not keys[0] & keys[2]
        assert not keys[1] & keys[2]
        assert 0.1 * len(own) <= len(parts.test) <= 0.1 * len(own) + 8
        rest = len(own) - len(parts.test)
        assert 0.1 * rest <= len(parts.dev) < 0.1 * rest + 5
        domains = Counter(known[name].domain for name in parts.test)
        assert set(domains) == set(DOMAINS)
    check_split(split, rows)


def test_test_is_the_first_phrases_in_order_of_digest():
    rows = [Utterance(f"u{n}", "E0", "a.wav", f"word {chr(97 + n)}") for n in range(9)]
    order = sorted(rows, key=lambda row: hashlib.sha256(f"7\0E0\0{row.text}".encode()).digest())
    split = make_split(rows, seed=7, test_share=0.3, dev_share=0.5, least_utterances=1)
    names = [row.utt_id for row in order]
    assert split.speakers["E0"] == Parts(
        *(tuple(sorted(part)) for part in (names[6:], names[3:6], names[:3]))
    )


def test_order_of_rows_and_other_speakers_change_nothing():
    rows = _cohort()
    split = make_split(rows, seed=1, least_utterances=100)
    shuffled = rows[:]
    random.Random(0).shuffle(shuffled)
    assert make_split(shuffled, seed=1, least_utterances=100) == split
    alone = make_split([row for row in rows if row.speaker == "E1"], seed=1, least_utterances=100)
    assert alone.speakers["E1"] == split.speakers["E1"]
    assert make_split(rows, seed=2, least_utterances=100).speakers != split.speakers


def test_small_speakers_wait_until_they_are_asked_for():
    rows = _cohort(speakers=2, phrases=299, repeats=0)
    rows.append(Utterance("E1-extra", "E1", "a.wav", "one more"))
    split = make_split(rows)
    assert (set(split.speakers), split.small) == ({"E1"}, {"E0": 299})
    allowed = make_split(rows, allow_small=True)
    assert (set(allowed.speakers), allowed.small) == ({"E0", "E1"}, {"E0": 299})


def test_tests_of_all_speakers_can_be_disjoint_from_everyones_training():
    rows = _cohort(prefix="common")
    known = {row.utt_id: row for row in rows}

    def shared(split):
        tested = {phrase_key(known[n].text) for parts in split.speakers.values() for n in parts.test}
        others = [n for parts in split.speakers.values() for n in (*parts.train, *parts.dev)]
        return tested & {phrase_key(known[n].text) for n in others}

    assert shared(make_split(rows, least_utterances=100))
    split = make_split(rows, least_utterances=100, cross_speaker_disjoint=True)
    assert not shared(split)
    for parts in split.speakers.values():
        assert 0.1 <= len(parts.test) / 150 <= 0.2
    check_split(split, rows)


def test_leaks_are_refused():
    rows = _cohort(speakers=2)
    good = make_split(rows, least_utterances=100)

    def moved(**changes):
        parts = good.speakers["E0"]._replace(**changes)
        return dataclasses.replace(good, speakers={**good.speakers, "E0": parts})

    parts = good.speakers["E0"]
    repeat = next(name for name in parts.train if name.endswith("-4"))
    train = tuple(name for name in parts.train if name != repeat)
    with pytest.raises(UserError, match="E0: 1 utterances are in the test with a phrase of train or dev"):
        check_split(moved(train=train, test=(*parts.test, repeat)), rows)
    with pytest.raises(UserError, match="in two parts"):
        check_split(moved(dev=(*parts.dev, parts.test[0])), rows)
    with pytest.raises(UserError, match="not in the manifest: nobody"):
        check_split(moved(dev=("nobody",)), rows)
    with pytest.raises(UserError, match="of another speaker"):
        check_split(moved(dev=(good.speakers["E1"].dev[0],)), rows)


def test_published_splits_say_that_they_share_phrases():
    rows = [
        Utterance(f"{w}-{b}", "M04", "a.wav", w, extra={"block": b}) for w in ("the", "of") for b in "123"
    ]
    split = given_split(rows, lambda row: {"2": "test", "3": None}.get(row.extra["block"], "train"))
    assert split.shares_phrases
    assert split.speakers["M04"] == Parts(("of-1", "the-1"), (), ("of-2", "the-2"))
    check_split(split, rows, allow_shared_phrases=True)
    with pytest.raises(UserError, match="phrase of train"):
        check_split(split, rows)
    assert not given_split(rows, lambda row: "test").shares_phrases


def test_split_files(tmp_path):
    split = make_split(_cohort(), seed=5, least_utterances=151)
    write_split(tmp_path / "split.json", split)
    assert split.small
    full = make_split(_cohort(), seed=5, least_utterances=100)
    write_split(tmp_path / "split.json", full)
    assert read_split(tmp_path / "split.json") == full
    found = json.loads((tmp_path / "split.json").read_text())
    assert found["seed"] == 5
    assert set(found["speakers"]["E0"]) == {"train", "dev", "test"}
    assert found["code_version"]
    for text in ("{", "[]", '{"speakers": {"E0": {"train": []}}, "seed": 0}', '{"speakers": {}, "sed": 1}'):
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(UserError, match=r"not a split.json"):
            read_split(tmp_path / "split.json")


def test_too_few_phrases_and_impossible_shares():
    rows = [Utterance(f"u{n}", "E0", "a.wav", "stop" if n else "go") for n in range(20)]
    with pytest.raises(UserError, match="E0: 2 different phrases are too few"):
        make_split(rows, least_utterances=1)
    with pytest.raises(UserError, match="between 0 and 1"):
        make_split(rows, test_share=0.0)


def test_nested_subsets_hold_each_other():
    names = [f"u{n}" for n in range(60)]
    found = nested_subsets(names, (10, 25, 50, 100))
    assert list(found) == [10, 25, 50, 60]
    sets = [set(part) for part in found.values()]
    assert all(a < b for a, b in itertools.pairwise(sets))
    assert sets[-1] == set(names)
    assert nested_subsets(names[::-1], (10,)) == nested_subsets(names, (10,))
    assert nested_subsets(names, (10,), seed=1)[10] != found[10]
    assert Split({}, 0).text_version == 1
