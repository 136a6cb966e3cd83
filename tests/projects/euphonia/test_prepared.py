"""A corpus is decoded once, what cannot be used is listed, and mistakes are told before training."""

import dataclasses
import json

import numpy as np
import pytest

from offsites_jax.data.audio import LogMelConfig, log_mel
from offsites_jax.data.audio.wav import write_wav
from offsites_jax.data.pipeline import global_batch
from offsites_jax.data.text.graphemes import GraphemeTokenizer
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.euphonia.manifest import Utterance
from offsites_jax.projects.euphonia.prepared import (
    open_records,
    prepare,
    read_prepared,
    read_tokenizer,
    samples_of,
)
from offsites_jax.train.config import resolve

FEATURES = LogMelConfig(sample_rate=8000, window=256, step=80, fft=512, mels=12, high_hz=3800.0)


def wave(seconds, seed=0):
    return (0.1 * np.random.default_rng(seed).normal(size=round(seconds * 8000))).astype(np.float32)


def write(root, texts, **changes):
    utterances = []
    for number, (seconds, text) in enumerate(texts):
        write_wav(root / f"{number}.wav", wave(seconds, number), 8000)
        utterances.append(Utterance(f"u{number}", "ann", f"{number}.wav", text))
    options = {
        "splits": {f"u{number}": "train" for number in range(len(texts))},
        "tokenizer": GraphemeTokenizer(),
        "features": FEATURES,
        **changes,
    }
    return prepare(utterances, root, root / "prepared", **options)


def test_what_was_written_is_read_back(tmp_path):
    written = write(tmp_path, [(0.5, "Stop!"), (0.3, "go ON")])
    found = read_prepared(tmp_path / "prepared")
    assert found.entries == written.entries
    assert [entry.text for entry in found.entries] == ["stop", "go on"]
    assert found.features == written.features
    assert read_tokenizer(found.folder).labels == written.tokenizer.labels
    for number, seconds in enumerate((0.5, 0.3)):
        record = open_records(found)[number]
        heard = samples_of(record) / 32768
        np.testing.assert_allclose(heard, wave(seconds, number), atol=1 / 32768)


def test_statistics_are_those_of_all_training_frames(tmp_path):
    found = write(
        tmp_path, [(0.5, "a"), (1.0, "b"), (0.7, "c")], splits={"u0": "train", "u1": "train", "u2": "test"}
    )
    records = open_records(found)
    frames = np.concatenate([log_mel(samples_of(records[row]), FEATURES) for row in range(2)]).astype(
        np.float64
    )
    np.testing.assert_allclose(found.features.mean, frames.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.features.std, frames.std(0), rtol=1e-5)


def test_what_cannot_be_used_is_left_out_and_listed(tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    write_wav(tmp_path / "good.wav", wave(0.5), 8000)
    rows = [
        Utterance("good", "ann", "good.wav", "stop"),
        Utterance("unreadable", "ann", "bad.wav", "stop"),
        Utterance("missing", "ann", "none.wav", "stop"),
        Utterance("wordless", "ann", "good.wav", "[noise]"),
        Utterance("apart", "ann", "good.wav", "stop"),
        Utterance("part", "ann", "good.wav", "go", start=0.1, end=0.3),
    ]
    splits = {row.utt_id: "train" for row in rows if row.utt_id != "apart"}
    options = {"splits": splits, "tokenizer": GraphemeTokenizer(), "features": FEATURES, "max_seconds": 0.5}
    found = prepare(rows, tmp_path, tmp_path / "out", **options)
    assert [(entry.utt_id, entry.samples) for entry in found.entries] == [("good", 4000), ("part", 1600)]
    reasons = {one.utt_id: one.reason for one in found.rejected}
    assert set(reasons) == {"unreadable", "missing", "wordless", "apart"}
    assert "nothing is left of its text" in reasons["wordless"]
    assert all("\n" not in reason for reason in reasons.values())
    with pytest.raises(UserError, match="holds a prepared corpus already"):
        prepare(rows, tmp_path, tmp_path / "out", **options)
    with pytest.raises(UserError, match=r"none of 6 utterances can be used; the first: good: in no part"):
        prepare(rows, tmp_path, tmp_path / "none", **{**options, "splits": {}})


def test_batches_hold_samples_and_labels(raw, corpus):
    experiment = resolve({**raw, "data": {**raw["data"], "speaker": "ben"}})
    pipeline = experiment.found.create_pipeline(experiment, "dev", False)
    batch = global_batch(dataclasses.replace(pipeline, ordered=True), batch_size=3, seed=0, step=0)
    entries = [e for e in corpus.entries if e.split == "dev" and e.speaker == "ben"]
    assert batch["sample_count"].tolist() == [entry.samples for entry in entries]
    for row, entry in enumerate(entries):
        labels = batch["labels"][row, : batch["label_count"][row]].tolist()
        assert corpus.tokenizer.decode(labels) == entry.text
        assert not batch["waveform"][row, entry.samples :].any()
        assert corpus.entries[batch["index"][row]] == entry


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("data", {"speaker": "dan"}, "no utterances of speaker 'dan' in part 'train'"),
        ("data", {"max_seconds": 0.3}, r"max_seconds: is 0.3, but ann-\d+ takes 0.[46]0 s"),
        ("data", {"max_labels": 3}, r"max_labels: is 3, but ann-\d+ has"),
        ("data", {"path": ""}, "give the folder"),
        ("model", {"vocabulary": 99}, "vocabulary: is 99, but the tokenizer"),
    ],
)
def test_what_does_not_go_together_is_named(raw, section, change, message):
    experiment = resolve({**raw, section: {**raw[section], **change}})
    with pytest.raises(UserError, match=message):
        experiment.found.create_pipeline(experiment, "train", True)


def test_another_frontend_than_the_corpus_has_is_named(raw):
    features = {**raw["data"]["features"], "window": 200}
    experiment = resolve({**raw, "data": {**raw["data"], "features": features}})
    with pytest.raises(UserError, match=r"data.features.window: is 200, but .* prepared with 256"):
        experiment.found.create_pipeline(experiment, "train", True)


def test_damaged_files_are_named(tmp_path):
    found = write(tmp_path, [(0.5, "stop")])
    (found.folder / "features.json").write_text("[]")
    with pytest.raises(DamagedDataError, match=r"features.json: not a frontend"):
        read_prepared(found.folder)
    (found.folder / "index.json").write_text("{")
    with pytest.raises(DamagedDataError, match=r"index.json: cannot be read"):
        read_prepared(found.folder)
    (found.folder / "index.json").write_text(json.dumps({"utterances": [{"x": 1}], "rejected": []}))
    with pytest.raises(DamagedDataError, match=r"no index"):
        read_prepared(found.folder)
    with pytest.raises(UserError, match="no prepared corpus"):
        read_prepared(tmp_path / "elsewhere")
