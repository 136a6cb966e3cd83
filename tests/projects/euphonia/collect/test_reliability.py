"""What is deleted is gone; what is recorded survives a full disk and a killed server."""

import contextlib
import re
import signal
import subprocess
import sys

import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.collect import collection as collections
from offsites_jax.projects.euphonia.collect import commands


def test_a_deleted_recording_is_gone_and_stays_gone(agreed, study, folder):
    ticket = agreed.ticket()
    agreed.ok("POST", "/api/uploads", ticket)
    name = agreed.put(ticket, agreed.sound)[1]["recording"]["name"]
    agreed.ok("DELETE", f"/api/recordings/{name}")
    assert not list(folder.iterdir())
    assert agreed.call("GET", f"/api/recordings/{name}")[0] == 404
    assert agreed.call("DELETE", f"/api/recordings/{name}")[0] == 404
    assert agreed.call("POST", "/api/uploads", ticket)[0] == 410
    [row] = study.collection.tombstones()
    assert (row["kind"], row["name"], row["version"]) == ("recording", name, 1)
    assert "prompt" not in row
    assert agreed.record()["version"] == 2


def test_deleting_everything_leaves_one_line(agreed, other, study):
    agreed.record()
    agreed.record(prompt=1)
    agreed.ok("POST", "/api/uploads", agreed.ticket(prompt=2))
    other.record()
    assert agreed.ok("DELETE", "/api/speaker") == {"deleted": 2}
    assert agreed.call("GET", "/api/session")[0] == 410
    left = [path for path in study.collection.folder.rglob("*") if study.tokens[agreed.token] in str(path)]
    assert not left
    assert not list((study.collection.folder / "uploads").iterdir())
    [row] = study.collection.tombstones()
    assert set(row) == {"kind", "speaker", "recordings", "deleted"}
    assert len(other.ok("GET", "/api/session")["recordings"]) == 1
    with pytest.raises(UserError, match="used before"):
        study.collection.add_speaker([], study.tokens[agreed.token])


def test_a_full_disk_loses_nothing(agreed, monkeypatch, capsys, folder):
    ticket = agreed.ticket()
    agreed.ok("POST", "/api/uploads", ticket)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(collections, "write_json", full)
        assert agreed.put(ticket, agreed.sound)[0] == 507
    assert "No space left" in capsys.readouterr().out
    assert agreed.ok("GET", "/api/session")["recordings"] == []
    assert agreed.ok("POST", "/api/uploads", ticket)["recording"]["rating"] == "good"
    assert len(list(folder.glob("*.wav"))) == 1


def start(study, make_client):
    """The command in a process of its own, and the port and token of the link it prints."""
    code = "import sys; from offsites_jax.projects.euphonia.collect.commands import collect; "
    code += "collect(sys.argv[1], port=0, unique=4, repeated=0)"
    process = subprocess.Popen([sys.executable, "-c", code, str(study)], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        link = re.search(r"http://127\.0\.0\.1:(\d+)/#token=(\S+)", line)
        if link:
            return process, make_client(int(link[1]), link[2])
    raise AssertionError("no link was printed")


def test_a_server_killed_within_an_upload_goes_on(tmp_path, wait_until, make_sound, make_client):
    data = make_sound(20.0)  # more than fits into any buffer on the way
    process, client = start(tmp_path / "study", make_client)
    try:
        client.agree()
        ticket = client.ticket(data)
        client.ok("POST", "/api/uploads", ticket)
        part = tmp_path / "study" / "uploads" / ticket["id"] / "audio.part"
        with contextlib.closing(client.break_off(ticket, data[: len(data) // 2])):
            wait_until(lambda: part.exists() and part.stat().st_size > len(data) // 4)
            process.kill()
            process.wait()
        assert not list((tmp_path / "study").rglob("*.wav"))
        old = client.token
        process, client = start(tmp_path / "study", make_client)
        assert client.token != old
        answer = client.ok("POST", "/api/uploads", ticket)
        assert len(data) // 4 < answer["offset"] <= len(data) // 2
        status, answer = client.put(ticket, data[answer["offset"] :], answer["offset"])
        assert (status, answer["recording"]["version"]) == (200, 1)
        [path] = (tmp_path / "study").rglob("*.wav")
        assert path.read_bytes() == data
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_second_server_on_the_same_folder_is_refused(study):
    with (
        commands._alone(study.collection),
        pytest.raises(UserError, match="another server"),
        commands._alone(study.collection),
    ):
        pass


def test_other_computers_need_https(tmp_path):
    with pytest.raises(UserError, match="without https"):
        commands.collect(str(tmp_path / "study"), host="0.0.0.0")
    assert not (tmp_path / "study").exists()
