"""Questions that are answered in one's own words: files, lists, the page's pictures, and what is exported."""

import csv
import json

import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.collect import commands, server
from offsites_jax.projects.euphonia.collect.collection import create_collection
from offsites_jax.projects.euphonia.collect.consent import SAMPLE, read_consent
from offsites_jax.projects.euphonia.collect.phrases import shipped_phrases
from offsites_jax.projects.euphonia.collect.prompts import Prompt, PromptPlan, build_prompts
from offsites_jax.projects.euphonia.collect.questions import (
    MAX_BYTES,
    Question,
    picture_name,
    read_questions,
    with_questions,
)
from offsites_jax.projects.euphonia.manifest import read_manifest

PNG = b"\x89PNG\r\n\x1a\n not much of a picture"
JPEG = b"\xff\xd8\xff\xe0 nor this"


@pytest.fixture
def file(tmp_path):
    """Two questions about pictures, and one about none."""
    (tmp_path / "kitchen.png").write_bytes(PNG)
    (tmp_path / "street.jpg").write_bytes(JPEG)
    path = tmp_path / "questions.txt"
    path.write_text(
        "# ours\nconversational\tWhat do you see?\tkitchen.png\n"
        "conversational\tWhat do you see?\tstreet.jpg\ncaregiver\tHow did you sleep?\n"
    )
    return path


def test_questions_are_read_with_their_pictures(file):
    assert read_questions([file]) == [
        Question("conversational", "What do you see?", PNG),
        Question("conversational", "What do you see?", JPEG),
        Question("caregiver", "How did you sleep?"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("caregiver\tHow did you SLEEP", "says the same as questions.txt:4"),
        ("garden\tWhat grows?", "domain 'garden' is none of"),
        ("other\tWhat is this?\tnone.png", "none.png: cannot be read"),
        ("other\tWhat is this?\tquestions.txt", "neither PNG nor JPEG"),
        ("other\tWhat is this?\tlarge.png", "larger than 5 MiB"),
        ("other", "no tab"),
    ],
)
def test_bad_questions_are_named_by_number(file, line, message):
    (file.parent / "large.png").write_bytes(PNG.ljust(MAX_BYTES + 1))
    with file.open("a") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(UserError, match=f"questions.txt:5: .*{message}"):
        read_questions([file])


def test_a_file_without_questions_is_refused(file):
    file.write_text("# none yet\n")
    with pytest.raises(UserError, match="questions: none found"):
        read_questions([file])


@pytest.mark.parametrize("count", [1, 7, 40])
def test_questions_come_evenly_between_the_phrases(count):
    plan = PromptPlan(60, 10, 2, 20)
    phrases = build_prompts(shipped_phrases(), "s", plan)
    questions = [Question("other", f"Question {'abcdefghij'[k % 10]}{k // 10}?") for k in range(count)]
    items = with_questions(phrases, questions, "s")
    assert [item for item in items if item.kind == "prompt"] == phrases
    places = [place for place, item in enumerate(items) if item.kind == "response"]
    assert sorted(items[place].text for place in places) == sorted(one.text for one in questions)
    gaps = [b - a - 1 for a, b in zip([-1, *places], [*places, len(items)], strict=True)]
    assert max(gaps) - min(gaps) <= 1
    assert len({item.prompt_id for item in items}) == len(items)
    assert items == with_questions(phrases, questions, "s")


def test_the_seed_orders_the_questions():
    questions = [Question("other", f"What of {word}?") for word in ("tea", "rain", "cats", "work", "trains")]
    orders = {
        tuple(item.text for item in with_questions([], questions, seed)) for seed in map(str, range(20))
    }
    assert len(orders) > 5
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(one.text for one in questions))}


@pytest.fixture
def study(file, tmp_path):
    """Two speakers: the first reads a phrase and answers three questions, the second is asked nothing."""
    made = create_collection(tmp_path / "study")
    questions = read_questions([file])
    for question in questions[:2]:
        made.keep_picture(question.picture)
        made.keep_picture(question.picture)
    phrases = build_prompts(shipped_phrases(), "s", PromptPlan(1, 0))
    speakers = [made.add_speaker(with_questions(phrases, questions, "s")), made.add_speaker(phrases)]
    tokens = ("token-of-the-first", "token-of-the-second")
    return server.Study(made, read_consent(SAMPLE), dict(zip(tokens, speakers, strict=True)))


def place_of(client, kind):
    """Places of the prompts of a kind in the list of the page."""
    prompts = client.ok("GET", "/api/session")["prompts"]
    return [place for place, prompt in enumerate(prompts) if prompt["kind"] == kind]


def test_only_one_s_own_pictures_are_served(agreed, other, study):
    assert sorted(path.name for path in (study.collection.folder / "pictures").iterdir()) == sorted(
        map(picture_name, (PNG, JPEG))
    )
    named = [prompt["picture"] for prompt in agreed.ok("GET", "/api/session")["prompts"]]
    assert sorted(filter(None, named)) == sorted(map(picture_name, (PNG, JPEG)))
    assert agreed.ok("GET", f"/api/pictures/{picture_name(PNG)}") == PNG
    assert agreed.headers["Content-Type"] == "image/png"
    assert agreed.ok("GET", f"/api/pictures/{picture_name(JPEG)}") == JPEG
    for name in ("x.png", "", "..%2fcollection.json", "%2e%2e/collection.json"):
        assert agreed.call("GET", f"/api/pictures/{name}")[0] == 404
    assert other.call("GET", f"/api/pictures/{picture_name(PNG)}")[0] == 404
    other.token = "wrong"
    assert other.call("GET", f"/api/pictures/{picture_name(PNG)}")[0] == 401


def test_answers_are_responses_of_no_known_length(agreed, folder):
    """How long an answer takes says nothing about whether the question was read to its end."""
    [phrase], answers = place_of(agreed, "prompt"), place_of(agreed, "response")
    agreed.record(prompt=phrase)
    agreed.record(prompt=answers[0])
    read, answered = (
        json.loads(path.read_text())
        for path in sorted(folder.glob("*.json"), key=lambda path: path.stem.partition("_")[2])
    )
    assert (read["taskType"], answered["taskType"]) == ("prompt", "response")
    assert read["offsites"]["quality"]["seconds_per_character"] > 0
    assert answered["offsites"]["quality"]["seconds_per_character"] is None


def test_answers_are_exported_once_they_are_written_down(agreed, study, tmp_path, capsys):
    answers = place_of(agreed, "response")
    for place in (*place_of(agreed, "prompt"), *answers):
        agreed.record(prompt=place)
    root, table = str(study.collection.folder), tmp_path / "unwritten.csv"
    commands.export(root, unwritten=str(table))
    assert "1 recordings; " in (said := capsys.readouterr().out)
    assert "3 answers not written down" in said
    [phrase] = read_manifest(f"{root}/manifest.jsonl")
    assert phrase.transcript_status == "prompt_assumed"

    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3
    heard = tmp_path / "heard.csv"
    with heard.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ("utt_id", "audio", "text"))
        writer.writeheader()
        writer.writerows({**row, "text": f"answer, {place}"} for place, row in enumerate(rows[:2]))
        writer.writerow({"utt_id": phrase.utt_id, "audio": "", "text": "said something else"})
    commands.export(root, transcripts=str(heard))
    found = read_manifest(f"{root}/manifest.jsonl")
    assert [one.text for one in found] == ["said something else", "answer, 0", "answer, 1"]
    assert {one.transcript_status for one in found} == {"verified"}
    assert [one.audio for one in found[1:]] == [row["audio"] for row in rows[:2]]


def test_lists_of_older_collections_are_read(study):
    speaker = study.tokens["token-of-the-second"]
    path = study.collection.folder / "speakers" / speaker / "prompts.jsonl"
    path.write_text('{"prompt_id": "p1-0", "domain": "other", "text": "Go"}\n')
    assert study.collection.prompts(speaker) == {"p1-0": Prompt("p1-0", "other", "Go", "prompt", "")}
