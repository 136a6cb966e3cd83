"""From a corpus in its published layout to what training reads, by the commands; and what they refuse."""

import json
from collections import Counter

import numpy as np
import pytest
import soundfile

from offsites_jax.cli.main import main, run
from offsites_jax.projects.euphonia.manifest import read_manifest
from offsites_jax.projects.euphonia.prepared import open_records, read_prepared, samples_of
from offsites_jax.projects.euphonia.splits import phrase_key, read_split

PHRASES = [
    f"{verb} the {thing}" for verb in ("open", "close", "bring") for thing in ("door", "cup", "box", "bag")
]


def tone(speaker, number):
    time = np.arange(4800) / 16_000
    return 0.3 * np.sin(2 * np.pi * (300 + 40 * number + 10 * speaker) * time)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """TORGO with two speakers: twelve phrases, three of them again in a second session, and two spoilt."""
    root = tmp_path_factory.mktemp("torgo")
    for speaker, name in enumerate(("F01", "M04")):
        sessions = {1: [*PHRASES, "xxx", "[relax your mouth]"], 2: [text.upper() for text in PHRASES[:3]]}
        for session, prompts in sessions.items():
            where = root / "data" / name / f"Session{session}"
            for part in ("prompts", "wav_headMic"):
                (where / part).mkdir(parents=True)
            for number, text in enumerate(prompts, start=1):
                (where / "prompts" / f"{number:04d}.txt").write_text(f"{text}\n")
                soundfile.write(where / "wav_headMic" / f"{number:04d}.wav", tone(speaker, number), 16_000)
    return root


@pytest.fixture(scope="module")
def commands(folder):
    """The three commands, one after the other."""
    manifest, split = folder / "read" / "manifest.jsonl", folder / "split.json"
    assert (
        run(["euphonia", "read_corpus", "torgo", str(folder / "data"), "--output", str(folder / "read")]) == 0
    )
    assert run(["euphonia", "split", str(manifest), "--output", str(split), "--allow-small"]) == 0
    options = ["--split", str(split), "--characters", "--mels", "16", "--output", str(folder / "prepared")]
    assert run(["euphonia", "prepare", str(manifest), *options]) == 0
    return folder


def test_what_can_be_used_is_in_the_manifest_and_the_rest_is_listed(commands):
    utterances = read_manifest(commands / "read" / "manifest.jsonl")
    assert Counter(one.speaker for one in utterances) == {"F01": 15, "M04": 15}
    lines = (commands / "read" / "dropped.jsonl").read_text().splitlines()
    reasons = Counter(row["reason"] for row in map(json.loads, lines) if row["dropped"])
    assert reasons == {"prompt says xxx": 2, "prompt is an instruction": 2}


def test_a_phrase_is_in_one_part_of_its_speaker(commands):
    texts = {one.utt_id: one.text for one in read_manifest(commands / "read" / "manifest.jsonl")}
    drawn = read_split(commands / "split.json")
    for parts in drawn.speakers.values():
        train, dev, test = ({phrase_key(texts[name]) for name in part} for part in parts)
        assert train
        assert dev
        assert test
        assert sum(map(len, parts)) == 15
        assert len(train) + len(dev) + len(test) == len(train | dev | test) == len(PHRASES)


def test_training_reads_every_sample_in_the_part_it_was_drawn_for(commands):
    found = read_prepared(commands / "prepared")
    utterances = {one.utt_id: one for one in read_manifest(commands / "read" / "manifest.jsonl")}
    parts = {
        name: part
        for own in read_split(commands / "split.json").speakers.values()
        for part, names in own._asdict().items()
        for name in names
    }
    assert {entry.utt_id: entry.split for entry in found.entries} == parts
    assert not found.rejected
    spoken = "".join(entry.text for entry in found.entries if entry.split == "train")
    assert found.tokenizer.size == len(set(spoken)) + 1, "and the blank"
    records = open_records(found)
    for row, entry in enumerate(found.entries):
        source, _ = soundfile.read(utterances[entry.utt_id].audio)
        np.testing.assert_allclose(samples_of(records[row]) / 32768, source, atol=1 / 32768)
        assert entry.text == utterances[entry.utt_id].text.lower()


def test_another_corpus_takes_over_tokenizer_and_features(commands):
    manifest, output = commands / "read" / "manifest.jsonl", commands / "alike"
    like = ["--like", str(commands / "prepared"), "--seed", "3", "--allow-small"]
    assert run(["euphonia", "prepare", str(manifest), *like, "--output", str(output)]) == 0
    first, second = read_prepared(commands / "prepared"), read_prepared(output)
    assert second.features == first.features
    assert second.tokenizer.labels == first.tokenizer.labels
    assert [entry.split for entry in second.entries] != [entry.split for entry in first.entries]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["read_corpus", "torgo", "nowhere", "--output", "out"], "nowhere"),
        (["split", "nowhere.jsonl", "--output", "split.json"], "nowhere.jsonl"),
        (["prepare", "manifest.jsonl", "--pieces", "9", "--characters", "--output", "out"], "give one"),
        (["prepare", "manifest.jsonl", "--split", "nowhere.json", "--output", "out"], "nowhere.json"),
    ],
)
def test_mistakes_are_one_line(commands, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "manifest.jsonl").write_bytes((commands / "read" / "manifest.jsonl").read_bytes())
    with pytest.raises(SystemExit) as left:
        main(["euphonia", *words])
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("offsites: ")
    assert told.count("\n") == 1
    assert message in told
    assert not list(tmp_path.glob("out*"))
