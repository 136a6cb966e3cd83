"""Manifests: every fault is named by row and field, and what is written is read again."""

import json

import pytest

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.euphonia.manifest import (
    Problem,
    Utterance,
    read_manifest,
    scan_manifest,
    write_manifest,
    write_rejected,
)

GOOD = {"utt_id": "E1-1", "speaker": "E1", "audio": "E1/1.wav", "text": "turn on the light"}


def _write(folder, *rows):
    (folder / "E1").mkdir(exist_ok=True)
    for number in range(9):
        (folder / "E1" / f"{number}.wav").write_bytes(b"RIFF")
    file = folder / "manifest.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return file


def test_round_trip_keeps_everything(tmp_path):
    (tmp_path / "E1").mkdir()
    (tmp_path / "E1" / "1.wav").write_bytes(b"RIFF")
    one = Utterance(
        "E1-1", "E1", str(tmp_path / "E1" / "1.wav"), "d\u00fcnn \u2028", start=0.5, end=1.25,
        prompt_id="p7", domain="caregiver", source="torgo", sample_rate=16000, duration_s=0.75,
        transcript_status="verified",
        quality={"snr_db": 21.5, "empty": False}, extra={"microphone": "head", "nested": {"a": [1, 2]}},
    )  # fmt: skip
    write_manifest(tmp_path / "manifest.jsonl", [one])
    assert read_manifest(tmp_path / "manifest.jsonl") == [one]
    row = json.loads((tmp_path / "manifest.jsonl").read_text())
    assert (row["audio"], row["microphone"]) == ("E1/1.wav", "head")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["manifest.jsonl"]


def test_recordings_elsewhere_are_found_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.wav").write_bytes(b"RIFF")
    monkeypatch.chdir(tmp_path)
    write_manifest("out/manifest.jsonl", [Utterance("a", "s", "corpus/a.wav", "hello")])
    monkeypatch.chdir("/")
    (found,) = read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert found.audio == str(tmp_path / "corpus" / "a.wav")


def test_each_fault_is_named_by_row_and_field(tmp_path):
    rows = [
        GOOD,
        "{not json",
        "[1, 2]",
        {"utt_id": "b", "speaker": "E1", "audio": "E1/2.wav"},
        {**GOOD, "utt_id": "c", "audio": "E1/2.wav", "text": "  "},
        {**GOOD, "utt_id": "d", "audio": "E1/2.wav", "text": "[noise] ..."},
        {**GOOD, "utt_id": "e", "audio": "E1/none.wav"},
        {**GOOD, "audio": "E1/3.wav"},
        {**GOOD, "utt_id": "g"},
        {
            **GOOD,
            "utt_id": "h",
            "audio": "E1/4.wav",
            "domain": "kitchen",
            "duration_s": -1,
            "sample_rate": True,
        },
        {**GOOD, "utt_id": "i", "audio": "E1/5.wav", "start": 2.0, "end": 1.0},
        {**GOOD, "utt_id": "j", "audio": "E1/6.wav", "speaker": "../E1"},
        {**GOOD, "utt_id": "k", "audio": "E1/7.wav", "quality": [1]},
        '{"utt_id": "l", "speaker": "E1", "audio": "E1/8.wav", "text": "hi", "duration_s": NaN}',
    ]
    found = scan_manifest(_write(tmp_path, *rows))
    assert [one.utt_id for one in found.utterances] == ["E1-1"]
    assert [(problem.row, problem.field) for problem in found.problems] == [
        (2, "line"), (3, "line"), (4, "text"), (5, "text"), (6, "text"), (7, "audio"), (8, "utt_id"),
        (9, "audio"), (10, "domain"), (10, "duration_s"), (10, "sample_rate"), (11, "end"), (12, "speaker"),
        (13, "quality"), (14, "duration_s"),
    ]  # fmt: skip
    assert "row 1" in found.problems[6].message


def test_error_is_one_line_and_never_quotes_what_was_said(tmp_path):
    secret = {**GOOD, "text": "my doctor is Smith", "domain": "x", "audio": "E1/none.wav"}
    with pytest.raises(UserError) as caught:
        read_manifest(_write(tmp_path, *[{**secret, "utt_id": str(n)} for n in range(9)]))
    message = str(caught.value)
    assert "\n" not in message
    assert "Smith" not in message
    assert "18 problems" in message
    assert "row 1: domain" in message
    assert "13 more" in message


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"utt_id": "b", "speaker": "E1", "audio": "E1/2.wav", "text": "a \\ud800"}', "text"),
        ('{"utt_id": "b", "speaker": "E1", "audio": "E1/2\\u0000.wav", "text": "a"}', "audio"),
        ('{"utt_id": 7, "speaker": "E1", "audio": "E1/2.wav", "text": "a"}', "utt_id"),
        ('{"utt_id": "b", "speaker": null, "audio": "E1/2.wav", "text": "a"}', "speaker"),
        (json.dumps({**GOOD, "start": [], "utt_id": "b"}), "start"),
        (json.dumps({**GOOD, "domain": {}, "utt_id": "b"}), "domain"),
        ('{"duration_s": ' + "9" * 5000 + "}", "line"),
        ("[" * 100000, "line"),
        ("\x00", "line"),
        (json.dumps({**GOOD, "sample_rate": 10**400}), "sample_rate"),
    ],
    ids=range(10),
)
def test_hostile_lines_are_problems_too(tmp_path, line, field):
    found = scan_manifest(_write(tmp_path, line))
    assert [problem.field for problem in found.problems] == [field]


def test_segments_of_one_recording_are_no_duplicates(tmp_path):
    rows = [{**GOOD, "utt_id": f"s{n}", "start": n, "end": n + 1} for n in range(3)]
    assert len(read_manifest(_write(tmp_path, *rows))) == 3
    assert scan_manifest(_write(tmp_path, *rows, {**rows[0], "utt_id": "again"})).problems[0].field == "audio"


def test_tables_and_missing_recordings(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    file = tmp_path / "manifest.csv"
    file.write_text(
        "utt_id,speaker,audio,text,duration_s,sample_rate,room\n"
        'u1,E1,a.wav,"light, please",1.5,16000,kitchen\nu2,E1,b.wav,off,,,\nu3,E1,c.wav\n'
        "u4,E1,d.wav,off,long,,\n"
    )
    found = scan_manifest(file)
    assert found.utterances == [
        Utterance("u1", "E1", str(tmp_path / "a.wav"), "light, please", duration_s=1.5, sample_rate=16000,
                  extra={"room": "kitchen"})
    ]  # fmt: skip
    named = [(problem.row, problem.field) for problem in found.problems]
    assert named == [(3, "audio"), (4, "line"), (5, "duration_s"), (5, "audio")]
    assert [one.utt_id for one in scan_manifest(file, check_audio=False).utterances] == ["u1", "u2"]


def test_files_that_are_no_manifest(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_manifest(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no utterances"):
        read_manifest(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "gr\xfc\xdfe"}')
    with pytest.raises(DamagedDataError, match="not UTF-8"):
        read_manifest(tmp_path / "latin.jsonl")
    (tmp_path / "table.csv").write_text("utt_id,speaker,audio\n")
    with pytest.raises(UserError, match="no column 'text'"):
        read_manifest(tmp_path / "table.csv")


def test_rejected_rows_are_written_as_json_lines(tmp_path):
    problems = [Problem("m.jsonl", 3, "text", "empty"), Problem("m.jsonl", 4, "audio", "no such file")]
    write_rejected(tmp_path / "rejected.jsonl", problems)
    lines = (tmp_path / "rejected.jsonl").read_text().splitlines()
    assert [Problem(**json.loads(line)) for line in lines] == problems
