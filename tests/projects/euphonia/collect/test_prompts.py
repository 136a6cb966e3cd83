"""Phrases and lists of prompts: what is refused, and what every list keeps to."""

import collections
import itertools
import json
import os
import subprocess
import sys

import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.collect.commands import prompts as prompts_command
from offsites_jax.projects.euphonia.collect.phrases import (
    MAX_CHARACTERS,
    Phrase,
    grapheme_counts,
    phoneme_counts,
    read_phrases,
    shipped_phrases,
)
from offsites_jax.projects.euphonia.collect.prompts import PromptPlan, build_prompts


def numbered(count, domain="other"):
    """Phrases that differ in one letter-only word."""
    letters = "abcdefghij"
    words = ("".join(letters[int(digit)] for digit in f"{number:04d}") for number in range(count))
    return [Phrase(domain, f"say {word}") for word in words]


@pytest.fixture(scope="module")
def shipped():
    return shipped_phrases()


def test_enough_phrases_come_along_in_three_domains(shipped):
    assert len({phrase.key for phrase in shipped}) == len(shipped) >= 1100
    sizes = collections.Counter(phrase.domain for phrase in shipped)
    assert set(sizes) == {"home_automation", "caregiver", "conversational"}
    assert min(sizes.values()) >= 367  # an equal share of 1,100
    assert all(phrase.text.isascii() and len(phrase.text) <= 60 for phrase in shipped)


def test_shipped_phrases_are_tidy(shipped):
    for phrase in shipped:
        words = phrase.text.split(" ")
        assert phrase.text[0].isupper(), phrase
        assert all(words), phrase
        assert phrase.text[-1].isalpha(), phrase
        assert not any(character.isdigit() for character in phrase.text), phrase
        assert all(first != second for first, second in itertools.pairwise(words)), phrase


def test_every_letter_is_in_the_shipped_phrases(shipped):
    counts = grapheme_counts(phrase.text for phrase in shipped)
    assert set("abcdefghijklmnopqrstuvwxyz") <= set(counts)
    assert min(counts[letter] for letter in "abcdefghijklmnopqrstuvwxyz") >= 10


def distances(items):
    """Positions between neighbouring prompts of the same phrase."""
    places = collections.defaultdict(list)
    for place, item in enumerate(items):
        places[item.text].append(place)
    return [b - a for found in places.values() for a, b in itertools.pairwise(found)]


@pytest.mark.parametrize("seed", ["a", "b", "spk-0123456789"])
def test_the_list_is_that_of_the_paper(shipped, seed):
    items = build_prompts(shipped, seed)
    assert len(items) == 1500
    assert len({item.prompt_id for item in items}) == 1500
    times = collections.Counter(item.text for item in items)
    assert collections.Counter(times.values()) == {1: 1000, 5: 100}
    assert len(distances(items)) == 400
    assert min(distances(items)) > 50
    domains = collections.Counter(item.domain for item in items)
    assert max(domains.values()) - min(domains.values()) <= 10


def test_repeats_are_spread_over_the_whole_list(shipped):
    items = build_prompts(shipped, "s")
    again = {text for text, n in collections.Counter(item.text for item in items).items() if n == 5}
    fifths = [sum(item.text in again for item in items[k : k + 300]) for k in range(0, 1500, 300)]
    assert fifths == [100] * 5


def test_a_seed_gives_one_list_and_another_seed_another(shipped):
    assert build_prompts(shipped, "a") == build_prompts(shipped, "a")
    first, second = build_prompts(shipped, "a"), build_prompts(shipped, "b")
    assert first != second
    ids = {item.text: item.prompt_id.partition("-")[0] for item in first}
    shared = [item for item in second if item.text in ids]
    assert shared
    assert all(ids[item.text] == item.prompt_id.partition("-")[0] for item in shared)


def test_the_list_does_not_depend_on_the_hash_seed_of_the_process():
    code = (
        "import json; from offsites_jax.projects.euphonia.collect import phrases, prompts; "
        "print(json.dumps(prompts.build_prompts(phrases.shipped_phrases(), 's')))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert [tuple(row) for row in json.loads(done.stdout)] == build_prompts(shipped_phrases(), "s")


@pytest.mark.parametrize("plan", [PromptPlan(120, 120, 3, 50), PromptPlan(60, 1, 9, 5), PromptPlan(7, 0)])
def test_any_plan_that_can_be_kept_is_kept(plan):
    items = build_prompts(numbered(150), "s", plan)
    assert len(items) == plan.total
    assert min(distances(items), default=10**6) > plan.gap


def test_plans_that_cannot_be_kept_are_refused():
    with pytest.raises(UserError, match="1100 phrases wanted, 40 given; set unique to 40"):
        build_prompts(numbered(40), "s")
    with pytest.raises(UserError, match="keep repeats 50 apart"):
        build_prompts(numbered(40), "s", PromptPlan(40, 40, 4, 50))
    with pytest.raises(UserError, match="lower repeated to 3"):
        PromptPlan(3, 4)
    with pytest.raises(UserError, match="negative"):
        PromptPlan(3, -1)


def test_phrase_files_are_read(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("\ufeff# mine\n\nother\tOpen the gate \ncaregiver\tIt hurts, here\n", "utf-8")
    assert read_phrases([file]) == [Phrase("other", "Open the gate"), Phrase("caregiver", "It hurts, here")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Open the gate", "no tab"),
        ("garden\tOpen the gate", "domain 'garden' is none of home_automation"),
        (f"other\t{'a' * (MAX_CHARACTERS + 1)}", "141 characters, more than 140"),
        ("other\t!!! ...", "holds no words"),
        ("other\tclose THE door!", "says the same as mine.txt:1"),
        ("other\tOpen\x07 it", "cannot be shown"),
    ],
)
def test_bad_lines_are_named_by_number(tmp_path, line, message):
    file = tmp_path / "mine.txt"
    file.write_text(f"other\tClose the door\n{line}\nother\tFine\n", "utf-8")
    with pytest.raises(UserError, match=f"mine.txt:2: .*{message}"):
        read_phrases([file])


def test_files_that_are_no_phrases_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "latin.txt").write_bytes("other\tcafé".encode("latin-1"))
    with pytest.raises(UserError, match="none found"):
        read_phrases([tmp_path / "empty.txt"])
    with pytest.raises(UserError, match="not UTF-8"):
        read_phrases([tmp_path / "latin.txt"])
    with pytest.raises(UserError, match="cannot be read"):
        read_phrases([tmp_path / "missing.txt"])


def test_many_bad_lines_are_counted(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("no tab\n" * 9)
    with pytest.raises(UserError, match=r"mine\.txt:5: no tab between domain and text; and 4 more"):
        read_phrases([file])


def test_phonemes_are_counted_without_stress_and_unknown_words_are_named():
    known = {"turn": [["T", "ER1", "N"]], "on": [["AA1", "N"], ["AO1", "N"]]}
    counts, unknown = phoneme_counts(["Turn on!", "turn Zyx"], known)
    assert counts == {"T": 2, "ER": 2, "N": 3, "AA": 1}
    assert unknown == ["zyx"]


def test_the_command_writes_the_list_and_reports(tmp_path, capsys):
    prompts_command(seed="s", output=str(tmp_path / "list.tsv"), unique=30, repeated=2, repeats=1, gap=5)
    rows = [line.split("\t") for line in (tmp_path / "list.tsv").read_text().splitlines()]
    items = build_prompts(shipped_phrases(), "s", PromptPlan(30, 2, 1, 5))
    assert [tuple(row) for row in rows] == [item[:3] for item in items]
    assert "32 prompts of 30 phrases: " in capsys.readouterr().out
