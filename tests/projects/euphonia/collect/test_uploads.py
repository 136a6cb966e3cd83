"""Recordings on their way in: in pieces, twice, damaged, too large, and what lies on disk in the end."""

import contextlib
import hashlib
import json
import re
import uuid

import pytest


def test_a_recording_lies_on_disk_with_its_metadata(agreed, study, folder):
    shown = agreed.record()
    [path] = folder.glob("*.wav")
    metadata = json.loads(path.with_suffix(".json").read_text())
    speaker = study.tokens[agreed.token]
    prompt = study.collection.prompts(speaker)[metadata["task"]]
    assert path.read_bytes() == agreed.sound
    assert re.fullmatch(r"20260301T102030_\d{13}", path.stem)
    assert (metadata["euid"], metadata["name"], metadata["prompt"]) == (speaker, path.name, prompt.text)
    assert (metadata["fileSize"], metadata["utcOffset"]) == (len(agreed.sound), 60)
    [consent] = metadata["consents"]
    assert (consent["consentId"], consent["version"], consent["revokeTimestamp"]) == ("sample", 1, 0)
    own = metadata["offsites"]
    assert (own["sampleRate"], own["seconds"], own["version"]) == (16000, 1.5, 1)
    assert own["quality"]["snr_db"] > 30
    assert shown["rating"] == own["rating"] == "good"
    assert shown["sha256"] == hashlib.sha256(agreed.sound).hexdigest()
    assert not list((study.collection.folder / "uploads").iterdir())
    assert [one["name"] for one in agreed.ok("GET", "/api/session")["recordings"]] == [path.stem]


def test_a_poor_recording_is_kept_and_said_to_be_poor(agreed):
    silence = agreed.sound[:44] + bytes(len(agreed.sound) - 44)
    shown = agreed.record(silence)
    assert shown["rating"] == "again"
    assert shown["remarks"][0].startswith("We could not hear any speech")


def test_recording_again_makes_a_new_version_and_touches_nothing(agreed, folder, make_sound):
    first = agreed.record()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    second = agreed.record(make_sound(seed=1))
    assert (first["version"], second["version"]) == (1, 2)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before.items() < after.items()
    assert len(after) == 4


def test_saying_everything_twice_changes_nothing(agreed, folder):
    ticket = agreed.ticket()
    for _ in range(2):
        assert agreed.ok("POST", "/api/uploads", ticket)["offset"] == 0
    recording = agreed.put(ticket, agreed.sound)[1]["recording"]
    for _ in range(2):
        assert agreed.ok("POST", "/api/uploads", ticket)["recording"] == recording
    assert agreed.put(ticket, agreed.sound)[0] == 404  # it is no upload any more
    assert len(list(folder.glob("*.wav"))) == 1
    assert agreed.call("POST", "/api/uploads", ticket | {"prompt_id": "p0"})[1]["recording"] == recording


def test_an_upload_goes_on_where_it_broke_off(agreed, study, folder, wait_until):
    ticket = agreed.ticket()
    agreed.ok("POST", "/api/uploads", ticket)
    part = study.collection.folder / "uploads" / ticket["id"] / "audio.part"
    with contextlib.closing(agreed.break_off(ticket, agreed.sound[:20000])):
        wait_until(lambda: part.exists() and part.stat().st_size == 20000)
    wait_until(lambda: agreed.put(ticket, b"", 7)[1].get("offset") == 20000)  # the old connection is gone
    assert agreed.ok("POST", "/api/uploads", ticket) == {"offset": 20000, "recording": None}
    assert agreed.put(ticket, agreed.sound[20000:30000], 20000) == (200, {"offset": 30000, "recording": None})
    assert agreed.put(ticket, agreed.sound[30000:], 30000)[1]["recording"]["rating"] == "good"
    [path] = folder.glob("*.wav")
    assert path.read_bytes() == agreed.sound


def test_two_connections_do_not_mix(agreed, study, wait_until):
    ticket = agreed.ticket()
    agreed.ok("POST", "/api/uploads", ticket)
    part = study.collection.folder / "uploads" / ticket["id"] / "audio.part"
    with contextlib.closing(agreed.break_off(ticket, agreed.sound[:100])):
        wait_until(lambda: part.exists() and part.stat().st_size == 100)
        assert agreed.put(ticket, agreed.sound)[1]["busy"]


def test_bytes_that_differ_are_sent_again(agreed):
    ticket = agreed.ticket()
    agreed.ok("POST", "/api/uploads", ticket)
    damaged = agreed.sound[:-1] + bytes([agreed.sound[-1] ^ 1])
    status, answer = agreed.put(ticket, damaged)
    assert (status, answer["offset"]) == (409, 0)
    assert agreed.put(ticket, agreed.sound)[1]["recording"]["version"] == 1


def test_more_than_was_announced_is_not_written(agreed, study, folder):
    ticket = agreed.ticket(size=1000)
    agreed.ok("POST", "/api/uploads", ticket)
    assert agreed.put(ticket, agreed.sound)[0] == 413
    assert (study.collection.folder / "uploads" / ticket["id"] / "audio.part").stat().st_size <= 1000
    assert not list(folder.iterdir())


@pytest.mark.parametrize("kind", ["text", "cut", "short"])
def test_what_is_no_recording_leaves_nothing(agreed, study, kind, folder):
    data = {"text": b"x" * 5000, "cut": agreed.sound[:-100], "short": agreed.sound[:100]}[kind]
    ticket = agreed.ticket(data)
    agreed.ok("POST", "/api/uploads", ticket)
    assert agreed.put(ticket, data)[0] == 422
    assert not list((study.collection.folder / "uploads").iterdir())
    assert not list(folder.iterdir())


MALFORMED = (
    ({"size": 20 * 2**20 + 1}, 413),
    ({"size": 0}, 400),
    ({"size": True}, 400),
    ({"size": "9"}, 400),
    ({"sha256": "A" * 64}, 400),
    ({"id": "../../collection"}, 400),
    ({"id": str(uuid.uuid4()) + "\n"}, 400),
    ({"prompt_id": "../x"}, 404),
    ({"prompt_id": 3}, 400),
    ({"local_date": "2026-03-01T10:20:30/../.."}, 400),
    ({"utc_offset": 10**9}, 400),
    ({"device": []}, 400),
)


def test_malformed_announcements_are_refused(agreed, study):
    for changes, status in MALFORMED:
        assert agreed.call("POST", "/api/uploads", agreed.ticket() | changes)[0] == status, changes
    assert not list((study.collection.folder / "uploads").iterdir())


def test_only_small_json_is_read(agreed):
    assert agreed.call("POST", "/api/uploads", "{}", **{"Content-Type": "text/plain"})[0] == 415
    for body, status in ((b"{" * 10**5, 413), (b"[" * 9000, 400), (b"\xff", 400), (b"[]", 400)):
        assert agreed.call("POST", "/api/skips", body, **{"Content-Type": "application/json"})[0] == status
    for offset in ("-1", "x", "", "9" * 40):
        assert agreed.call("PUT", f"/api/uploads/{uuid.uuid4()}?offset={offset}", b"")[0] == 400


def test_there_is_no_place_for_a_name(agreed, study):
    ticket = agreed.ticket(name="Ann Example", email="ann@example.org", speaker="ann")
    ticket["device"] = {"userAgent": "Browser/1", "label": "Ann's headset", "sampleRate": 16000}
    agreed.ok("POST", "/api/uploads", ticket)
    agreed.put(ticket, agreed.sound)
    files = [path for path in study.collection.folder.rglob("*") if path.suffix in (".json", ".jsonl")]
    texts = [path.read_text().lower() for path in files]
    assert len(files) >= 6
    assert not [text for text in texts if "example" in text or "ann's" in text or "ann@" in text]
    assert any('"browser/1"' in text for text in texts)


def test_skipped_prompts_are_noted_until_they_are_recorded(agreed):
    prompt = agreed.ticket()["prompt_id"]
    for _ in range(2):
        assert agreed.ok("POST", "/api/skips", {"prompt_id": prompt})["skipped"] == [prompt]
    assert agreed.call("POST", "/api/skips", {"prompt_id": "p0"})[0] == 404
    agreed.record()
    assert agreed.ok("GET", "/api/session")["skipped"] == []
