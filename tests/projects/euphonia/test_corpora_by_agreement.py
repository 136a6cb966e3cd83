"""Readers of corpora with agreements or consents, on made-up trees of the published layout."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import soundfile

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.euphonia.corpora.audiotool import read_audiotool
from offsites_jax.projects.euphonia.corpora.corpus import Dropped, measured
from offsites_jax.projects.euphonia.corpora.speech_accessibility import (
    Segment,
    domain_of,
    read_speech_accessibility,
    read_transcript,
)
from offsites_jax.projects.euphonia.corpora.uaspeech import (
    block_split,
    read_uaspeech,
    read_word_list,
    severity_of,
)
from offsites_jax.projects.euphonia.splits import check_split, make_split

WORD_LIST = pathlib.Path(__file__).with_name("golden") / "speaker_wordlist.xls"


def _sound(path, seconds=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(seconds * 16000), np.float32), 16000)


def _uaspeech(root, tops=("audio/normalized",)):
    (root / "doc").mkdir(parents=True)
    shutil.copy(WORD_LIST, root / "doc" / "speaker_wordlist.xls")
    for top in tops:
        for block, key in (
            (1, "D0"),
            (2, "D0"),
            (3, "LA"),
            (1, "CW1"),
            (2, "CW1"),
            (2, "UW1"),
            (1, "UW1"),
            (1, "CW2"),
        ):
            for microphone in (3, 5):
                _sound(root / top / "M04" / f"M04_B{block}_{key}_M{microphone}.wav")
        _sound(root / top / "CF02" / "CF02_B1_C1_M2.wav")
        _sound(root / top / "M04" / "M04_B1_CW7_M3.wav")
        _sound(root / top / "M04" / "F03_B1_CW1_M3.wav")
        _sound(root / top / "M04" / "M04_B4_CW1_M3.wav")
        (root / top / "M04" / "._M04_B1_D0_M3.wav").write_bytes(b"")


def test_uaspeech(tmp_path):
    _uaspeech(tmp_path)
    found = read_uaspeech(tmp_path)
    texts = {one.utt_id: (one.text, one.extra["word_kind"]) for one in found.utterances}
    assert texts["M04_B1_D0_M3"] == ("zero", "digit")
    assert texts["M04_B3_LA_M5"] == ("alpha", "letter")
    assert texts["CF02_B1_C1_M2"] == ("command", "command")
    assert texts["M04_B1_UW1_M3"] == ("naturalization", "uncommon")
    assert texts["M04_B2_UW1_M3"] == ("frugality", "uncommon")
    assert texts["M04_B1_CW2_M3"] == ("42", "common")
    assert len(texts) == 17
    assert found.counts() == {"name that is not of the corpus": 2, "word that is not in the word list": 1}
    speakers = {one.speaker: (one.etiology, one.severity) for one in found.speakers}
    assert speakers == {"M04": ("cerebral palsy", 4), "CF02": ("typical", 0)}
    assert {one.extra["microphone"] for one in read_uaspeech(tmp_path, microphones=["M5"]).utterances} == {
        "M5"
    }


def test_uaspeech_variants_and_older_copies(tmp_path):
    _uaspeech(tmp_path / "new", ("audio/original", "audio/noisereduce"))
    with pytest.raises(UserError, match="no variant 'normalized'; it has noisereduce, original"):
        read_uaspeech(tmp_path / "new")
    assert "noisereduce" in read_uaspeech(tmp_path / "new", "noisereduce").utterances[0].audio
    _uaspeech(tmp_path / "old", ("audio",))
    shutil.move(tmp_path / "old" / "audio" / "CF02", tmp_path / "old" / "audio" / "control" / "CF02")
    shutil.move(tmp_path / "old" / "doc" / "speaker_wordlist.xls", tmp_path / "old" / "speaker_wordlist.xls")
    assert {one.speaker for one in read_uaspeech(tmp_path / "old").utterances} == {"M04", "CF02"}


def test_uaspeech_blocks_share_common_words_only(tmp_path):
    _uaspeech(tmp_path)
    corpus = read_uaspeech(tmp_path)
    split = block_split(corpus)
    parts = split.speakers["M04"]
    assert {name[4:6] for name in parts.test} == {"B2"}
    assert {name[4:6] for name in parts.train} == {"B1", "B3"}
    assert split.shares_phrases
    with pytest.raises(UserError, match="phrase of train"):
        check_split(split, corpus.utterances)
    check_split(split, corpus.utterances, allow_shared_phrases=True)
    known = {one.utt_id: one for one in corpus.utterances}
    trained = {known[name].text for name in parts.train}
    assert {known[name].text for name in parts.test if known[name].text not in trained} == {"frugality"}
    by_phrase = make_split([one for one in corpus.utterances if one.speaker == "M04"], least_utterances=1)
    for part in by_phrase.speakers["M04"]:
        assert sum(name.endswith("M3") for name in part) == sum(name.endswith("M5") for name in part)


def test_uaspeech_word_list(tmp_path):
    found = read_word_list(WORD_LIST)
    assert found.words["B3_UW1"] == "moonshower"
    severity = {name: one.severity for name, one in found.speakers.items()}
    assert severity == {"M04": 4, "F03": 4, "M16": 3, "F04": 2, "M14": 1}
    assert [severity_of(percent) for percent in (2, 25, 28, 62, 90.4)] == [4, 4, 3, 2, 1]
    content = WORD_LIST.read_bytes()
    for number, damaged in enumerate((b"", b"WORD,FILE NAME\n", content[:600], content[:1500], b"\0" * 4000)):
        file = tmp_path / f"{number}.xls"
        file.write_bytes(damaged)
        with pytest.raises(DamagedDataError, match="not a workbook of Excel 97"):
            read_word_list(file)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Set a timer.", [Segment(None, None, "Set a timer.")]),
        ("#dis\nSet [cough] a {u: um} timer.", [Segment(None, None, "Set a timer.")]),
        ("#dis Set a\ntimer.", [Segment(None, None, "Set a timer.")]),
        (
            "#ts\n0.5 1.25 hello there\n2 3.5 [laugh] bye",
            [Segment(0.5, 1.25, "hello there"), Segment(2.0, 3.5, "bye")],
        ),
        ("[noise]", [Segment(None, None, "")]),
    ],
)
def test_speech_accessibility_transcripts(text, found):
    assert read_transcript(text) == found


@pytest.mark.parametrize("text", ["#ts\n2 1 backwards", "#ts\nhello there you", "#ts\n3"])
def test_time_stamps_that_are_none(text):
    with pytest.raises(ValueError):  # noqa: PT011 - several reasons
        read_transcript(text)


def _entry(name, transcript, **others):
    prompt = {
        "Transcript": transcript,
        "Category Description": "Digital Assistant Commands",
        "Prompt Text": "stop",
    }
    return {"Filename": name, "Prompt": prompt, **others}


def _speech_accessibility(root):
    first, second = "0a1b2c3d-0001", "0a1b2c3d-0002"
    for number in (1, 2, 3, 4):
        _sound(root / "Train" / first / f"{first}_12_{number}.wav", 4.0)
    _sound(root / "elsewhere" / f"{second}_1_1.wav")
    entries = [
        _entry(f"{first}_12_1.wav", "Stop!", Ratings=[{"Level": 2}]),
        _entry(f"{first}_12_2.wav", "#ts\n0.5 1.5 turn it off\n2 3 please"),
        _entry(f"{first}_12_3.wav", "[cough]"),
        _entry(f"{first}_12_4.wav", "#ts\n2 1 wrong"),
        _entry(f"{first}_99_9.wav", "no recording"),
        _entry(f"C:\\export\\{first}_12_1.wav", "again"),
        {"Filename": f"{first}_12_1.wav"},
        "nonsense",
    ]
    record = {"Etiology": "ALS", "Contributor ID": first, "Files": entries, "New Field": 1}
    (root / "Train" / first / f"{first}.json").write_text(json.dumps(record))
    (root / "json").mkdir()
    entries = [{"Filename": f"{second}_1_1.wav", "Prompt": {"Transcript": "My day was fine"}}]
    (root / "json" / f"{second}.json").write_text(
        json.dumps({"Etiology": "Parkinson's Disease", "Files": entries})
    )
    (root / "2023-10-05_Split.json").write_text(json.dumps({"Train": [first]}))
    (root / "json" / "broken.json").write_text("{")
    return first, second


def test_speech_accessibility(tmp_path):
    first, second = _speech_accessibility(tmp_path)
    found = read_speech_accessibility(tmp_path)
    rows = {one.utt_id: one for one in found.utterances}
    assert {name: (one.text, one.start, one.end, one.speaker) for name, one in rows.items()} == {
        f"{first}_12_1": ("Stop!", None, None, first),
        f"{first}_12_2_1": ("turn it off", 0.5, 1.5, first),
        f"{first}_12_2_2": ("please", 2.0, 3.0, first),
        f"{second}_1_1": ("My day was fine", None, None, second),
    }
    assert rows[f"{first}_12_1"].extra["other"] == {"Ratings": [{"Level": 2}]}
    assert (rows[f"{first}_12_1"].domain, rows[f"{first}_12_1"].extra["split"]) == (
        "home_automation",
        "train",
    )
    assert found.counts() == {
        "entry without file name or transcript": 2, "transcript without words": 1,
        "time stamps that cannot be read": 1, "no recording of that name": 1,
        "recording that an earlier entry has": 1, "JSON that cannot be read": 1,
    }  # fmt: skip
    assert {one.speaker: one.etiology for one in found.speakers} == {
        first: "ALS",
        second: "Parkinson's Disease",
    }
    assert len(found.notes) == 2  # both segments differ from their prompt
    assert {one.utt_id: one.duration_s for one in measured(found).utterances}[f"{first}_12_2_1"] == 1.0
    assert domain_of("Spontaneous Speech Prompts") == "conversational"
    assert domain_of("Novel Sentences") == "other"


CONSENT = {"consentId": "study", "version": 1, "consentTimestamp": 1, "revokeTimestamp": 0}


def _recording(root, speaker, stamp, *, wav=True, **changes):
    name = f"2023-06-05_{stamp}"
    record = {
        "euid": speaker, "name": name, "platform": "audiotoolv1", "project": "set", "task": "t1",
        "taskType": "prompt", "prompt": "Turn it on", "transcript": "Turn it on", "timestamp": stamp,
        "localDate": "2023-06-05", "utcOffset": -4, "fileSize": 3244, "mimeType": "audio/wav",
        "consents": [CONSENT], "language": "en-US", "deviceInfo": {"family": "Chrome"},
    }  # fmt: skip
    record |= changes
    if wav:
        _sound(root / speaker / f"{name}.wav")
    (root / speaker).mkdir(exist_ok=True)
    kept = {key: value for key, value in record.items() if value is not None}
    (root / speaker / f"{name}.json").write_text(json.dumps(kept))


def test_audiotool(tmp_path):
    _recording(tmp_path, "E00001", 1)
    _recording(tmp_path, "E00001", 2, transcript="Turn it off")
    _recording(tmp_path, "E00001", 3, taskType="response", transcript=None)
    _recording(tmp_path, "E00001", 4, taskType="response", transcript="I like tea", fileSize=9)
    _recording(tmp_path, "E00001", 5, taskType=None)
    _recording(tmp_path, "E00001", 6, euid="E00009")
    _recording(tmp_path, "E00001", 7, wav=False)
    _sound(tmp_path / "E00001" / "2023-06-05_8.wav")
    _recording(tmp_path, "E00001", 9)
    (tmp_path / "E00001" / "2023-06-05_9.json").write_text("[1]")
    found = read_audiotool(tmp_path)
    rows = [(one.utt_id, one.text, one.transcript_status) for one in found.utterances]
    assert rows == [
        ("E00001_2023-06-05_1", "Turn it on", "prompt_assumed"),
        ("E00001_2023-06-05_2", "Turn it off", "verified"),
        ("E00001_2023-06-05_4", "I like tea", "verified"),
        ("E00001_2023-06-05_5", "Turn it on", "prompt_assumed"),
    ]
    assert found.counts() == {
        "no transcript": 1, "metadata of another speaker": 1, "no metadata": 1,
        "metadata that cannot be read": 1, "metadata without recording": 1,
    }  # fmt: skip
    assert found.notes == (Dropped("E00001/2023-06-05_4.wav", "file of another size than its metadata says"),)
    assert "deviceInfo" not in found.utterances[0].extra
    assert found.utterances[0].prompt_id == "t1"


def test_audiotool_takes_only_what_consent_covers(tmp_path):
    revoked = {**CONSENT, "revokeTimestamp": 50}
    second = {**CONSENT, "version": 2}
    _recording(tmp_path, "E1", 1, consents=[])
    _recording(tmp_path, "E1", 2, consents=[revoked])
    _recording(tmp_path, "E2", 1)  # a later recording tells that this consent was revoked
    _recording(tmp_path, "E2", 2, consents=[{**CONSENT, "consentId": "other"}, revoked])
    _recording(tmp_path, "E3", 1)  # gave version 1, took it back, then gave version 2
    _recording(tmp_path, "E3", 2, consents=[revoked, second])
    _recording(tmp_path, "E4", 1)  # version 2 superseded version 1, and was taken back
    _recording(
        tmp_path, "E4", 2, consents=[{**CONSENT, "superseded": True}, {**second, "revokeTimestamp": 9}]
    )
    _recording(tmp_path, "E5", 1)
    _recording(tmp_path, "E6", 1)
    _recording(tmp_path, "E6", 2, consents=[{**CONSENT, "superseded": True}, second])
    found = read_audiotool(tmp_path, withdrawn=["E5"])
    assert [one.utt_id for one in found.utterances] == [
        "E3_2023-06-05_2", "E6_2023-06-05_1", "E6_2023-06-05_2",
    ]  # fmt: skip
    assert found.counts() == {"consent revoked": 7, "no consent": 1}
    assert [one.speaker for one in found.speakers] == ["E3", "E6"]
