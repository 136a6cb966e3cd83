"""Readers of open corpora on made-up trees of the published layout, with their known traps."""

import dataclasses
import gzip
import json

import av
import numpy as np
import pytest
import soundfile

from offsites_jax.data.audio import LogMelConfig
from offsites_jax.data.text.graphemes import GraphemeTokenizer
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.corpora.common_voice import read_common_voice
from offsites_jax.projects.euphonia.corpora.corpus import Corpus, Dropped, measured, write_corpus
from offsites_jax.projects.euphonia.corpora.euphonia_app import read_euphonia_app
from offsites_jax.projects.euphonia.corpora.librispeech import read_librispeech
from offsites_jax.projects.euphonia.corpora.memorize import memory_split
from offsites_jax.projects.euphonia.corpora.own import read_own
from offsites_jax.projects.euphonia.corpora.readers import READERS, import_corpus
from offsites_jax.projects.euphonia.corpora.torgo import clean_prompt, read_torgo
from offsites_jax.projects.euphonia.manifest import Utterance, read_manifest
from offsites_jax.projects.euphonia.prepared import open_records, prepare, samples_of
from offsites_jax.projects.euphonia.speakers import read_speakers
from offsites_jax.projects.euphonia.splits import Parts, check_split, make_split


def _sound(path, seconds=0.1, rate=16000, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(seconds * rate), np.float32), rate, **options)


def _text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _librispeech(root):
    chapter = root / "LibriSpeech" / "dev-clean" / "84" / "121123"
    for number in (0, 1, 3):
        _sound(chapter / f"84-121123-000{number}.flac", 0.1 + number / 10)
    _text(
        chapter / "84-121123.trans.txt",
        "84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT IN LESS THAN FIVE MINUTES\n84-121123-0002 LOST\n",
    )
    _sound(root / "LibriSpeech" / "test-other" / "367" / "130732" / "367-130732-0000.flac")
    _text(
        root / "LibriSpeech" / "test-other" / "367" / "130732" / "367-130732.trans.txt",
        "367-130732-0000 LOBSTERS\n",
    )
    _text(root / "LibriSpeech" / "SPEAKERS.TXT", ";ID |SEX| SUBSET\n84 | F | dev-clean | 8.02 | x\n")


def test_librispeech(tmp_path):
    _librispeech(tmp_path)
    found = read_librispeech(tmp_path)
    named = [(one.utt_id, one.speaker, one.text, one.extra["subset"]) for one in found.utterances]
    assert named == [
        ("84-121123-0000", "84", "GO DO YOU HEAR", "dev-clean"),
        ("84-121123-0001", "84", "BUT IN LESS THAN FIVE MINUTES", "dev-clean"),
        ("367-130732-0000", "367", "LOBSTERS", "test-other"),
    ]
    assert found.counts() == {"recording without text": 1, "text without recording": 1}
    assert {one.speaker: (one.etiology, one.severity) for one in found.speakers} == {
        "367": ("typical", 0), "84": ("typical", 0),
    }  # fmt: skip
    only = read_librispeech(tmp_path / "LibriSpeech", ["test-other"])
    assert [one.utt_id for one in only.utterances] == ["367-130732-0000"]
    with pytest.raises(UserError, match="no folder train-clean-100; it has dev-clean, test-other"):
        read_librispeech(tmp_path, ["train-clean-100"])


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("Stick\n", ("Stick", "")),
        ("bear [as in animal]", ("bear", "")),
        ("tear [as in tear up that paper", ("tear", "")),
        ("\x1b[0m\x1b[31mThe quick  brown fox.\x1b[0m\r\n", ("The quick brown fox.", "")),
        ("[say 'Ah-P-Eee' repeatedly]", ("", "prompt is an instruction")),
        ("input/images/picnic.jpg", ("", "prompt is a picture")),
        ("input\\images\\x.JPG", ("", "prompt is a picture")),
        ("xxx", ("", "prompt says xxx")),
        (" \n", ("", "empty prompt")),
    ],
)
def test_torgo_prompts(prompt, found):
    assert clean_prompt(prompt) == found


def _torgo(root):
    session = root / "F" / "F01" / "Session1_2"
    prompts = ["stick", "[relax your mouth]", "bear [as in animal]", "xxx", "input/images/a.jpg"]
    for number, prompt in enumerate(prompts, start=1):
        _text(session / "prompts" / f"{number:04d}.txt", prompt)
        _sound(session / "wav_headMic" / f"{number:04d}.wav")
        _sound(session / "wav_arrayMic" / f"{number:04d}.wav")
    _sound(session / "wav_headMic" / "0009.wav")
    _text(session / "prompts" / "0010.txt", "nobody said this")
    (session / "wav_headMic" / "._0001.wav").write_bytes(b"resource fork")
    only_array = root / "F" / "F04" / "Session1"
    _text(only_array / "prompts" / "0001.txt", "pat")
    _sound(only_array / "wav_arrayMic" / "0001.wav")
    _text(root / "F" / "F04" / "Notes" / "0001.txt", "not a session")
    control = root / "FC" / "FC01" / "Session1"
    _text(control / "prompts" / "0256.txt", "sip")
    _sound(control / "wav_arrayMic" / "0256.wav", seconds=0)


def test_torgo(tmp_path):
    _torgo(tmp_path)
    found = read_torgo(tmp_path)
    assert [(one.utt_id, one.text) for one in found.utterances] == [
        ("F01_Session1_2_0001_head", "stick"), ("F01_Session1_2_0001_array", "stick"),
        ("F01_Session1_2_0003_head", "bear"), ("F01_Session1_2_0003_array", "bear"),
        ("F04_Session1_0001_array", "pat"), ("FC01_Session1_0256_array", "sip"),
    ]  # fmt: skip
    assert len({one.prompt_id for one in found.utterances}) == 4
    assert found.counts() == {
        "prompt is an instruction": 2, "prompt says xxx": 2, "prompt is a picture": 2,
        "recording without prompt": 1, "prompt without recording": 1,
    }  # fmt: skip
    assert found.notes == (
        Dropped("F/F04/Session1", "no recordings by the head microphone"),
        Dropped("FC/FC01/Session1", "no recordings by the head microphone"),
    )
    assert {one.speaker: one.severity for one in found.speakers} == {"F01": 3, "F04": 2, "FC01": 0}
    checked = measured(found)
    assert len(checked.utterances) == 5
    assert checked.dropped[-1] == Dropped("FC01_Session1_0256_array", "shorter than 32 ms")
    (head,) = read_torgo(tmp_path / "F" / "..", ["head"]).utterances[:1]
    assert head.extra == {"session": "Session1_2", "microphone": "head"}


def test_both_microphones_stay_on_one_side(tmp_path):
    for number in range(40):
        session = tmp_path / "M01" / "Session1"
        _text(session / "prompts" / f"{number:04d}.txt", f"word {number}")
        for microphone in ("head", "array"):
            (session / f"wav_{microphone}Mic").mkdir(exist_ok=True)
            (session / f"wav_{microphone}Mic" / f"{number:04d}.wav").write_bytes(b"")
    rows = read_torgo(tmp_path).utterances
    split = make_split(rows, least_utterances=1)
    check_split(split, rows)
    for part in split.speakers["M01"]:
        assert (
            sum(name.endswith("_head") for name in part) == sum(name.endswith("_array") for name in part) > 0
        )


COLUMNS = "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tage\n"


def _common_voice(root):
    folder = root / "cv-corpus-17.0" / "en"
    for number in range(4):
        _sound(folder / "clips" / f"common_voice_en_{number}.mp3", 0.3, 32000, format="MP3")
    _text(
        folder / "train.tsv",
        COLUMNS
        + 'abc\tcommon_voice_en_0.mp3\ts0\t"Why not?" he asked\t\t2\ttwenties\n'
        + 'abc\tcommon_voice_en_1.mp3\ts1\tan "unclosed quote\t\t2\t\n'
        + "abc\tcommon_voice_en_9.mp3\ts9\tno such clip\t\t2\t\n"
        + "abc\tcommon_voice_en_2.mp3\ts2\t...\t\t2\t\n"
        + "abc\tcommon_voice_en_2.mp3\n",
    )
    _text(folder / "test.tsv", COLUMNS + "def\tcommon_voice_en_3.mp3\ts3\tHello\t\t2\t\n")
    again = "def\tcommon_voice_en_3.mp3\ts3\tHello\t\t2\t\n"
    _text(folder / "validated.tsv", COLUMNS + again + "abc\tcommon_voice_en_0.mp3\ts0\tWhy\t\t2\t\n")
    _text(folder / "clip_durations.tsv", "clip\tduration[ms]\ncommon_voice_en_0.mp3\t4320\n")
    return folder


def test_common_voice(tmp_path):
    folder = _common_voice(tmp_path)
    found = read_common_voice(folder.parent, "en", ["train", "test", "validated"])
    assert [(one.utt_id, one.text) for one in found.utterances] == [
        ("common_voice_en_0", '"Why not?" he asked'),
        ("common_voice_en_1", 'an "unclosed quote'),
        ("common_voice_en_3", "Hello"),
    ]
    first = found.utterances[0]
    assert (first.duration_s, first.prompt_id) == (4.32, "s0")
    assert first.extra == {"split": "train", "age": "twenties"}
    assert found.counts() == {
        "clip that another table or row has": 2, "row of another length": 1, "no clip of that name": 1,
        "sentence without words": 1,
    }  # fmt: skip
    assert [one.speaker for one in found.speakers] == ["abc", "def"]
    checked = measured(found).utterances[0]
    assert checked.sample_rate == 32000
    assert checked.duration_s == pytest.approx(0.3, abs=0.1)  # MP3 pads
    with pytest.raises(UserError, match=r"dev.tsv: no such file"):
        read_common_voice(folder)
    with pytest.raises(UserError, match="no clips"):
        read_common_voice(tmp_path, "fr")


def test_euphonia_app(tmp_path):
    for index, phrase in ((0, "Turn on the light"), (2, "What time is it?"), (10, "Call Mom")):
        _text(tmp_path / "data" / str(index) / "phrase.txt", phrase + "\n")
        _sound(tmp_path / "data" / str(index) / "recording.wav")
    _text(tmp_path / "data" / "3" / "phrase.txt", "Never recorded")
    _sound(tmp_path / "data" / "4" / "recording.wav")
    found = read_euphonia_app(tmp_path, "E1")
    assert [(one.utt_id, one.prompt_id, one.text) for one in found.utterances] == [
        ("E1_0", "0", "Turn on the light"), ("E1_2", "2", "What time is it?"), ("E1_10", "10", "Call Mom"),
    ]  # fmt: skip
    assert found.counts() == {"phrase without recording": 1, "recording without phrase": 1}
    with pytest.raises(UserError, match="no folders 0, 1, 2"):
        read_euphonia_app(tmp_path / "data" / "3", "E1")


def test_own_folders(tmp_path):
    _sound(tmp_path / "anna" / "a.wav")
    _text(tmp_path / "anna" / "a.txt", "turn on\nthe light\n")
    _sound(tmp_path / "anna" / "b.flac")
    _text(tmp_path / "anna" / "c.txt", "no sound")
    _text(tmp_path / "speakers.csv", "speaker,severity\nanna,2\n")
    found = read_own(tmp_path)
    assert [(one.utt_id, one.speaker, one.text) for one in found.utterances] == [
        ("anna_a", "anna", "turn on the light")
    ]
    assert found.counts() == {"recording without text": 1, "text without recording": 1}
    assert found.speakers[0].severity == 2


def test_own_manifest_lists_what_is_wrong(tmp_path):
    _sound(tmp_path / "a.wav")
    row = {"utt_id": "a", "speaker": "anna", "audio": "a.wav", "text": "hello"}
    bad = {**row, "utt_id": "b", "audio": "none.wav"}
    _text(tmp_path / "manifest.jsonl", f"{json.dumps(row)}\n{json.dumps(bad)}\n")
    found = read_own(tmp_path)
    assert [one.utt_id for one in found.utterances] == ["a"]
    assert found.dropped == (Dropped("manifest.jsonl row 2", "audio: no such file"),)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no manifest.jsonl"):
        read_own(tmp_path / "empty")


def test_headers_are_read_and_bad_recordings_dropped(tmp_path):
    _sound(tmp_path / "good.wav", 2.0)
    _sound(tmp_path / "phone.wav", 1.0, 8000)
    _sound(tmp_path / "slow.wav", 1.0, 4000)
    _sound(tmp_path / "click.wav", 0.02)
    (tmp_path / "text.wav").write_bytes(b"this is no sound")
    names = ("good", "phone", "slow", "click", "text", "none")
    rows = [Utterance(name, "s", str(tmp_path / f"{name}.wav"), "hello") for name in names]
    spans = ((0.5, 1.5), (1.5, 2.05), (2.5, 3.0))
    rows += [
        Utterance(f"part{start}", "s", str(tmp_path / "good.wav"), "hello", start, end)
        for start, end in spans
    ]
    found = measured(Corpus(tuple(rows)))
    kept = {one.utt_id: (one.sample_rate, one.duration_s) for one in found.utterances}
    assert kept == {
        "good": (16000, 2.0), "phone": (8000, 1.0), "part0.5": (16000, 1.0), "part1.5": (16000, 0.5),
    }  # fmt: skip
    assert [one.utt_id for one in found.utterances if one.extra.get("bandlimited")] == ["phone"]
    assert {entry.item: entry.reason for entry in found.dropped} == {
        "slow": "sample rate below 8 kHz",
        "click": "shorter than 32 ms",
        "text": "audio that cannot be read",
        "none": "audio that cannot be read",
        "part2.5": "segment beyond the end of its recording",
    }


def test_import_writes_what_is_read_again(tmp_path):
    _torgo(tmp_path / "torgo")
    corpus, files = import_corpus("torgo", tmp_path / "torgo", tmp_path / "out", microphones=["array"])
    assert read_manifest(files["manifest.jsonl"]) == list(corpus.utterances)
    assert set(read_speakers(files["speakers.csv"])) == {"F01", "F04"} | {"FC01"}
    lines = [json.loads(line) for line in files["dropped.jsonl"].read_text().splitlines()]
    assert sum(line["dropped"] for line in lines) == len(corpus.dropped)
    assert corpus.summary().startswith("3 utterances of 2 speakers; left out: ")
    with pytest.raises(UserError, match="no corpus 'timit'; take one of librispeech, torgo"):
        import_corpus("timit", tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="nothing to write: 0 utterances"):
        write_corpus(Corpus(()), tmp_path / "none")


@pytest.mark.parametrize("kind", READERS)
def test_a_wrong_folder_is_one_line(tmp_path, kind):
    options = {"speaker": "E1"} if kind == "euphonia_app" else {}
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError) as caught:
            READERS[kind](folder, **options)
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)


ASTERISK = """\
; Core sounds
activated: Activated.
beep: [this is a simple beep tone]
digits/1: one
letters/at: at [@]
lost: Never recorded.
silence/1: (1 second of silence)
"""


def _asterisk(root, language, voice, encoding):
    """One language as in Debian's packages `asterisk-core-sounds-LANGUAGE` and `-wav` or `-g722`."""
    sounds = root / "usr/share/asterisk/sounds" / voice
    for name in ("activated", "beep", "digits/1", "letters/at", "silence/1"):
        file = sounds / f"{name}.{encoding}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if encoding == "wav":
            soundfile.write(file, np.zeros(8000, np.float32), 8000, "PCM_16")
        else:
            file.write_bytes(b"\x7f" * 8000)
    notes = root / f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
    notes.parent.mkdir(parents=True, exist_ok=True)
    notes.write_bytes(gzip.compress(ASTERISK.encode()))


def test_asterisk(tmp_path):
    _asterisk(tmp_path, "en", "en_US_f_Allison", "g722")
    _asterisk(tmp_path, "it", "it_IT_m_Carlo", "wav")
    english, files = import_corpus("asterisk", tmp_path, tmp_path / "out")
    assert [(one.utt_id, one.prompt_id, one.text) for one in english.utterances] == [
        ("en_activated", "activated", "Activated."), ("en_digits_1", "digits/1", "one"),
        ("en_letters_at", "letters/at", "at"),
    ]  # fmt: skip
    assert english.counts() == {"no words": 1, "no recording": 1, "silence": 1}
    assert {(one.sample_rate, one.duration_s, one.speaker) for one in english.utterances} == {
        (16000, 1.0, "Allison")
    }
    assert not any("bandlimited" in one.extra for one in english.utterances)
    assert read_manifest(files["manifest.jsonl"]) == list(english.utterances)
    italian, _ = import_corpus("asterisk", tmp_path, tmp_path / "out", language="it", encoding="wav")
    assert {(one.sample_rate, one.speaker, one.extra["bandlimited"]) for one in italian.utterances} == {
        (8000, "Carlo", True)
    }
    assert [one.prompt_id for one in italian.utterances] == [one.prompt_id for one in english.utterances]


def test_g722_is_prepared(tmp_path):
    """A tone that ends halfway, encoded as the packages are, comes out as loud and as long."""
    _asterisk(tmp_path, "en", "en_US_f_Allison", "g722")
    tone = (8000 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)).astype(np.int16)
    tone[8000:] = 0
    _g722(tmp_path / "usr/share/asterisk/sounds/en_US_f_Allison/activated.g722", tone)
    corpus, _ = import_corpus("asterisk", tmp_path, tmp_path / "out")
    found = prepare(
        corpus.utterances[:1], tmp_path, tmp_path / "prepared",
        splits={"en_activated": "train"}, tokenizer=GraphemeTokenizer(), features=LogMelConfig(mels=8),
    )  # fmt: skip
    samples = samples_of(open_records(found)[0]).astype(float)
    assert len(samples) == 16000
    heard, silence = samples[1000:7500], samples[9000:]
    assert np.sqrt(np.mean(heard**2)) == pytest.approx(8000 / np.sqrt(2), rel=0.05)
    assert np.abs(silence).max() < 100


def _g722(path, samples):
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


def test_readers_say_which_options_they_have(tmp_path):
    with pytest.raises(UserError, match=r"corpus torgo: .*'language'"):
        import_corpus("torgo", tmp_path, tmp_path / "out", language="en")
    with pytest.raises(UserError, match=r"corpus euphonia_app: .*'speaker'"):
        import_corpus("euphonia_app", tmp_path, tmp_path / "out")


def test_what_is_memorized_and_what_is_unheard():
    texts = {"a": "go on", "b": "Go on!", "c": "no", "d": "gong", "e": "stop", "f": "too long", "g": "on"}
    rows = [Utterance(name, "ann", f"{name}.wav", text, duration_s=2.0) for name, text in texts.items()]
    rows[5] = dataclasses.replace(rows[5], duration_s=4.5)
    split = memory_split(reversed(rows), 1)
    # b says the same; c and g hold no new letter, e does; d comes after c.
    assert split.speakers == {"ann": Parts(("a",), (), ("c",))}
    assert memory_split(rows, 3).speakers["ann"] == Parts(("a", "b", "c"), (), ("d", "g"))
    check_split(split, rows)
    with pytest.raises(UserError, match="6 utterances last 1 to 4 s, fewer than 7"):
        memory_split(rows, 7)
