"""One speaker's recogniser, by --speaker or as a run of its own, exported or not, says one and the same."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.cli.main import run as offsites
from offsites_jax.data.audio.wav import write_wav
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.export.compare import compare
from offsites_jax.export.folder import export
from offsites_jax.export.load import load as load_export
from offsites_jax.projects.euphonia.cohort import COHORT, PERSONAL, SHARED
from offsites_jax.projects.euphonia.commands.explain import explain
from offsites_jax.projects.euphonia.commands.merge import merge
from offsites_jax.projects.euphonia.commands.transcribe import stream, transcribe
from offsites_jax.projects.euphonia.deltas import FOLDER
from offsites_jax.projects.euphonia.loading import load
from offsites_jax.projects.euphonia.personal import outcomes, write_speakers
from offsites_jax.projects.euphonia.prepared import open_records, samples_of
from offsites_jax.projects.euphonia.task import create_task
from offsites_jax.projects.euphonia.utterances import padded
from offsites_jax.train.checkpoint import Checkpoints
from offsites_jax.train.config import resolve
from offsites_jax.train.restore import evaluate
from offsites_jax.train.state import flatten, zero_batch
from offsites_jax.train.workdir import read_experiment, write_json


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return tmp_path_factory.mktemp("merged")


@pytest.fixture
def cohort(raw, corpus, places):
    """A cohort of two, as training leaves it, whose networks babble, each in its own way; made once."""
    folder = places / "cohort"
    if folder.exists():
        return str(folder)
    shutil.copytree(corpus.folder, places / "corpus")
    experiment = resolve(
        {
            **raw,
            "model": {**raw["model"], "ctc": True},
            "task": {**raw["task"], "members": 2, "utterances": 3, "labels_per_frame": 2},
            "data": {
                **raw["data"],
                "path": str(places / "corpus"),
                "speakers": ["ann", "ben"],
                "max_labels": 40,
            },
            "optimizer": {**raw["optimizer"], "members": True},
            "train": {**raw["train"], "batch_size": 2},
        }
    )
    task = create_task(experiment, jnp.float32)
    state = jax.jit(lambda: task.init(jax.random.key(1), zero_batch(task.batch_spec(2))))()
    params = jax.tree.map(lambda leaf: 3 * np.asarray(leaf), state.pop("params"))
    params[SHARED]["joint"]["scores"]["bias"][0] = -1.0
    rng = np.random.default_rng(0)
    state[COHORT][PERSONAL] = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), state[COHORT][PERSONAL]
    )
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(4, {"params": params, "model_state": state}, {"config": experiment.raw})
    write_json(folder / "config.json", experiment.raw)
    assert write_speakers(folder) == ["ann", "ben"]
    return str(folder)


@pytest.fixture
def ann(cohort, places):
    """The recogniser of ann as a run of its own; made once."""
    if not (places / "ann").exists():
        merge(cohort, str(places / "ann"), speaker="ann")
    return str(places / "ann")


@pytest.fixture(scope="module")
def sounds(corpus):
    """int16 samples of three utterances."""
    records = open_records(corpus)
    return [samples_of(records[row]) for row in (2, 5, 16)]


@pytest.fixture(scope="module")
def recording(sounds, tmp_path_factory):
    file = tmp_path_factory.mktemp("recordings") / "one.wav"
    write_wav(file, sounds[0] / 32768, 8000)
    return str(file)


def batch_of(task, sounds):
    rows = [padded(sound, (), task.data) for sound in sounds]
    return {name: np.stack([row[name] for row in rows]) for name in ("waveform", "sample_count")}


def said(recogniser, sounds):
    """What evaluation would say."""
    found = jax.jit(recogniser.task.predict)(recogniser.variables, batch_of(recogniser.task, sounds))
    rows = zip(np.asarray(found["hypothesis"]), np.asarray(found["hypothesis_count"]), strict=True)
    return [" ".join(recogniser.tokenizer().decode(row[:count].tolist()).split()) for row, count in rows]


def printed(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def test_each_speaker_is_heard_by_layers_of_their_own(cohort, recording, sounds, capsys):
    heard = {}
    for speaker in ("", "ann", "ben"):
        transcribe((recording,), cohort, speaker=speaker, json=True)
        stream(recording, cohort, speaker=speaker, json=True, chunk_seconds=0.05)
        whole, *_, last = printed(capsys)
        assert whole["speaker"] == last["speaker"] == speaker
        assert whole["text"] == last["text"]
        heard[speaker] = whole["text"]
        assert [heard[speaker]] == said(load(cohort, speaker), sounds[:1])
    assert len(set(heard.values())) == 3


def test_a_merged_run_is_the_speakers_and_needs_nothing_else(cohort, ann, places, recording, sounds, capsys):
    own, merged = load(cohort, "ann"), load(ann)
    params = {name: leaf for name, leaf in own.variables["params"].items() if name != "ctc"}
    expected = flatten({**own.variables, "params": params, COHORT: None})
    found = flatten(merged.variables)
    assert found.keys() | {COHORT} == expected.keys()
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, expected[name])
    assert merged.step == 4
    capsys.readouterr()
    (places / "corpus").rename(places / "away")
    try:
        transcribe((recording,), ann, json=True)
        (row,) = printed(capsys)
    finally:
        (places / "away").rename(places / "corpus")
    assert [row["text"]] == said(own, sounds[:1])
    merge(ann, str(places / "again"))
    again = load(places / "again")
    jax.tree.map(np.testing.assert_array_equal, again.variables, merged.variables)
    assert again.experiment.raw == merged.experiment.raw
    with pytest.raises(UserError, match="exists already"):
        merge(cohort, ann, speaker="ben")


def test_a_merged_run_is_evaluated_on_its_speakers_recordings(cohort, ann):
    wanted = {outcome.speaker: outcome for outcome in outcomes(cohort)}["ann"]
    _, scores = evaluate(read_experiment(ann), ann)
    assert scores["test/wer"] == pytest.approx(wanted.personal.rate)
    assert scores["test/utterances"] == wanted.utterances
    assert "dev/wer" in scores


def test_an_exported_merged_run_says_the_same_without_this_code(ann, recording, sounds, tmp_path, capsys):
    output = tmp_path / "export"
    assert export(ann, output, platforms=("cpu",)).step == 4
    merged = load(ann)
    live = jax.jit(merged.task.predict)
    batches = [batch_of(merged.task, sounds), batch_of(merged.task, sounds[:1])]
    differences = compare(output, lambda batch: live(merged.variables, batch), batches)
    assert differences["hypothesis"] == differences["hypothesis_frames"] == 0
    assert differences["log_prob"] < 1e-4
    assert offsites(["predict", recording, "--exported", str(output)]) == 0
    (row,) = printed(capsys)
    labels = row["hypothesis"][: row["hypothesis_count"]]
    assert [" ".join(merged.tokenizer().decode(labels).split())] == said(merged, sounds[:1])
    assert len(labels) > 3


def test_a_step_of_its_stream_is_exported_likewise(cohort, recording, sounds, tmp_path):
    live, output = tmp_path / "live", tmp_path / "export"
    merge(cohort, str(live), speaker="ann", stream_seconds=0.12)
    export(live, output, platforms=("cpu",))
    exported, sound = load_export(output), sounds[0]
    chunk = exported.signature.inputs["waveform"].shape[1]
    assert chunk == 960
    inputs = exported.signature.inputs
    state = {name: np.zeros((1, *spec.shape[1:]), spec.dtype) for name, spec in inputs.items()}
    labels = []
    for start in range(0, len(sound) + chunk, chunk):
        piece = sound[start : start + chunk]
        waveform = np.pad(piece, (0, chunk - len(piece)))[None]
        counts = np.array([len(piece)], np.int32)
        found = exported.predict({**state, "waveform": waveform, "sample_count": counts})
        labels += found["hypothesis"][0, : found["hypothesis_count"][0]].tolist()
        state |= {name: found[name] for name in state if name in found}
    own = load(live)  # of recordings, still
    assert [" ".join(own.tokenizer().decode(labels).split())] == said(load(cohort, "ann"), sounds[:1])
    assert said(own, sounds) == said(load(cohort, "ann"), sounds)
    with pytest.raises(UserError, match="one step of a stream can only be exported"):
        offsites(["predict", recording, "--exported", str(output)])


def test_what_was_said_is_drawn_beside_what_was_heard(cohort, recording, sounds, tmp_path, capsys):
    explain(recording, "Go, stop ON!", cohort, str(tmp_path / "page"), speaker="ben")
    found = json.loads((tmp_path / "page" / "report.json").read_text())
    assert found["said"]["text"] == "go stop on"
    assert [found["heard"]["text"]] == said(load(cohort, "ben"), sounds[:1])
    assert found["heard"]["text"] not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"none\.wav: no such file"):
        explain(str(tmp_path / "none.wav"), "go", cohort, str(tmp_path / "page"))


def test_wrong_requests_tell_of_nobody_else(cohort, recording, tmp_path):
    for command in (transcribe, stream):
        audio = (recording,) if command is transcribe else recording
        with pytest.raises(UserError, match=r"cohort/speakers: no speaker 'zoe'; .* 2 there are") as told:
            command(audio, cohort, speaker="zoe")
        assert "ann" not in str(told.value)
        missing = str(tmp_path / "none.wav")
        with pytest.raises(UserError, match=r"none\.wav: no such file"):
            command((missing,) if command is transcribe else missing, cohort, speaker="ann")
    with pytest.raises(UserError, match="no speaker 'zoe'"):
        merge(cohort, str(tmp_path / "zoe"), speaker="zoe")
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_or_one_of_another_base_is_refused(cohort, recording, tmp_path):
    copy = tmp_path / "cohort"
    shutil.copytree(cohort, copy)
    file = copy / FOLDER / "ann.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    note = copy / FOLDER / "ben.json"
    content = json.loads(note.read_text())
    note.write_text(json.dumps({**content, "base": "another"}))
    for speaker, error, message in (
        ("ann", DamagedDataError, r"ann\.safetensors: cannot be read"),
        ("ben", UserError, "'ben' belong to another base"),
    ):
        with pytest.raises(error, match=message):
            transcribe((recording,), str(copy), speaker=speaker)
        with pytest.raises(error, match=message):
            merge(str(copy), str(tmp_path / "out"), speaker=speaker)
    assert not (tmp_path / "out").exists()
