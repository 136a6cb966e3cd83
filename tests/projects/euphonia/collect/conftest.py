"""Recordings, and a page's side of the server without a browser."""

import contextlib
import hashlib
import http.client
import io
import json
import socket
import threading
import time
import uuid
import wave

import numpy as np
import pytest
import uvicorn

from offsites_jax.projects.euphonia.collect import commands, server
from offsites_jax.projects.euphonia.collect.collection import create_collection
from offsites_jax.projects.euphonia.collect.consent import SAMPLE, read_consent
from offsites_jax.projects.euphonia.collect.phrases import shipped_phrases
from offsites_jax.projects.euphonia.collect.prompts import PromptPlan, build_prompts

TOKENS = ("token-of-the-first", "token-of-the-second")


def make_sound(seconds=1.5, seed=0, level=0.3):
    """A WAV file of a buzz between two silences."""
    rate = 16000
    time_ = np.arange(round(seconds * rate)) / rate
    rng = np.random.default_rng(seed)
    voiced = (time_ > 0.4) & (time_ < seconds - 0.4)
    samples = level * np.sin(2 * np.pi * 150 * time_) * voiced + rng.normal(0, 1e-3, time_.shape)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(rate)
        stream.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


class Client:
    """The page's side, without a browser; `sound` is what it records unless told."""

    sound = make_sound()

    def __init__(self, port, token):
        self.port = port
        self.token = token

    def call(self, method, path, body=None, **headers):
        """Status and JSON of an answer; a dict is sent as JSON."""
        if isinstance(body, dict):
            body, headers = json.dumps(body), {"Content-Type": "application/json", **headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Authorization": f"Bearer {self.token}", **headers})
            response = connection.getresponse()
            content = response.read()
            self.headers = response.headers
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(content) if is_json else content

    def ok(self, *arguments, **headers):
        status, answer = self.call(*arguments, **headers)
        assert status == 200, answer
        return answer

    def agree(self):
        form = self.ok("GET", "/api/session")["consent"]
        return self.ok("POST", "/api/consent", {"id": form["id"], "version": form["version"]})

    def ticket(self, data=None, prompt=0, **changes):
        """What is announced of a recording."""
        data = self.sound if data is None else data
        return {
            "id": str(uuid.uuid4()),
            "prompt_id": self.ok("GET", "/api/session")["prompts"][prompt]["prompt_id"],
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "local_date": "2026-03-01T10:20:30",
            "utc_offset": 60,
        } | changes

    def put(self, ticket, data, offset=0):
        return self.call("PUT", f"/api/uploads/{ticket['id']}?offset={offset}", data)

    def record(self, data=None, prompt=0):
        """Announce and send; the recording as the page sees it."""
        data = self.sound if data is None else data
        ticket = self.ticket(data, prompt)
        assert self.ok("POST", "/api/uploads", ticket) == {"offset": 0, "recording": None}
        status, answer = self.put(ticket, data)
        assert status == 200, answer
        return answer["recording"]

    def raw(self, request):
        """The first line of the answer to bytes that no client would send."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(request)
            return connection.makefile("rb").readline().decode()

    def break_off(self, ticket, data):
        """Promise all bytes, send these, and hang up."""
        head = (
            f"PUT /api/uploads/{ticket['id']}?offset=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {self.token}\r\nContent-Length: {ticket['size']}\r\n\r\n"
        )
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(head.encode() + data)
        return connection


@contextlib.contextmanager
def serving(app):
    """Port of an application in a thread of its own."""
    with commands._listen("127.0.0.1", 0) as listener:
        instance = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=instance.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            instance.should_exit = True
            thread.join()


@pytest.fixture(name="make_sound")
def _make_sound():
    return make_sound


@pytest.fixture(name="make_client")
def _make_client():
    """A client of a port and token."""
    return Client


@pytest.fixture(name="wait_until")
def _wait_until():
    return wait_until


def wait_until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    assert holds()


@pytest.fixture
def study(tmp_path):
    made = create_collection(tmp_path / "study")
    plan = PromptPlan(4, 0)
    speakers = [made.add_speaker(build_prompts(shipped_phrases(), seed, plan)) for seed in "ab"]
    return server.Study(made, read_consent(SAMPLE), dict(zip(TOKENS, speakers, strict=True)))


@pytest.fixture
def port(study):
    with serving(server.create_app(study)) as port:
        yield port


@pytest.fixture
def client(port):
    return Client(port, TOKENS[0])


@pytest.fixture
def agreed(client):
    client.agree()
    return client


@pytest.fixture
def other(port):
    """The second speaker, who agreed too."""
    client = Client(port, TOKENS[1])
    client.agree()
    return client


@pytest.fixture
def folder(study):
    """Where the recordings of the first speaker lie."""
    return study.collection.folder / "recordings" / study.tokens[TOKENS[0]]
