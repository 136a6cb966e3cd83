"""The commands write down what the network hears, whole or live, and name what they cannot read."""

import io
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from offsites_jax.data.audio.wav import write_wav
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.euphonia.commands.transcribe import (
    chunks_of_pcm,
    find_recordings,
    stream,
    transcribe,
)
from offsites_jax.projects.euphonia.loading import load
from offsites_jax.projects.euphonia.prepared import open_records, samples_of
from offsites_jax.projects.euphonia.utterances import padded
from offsites_jax.train.config import resolve
from offsites_jax.train.loop import train


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    return tmp_path_factory.mktemp("workdirs")


@pytest.fixture
def run(raw, workdirs):
    """A network that has learnt next to nothing, and babbles; trained once."""
    if not (workdirs / "run").exists():
        task = {**raw["task"], "labels_per_frame": 3}
        changes = {"task": task, "evaluators": {}, "train": {**raw["train"], "steps": 1}}
        train(resolve({**raw, **changes}), workdirs / "run")
    return str(workdirs / "run")


@pytest.fixture(scope="module")
def sound(corpus):
    """int16 samples of one utterance."""
    return samples_of(open_records(corpus)[4])


@pytest.fixture(scope="module")
def recordings(sound, tmp_path_factory):
    """The same as WAV and as FLAC, and one that is long."""
    folder = tmp_path_factory.mktemp("recordings")
    write_wav(folder / "one.wav", sound / 32768, 8000)
    soundfile.write(folder / "two.flac", sound, 8000, subtype="PCM_16")
    write_wav(folder / "three.wav", np.tile(sound, 30) / 32768, 8000)
    return folder


@pytest.fixture
def expected(run, sound):
    """What evaluation would say of the utterance."""
    trained = load(run)
    arrays = padded(sound, (), trained.task.data)
    batch = {name: jnp.asarray(arrays[name])[None] for name in ("waveform", "sample_count")}
    found = jax.jit(trained.task.predict)(trained.variables, batch)
    labels = found["hypothesis"][0, : int(found["hypothesis_count"][0])].tolist()
    assert 3 < len(labels) < trained.task.data.max_labels
    return " ".join(trained.tokenizer().decode(labels).split()), float(found["log_prob"][0])


def printed(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def test_recordings_are_written_down_as_evaluation_would(run, recordings, expected, tmp_path, capsys):
    manifest = tmp_path / "manifest.jsonl"
    line = {"utt_id": "one", "speaker": "ann", "audio": "one.wav", "text": "Go on!"}
    manifest.write_text(json.dumps(line) + "\n")
    output = tmp_path / "out"
    transcribe((str(recordings),), run, json=True, output=str(output), references=str(manifest))
    rows = {row["utt"]: row for row in printed(capsys)}
    assert list(rows) == ["one", "three", "two"]
    for name in ("one", "two"):
        assert rows[name]["text"] == expected[0]
        assert rows[name]["logp"] == pytest.approx(expected[1], rel=1e-4)
        assert rows[name]["speaker"] == ""
        assert " ".join(word["w"] for word in rows[name]["words"]) == expected[0]
    # Far longer than utterances of the training, and with more labels than those have room for.
    assert len(rows["three"]["text"]) > 2 * load(run).task.data.max_labels
    assert [json.loads(line) for line in (output / "hyp.jsonl").read_text().splitlines()] == list(
        rows.values()
    )
    assert (output / "ref.trn").read_text() == "go on (one)\n"
    assert (output / "two.srt").exists()
    transcribe((str(recordings / "two.flac"),), run)
    assert capsys.readouterr().out == f"two\t{expected[0]}\n"


def test_a_live_stream_of_raw_samples_ends_with_the_same_text(run, sound, expected, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sound.tobytes() + b"\0")))
    stream("-", run, json=True, chunk_seconds=0.013)
    *partial, last = printed(capsys)
    assert last["utt"] == "stream"
    assert last["text"] == expected[0]
    assert len(partial) > 1
    assert all(last["text"].startswith(row["stable"]) for row in partial)
    seconds = [row["seconds"] for row in partial]
    assert seconds == sorted(seconds)


def test_a_stream_put_aside_is_gone_on_with(run, sound, expected, tmp_path, capsys):
    for name, part in (("first", sound[:1000]), ("second", sound[1000:])):
        write_wav(tmp_path / f"{name}.wav", part / 32768, 8000)
    stream(str(tmp_path / "first.wav"), run, json=True, suspend=str(tmp_path / "state.npz"))
    stream(str(tmp_path / "second.wav"), run, json=True, resume=str(tmp_path / "state.npz"))
    assert printed(capsys)[-1]["text"] == expected[0]


def test_a_beam_lists_several_texts(run, recordings, capsys):
    transcribe((str(recordings / "one.wav"),), run, beam=3, json=True)
    (row,) = printed(capsys)
    log_probs = [one["logp"] for one in row["nbest"]]
    assert log_probs == sorted(log_probs, reverse=True)
    assert row["nbest"][0] == {"text": row["text"], "logp": row["logp"]}
    assert 1 < len({one["text"] for one in row["nbest"]}) == len(log_probs) <= 3


def test_bad_recordings_are_named_and_the_others_written_down(run, recordings, expected, tmp_path, capsys):
    (tmp_path / "bad.wav").write_bytes(b"not a recording")
    paths = (str(tmp_path / "bad.wav"), str(recordings / "one.wav"))
    with pytest.raises(DamagedDataError, match="1 of 2 recordings cannot be used"):
        transcribe(paths, run, output=str(tmp_path / "out"))
    shown = capsys.readouterr()
    assert shown.out == f"one\t{expected[0]}\n"
    assert "bad.wav" in shown.err
    assert json.loads((tmp_path / "out" / "rejected.jsonl").read_text())["utt"] == "bad"
    with pytest.raises(DamagedDataError, match=r"bad\.wav"):
        transcribe(paths[:1], run)


def test_wrong_requests_are_named(run, recordings, tmp_path):
    one = (str(recordings / "one.wav"),)
    for arguments, message in (
        ({"speaker": "nobody"}, "--speaker"),
        ({"tokenizer": str(tmp_path)}, "graphemes.json"),
        ({"step": "last"}, "--step: 'last'"),
        ({"max_hours": 1e-6}, "longer than"),
    ):
        with pytest.raises(UserError, match=message):
            transcribe(one, run, **arguments)
    with pytest.raises(UserError, match="--chunk-seconds: is 0"):
        stream(one[0], run, chunk_seconds=0)
    with pytest.raises(UserError, match="missing: no such file"):
        find_recordings(["missing"])
    with pytest.raises(UserError, match="no recordings"):
        find_recordings([str(tmp_path)])


def test_recordings_of_the_same_name_are_told_apart_by_folder(tmp_path):
    files = [tmp_path / "a" / "x 1.wav", tmp_path / "b" / "x 1.wav"]
    for file in files:
        file.parent.mkdir()
        file.touch()
    (tmp_path / "a" / "notes.txt").touch()
    found = find_recordings([str(tmp_path), str(files[0])])
    assert list(found.values()) == list(map(str, files))
    first, second = found
    assert first.endswith("_a_x_1.wav")
    assert second.endswith("_b_x_1.wav")
    assert list(find_recordings([str(files[1])])) == ["x_1"]


def test_raw_samples_come_whole_however_bytes_do():
    class Slow(io.BytesIO):
        def read1(self, size=-1):
            return super().read1(min(size, 3))

    samples = np.arange(-50, 51, dtype="<i2")
    found = list(chunks_of_pcm(Slow(samples.tobytes()), 8))
    np.testing.assert_array_equal(np.concatenate(found), samples)
    assert max(map(len, found)) <= 8
